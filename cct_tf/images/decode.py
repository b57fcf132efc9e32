"""The one way from the bytes of an image file to pixels: uint8 [H, W, 3], or another `pixel_type`.

* JPEG (1 or 3 components) and PNG (8 bits, grey or RGB) by TensorFlow's operations; JPEG with
  `dct_method="INTEGER_ACCURATE"`, which equals Pillow's decoder bit for bit (TensorFlow's default does not).
* Everything else (WebP, TIFF, BMP, GIF, CMYK JPEG, palettes, alpha, 16 bits, a rotated EXIF orientation; HEIF where
  pillow-heif is installed) by Pillow: first frame; orientation applied; palettes and grey expanded; alpha dropped, not
  blended; embedded colour profiles ignored.
* Of PNGs of 16 bits, and of grey TIFFs of 16 or 32, the highest 8 of `bit_depth` bits: 16 means the high byte, 12 suits
  what a 12-bit camera writes. `loading.used_bits` finds how many a data set uses. Of other files of more than 8 bits,
  the high byte.
* Of a pixel type with 16 bits, or with another number of channels than 1 and 3, the pixels are those that `as_stored`
  reads.
* Of more than `MAX_PIXELS` pixels nothing is decoded: a file of a few kB may stand for more than the memory holds.

    decode(contents)                     string scalar -> [H, W, 3]
    decode_part(contents, part)          the same, perhaps without what is not in the part, see `parts`
    decode_file(contents, name)          eager: bytes -> NumPy array; BrokenImage names the file
"""

import contextlib
import io
import re
import warnings

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cct_tf.errors import UserError, files_fault, storage_fault
from cct_tf.images import as_stored, damage, parts
from cct_tf.images import pixel_type as types
from cct_tf.images.pixel_type import RGB
from cct_tf.machine import files, python_calls

# An orientation tag (0x0112, one value) other than 1, in either byte order, as EXIF of JPEG and PNG stores it, or the
# same in XMP. \C is any byte. A chance match costs a slower decoder, never another result.
_ROTATED = (r"\C*(\x01\x12\x00[\x01-\x0d]\x00\x00\x00\x01(\x00|\x00\x00\x00|)[\x02-\x08]"
            r"|\x12\x01[\x01-\x0d]\x00\x01\x00\x00\x00[\x02-\x08]"
            r"|tiff:Orientation(=\"|>)[2-8])\C*")
_HOLDERS = (r"Exif\x00", r"http://ns.adobe.com/xap/1.0/\x00")  # what holds the tag in a JPEG
# RE2 takes \xff for a letter and not for a byte, so signatures are compared, not matched.
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PLAIN_PNG = r"\C{24}\x08[\x00\x02]"  # \C{24}: signature, IHDR's length and name, width, height
_JPEG_HEAD = 65536  # bytes searched for the orientation: EXIF follows the start of a JPEG, and the pixels are long

MOST_BITS = 31  # of a grey TIFF of 32 bits, which holds signed numbers

# 134 million. Decoding and resizing one such image took 4.4 GB, and several are prepared at once. A phone's 108 million
# pass; Pillow by itself warns from 89 million on and opens nothing above 179 million.
MAX_PIXELS = 2**27
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

with contextlib.suppress(ImportError):  # an optional extra; `tree.suffixes` looks for it too
    import pillow_heif
    pillow_heif.register_heif_opener()

_MARK = "broken image: "
_NO_NAME = "an image of the data set"  # where the file is not known
_LABEL_MARK = "label out of range: "


class BrokenImage(UserError):
    """An image that cannot be decoded. The message is `broken image: NAME: reason`."""


def _open(file):
    """Pillow's image of a file or its path, not decoded yet; ValueError if it is too large."""
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        found = f"{int(re.search('[0-9]+', str(error)).group()):,}"  # the sides are not told
    else:
        if image.width * image.height <= MAX_PIXELS:
            return image
        found = f"{image.width}x{image.height}"
        image.close()
    raise ValueError(f"expected at most {MAX_PIXELS:,} pixels, found {found}")


# By EXIF's orientation, as `ImageOps.exif_transpose` does it.
_TURNS = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
          6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a)}


def largest_value(contents):
    """The largest number in an image of more than 8 bits a channel, int; None if it has 8, or is broken."""
    try:
        wide = as_stored.wide_pixels(_open(io.BytesIO(contents)), contents)
    except Exception:  # reading it with the others will say what is wrong
        return None
    return None if wide is None else int(wide.max())


def _with_pillow(contents, bit_depth=16, pixel_type=RGB):
    """bytes -> pixels [H, W, C] by Pillow; raises whatever Pillow raises."""
    if pixel_type.bits == 8 and pixel_type.is_colour_or_grey:
        return types.levels_of(pixel_type, _eight_bits(contents, bit_depth))
    if (tiff := as_stored.of_tiff(contents, MAX_PIXELS)) is not None:
        return types.levels_of(pixel_type, tiff)
    try:
        image = _open(io.BytesIO(contents))
    except UnidentifiedImageError:
        if not damage.is_tiff(contents) or as_stored.has_tiff_reader():
            raise
        raise ValueError("expected the package tifffile for a TIFF of such channels or bits (pip install tifffile), "
                         "found none") from None
    image.load()
    pixels = as_stored.of_pillow(image, contents)
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation), np.asarray)
    return np.ascontiguousarray(turn(types.levels_of(pixel_type, pixels)))


def _eight_bits(contents, bit_depth):
    """bytes -> uint8 [H, W, 3] by Pillow."""
    image = _open(io.BytesIO(contents))
    image.load()
    wide = as_stored.wide_pixels(image, contents)
    if wide is not None:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation), np.asarray)
        return np.ascontiguousarray(turn(as_stored.narrowed(wide, bit_depth)))
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("expected 8 or 16 bits per channel, found floating-point numbers")
    straight = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA"}.get(image.mode)
    image = image.convert(straight) if straight else image
    if image.mode in ("RGBA", "LA"):
        pixels = np.asarray(image)[:, :, :-1]  # convert("RGB") would do the same, but for LA it is not documented
        return np.ascontiguousarray(np.broadcast_to(pixels, pixels.shape[:2] + (3,)))
    if image.mode == "P" and "transparency" in image.info:
        del image.info["transparency"]  # the palette's colours, whatever their alpha
    return np.array(image.convert("RGB"))


def _kinds(contents):
    """Which of TensorFlow's decoders reads the file as the docstring above says: (JPEG's, PNG's), bool scalars."""
    jpeg = tf.equal(tf.strings.substr(contents, 0, len(_JPEG)), _JPEG)
    png = tf.equal(tf.strings.substr(contents, 0, len(as_stored.PNG)), as_stored.PNG)
    png = png & tf.strings.regex_full_match(tf.strings.substr(contents, 0, 26), _PLAIN_PNG)
    # A PNG may keep its EXIF behind the pixels.
    searched = tf.strings.substr(contents, 0, tf.where(jpeg, _JPEG_HEAD, -1))
    # A literal is found ten times faster than the tag, and photographs from the web have none of the holders.
    without = searched
    for holder in _HOLDERS:
        without = tf.strings.regex_replace(without, holder, "", replace_global=False)
    may_turn = tf.logical_not(jpeg) | (tf.strings.length(without) < tf.strings.length(searched))
    upright = tf.cond(may_turn, lambda: tf.logical_not(tf.strings.regex_full_match(searched, _ROTATED)), lambda: True)
    return jpeg & upright, png & upright


def _jpeg_is_for_pillow(contents):
    """Whether a JPEG is CMYK, or too large: which Pillow's way says."""
    shape = tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64)  # [height, width, channels]
    return tf.equal(shape[2], 4) | (shape[0] * shape[1] > MAX_PIXELS)


def _png_is_for_pillow(contents):
    """Whether a plain PNG is too large; its header holds width and height as big-endian numbers of 32 bits."""
    size = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False)
    size = tf.cast(tf.bitcast(size, tf.uint32), tf.float64)  # their product may be beyond 2^63
    return size[0] * size[1] > MAX_PIXELS


def _decode_jpeg(contents):
    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(contents):
    return tf.io.decode_png(contents, channels=3)


def _of_rgb(pixel_type, image):
    """`pixel_type.levels_of` in a graph, of an image of three channels of 8 bits and a type in colour or grey.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        tensor [H, W, C].
    """
    if pixel_type == RGB:
        return image
    levels = tf.cast(image, tf.int32)
    if pixel_type.bits == 16:
        levels *= 257
    if pixel_type.channels == 1:
        kind = tf.int64 if pixel_type.bits == 16 else tf.int32  # the sum exceeds 31 bits with 16 alone
        levels = tf.cast(levels, kind)
        total = sum(levels[..., channel] * tf.constant(weight, kind) for channel, weight in enumerate(types.GREY))
        levels = tf.bitwise.right_shift(total + tf.constant(types.HALF, kind), tf.constant(16, kind))[..., None]
    return tf.cast(levels, pixel_type.dtype)


def decode(contents, bit_depth=16, pixel_type=RGB):
    """Decode an image, in a graph or eagerly.

    Args:
        contents: string scalar tensor, the bytes of the file.
        bit_depth: int, 8 to 31, see the module's docstring.
        pixel_type: `pixel_type.PixelType`, what it becomes.

    Returns:
        uint8 or uint16 [H, W, C] tensor, H and W unknown to the graph.

    Raises:
        tf.errors.OpError: in a graph, at run time, if the image is broken.
        BrokenImage: the same eagerly.
    """
    if tf.executing_eagerly():
        with tf.device("CPU:0"):
            return tf.constant(decode_file(contents.numpy(), _NO_NAME, bit_depth, pixel_type))
    image = _by_kind(contents, bit_depth, pixel_type, lambda: _of_rgb(pixel_type, _decode_jpeg(contents)),
                     lambda image: image)
    image.set_shape([None, None, pixel_type.channels])
    return image


def decode_part(contents, part, bit_depth=16, fast=None, pixel_type=RGB):
    """Decode at least a part of an image, in a graph.

    Args:
        contents, bit_depth, pixel_type: as for `decode`.
        part: function of (height, width), int32 scalars, -> float32 [4], the box (top, left, height, width) that is
            wanted, whole numbers.
        fast: see `parts.of_jpeg`.

    Returns:
        (pixels [H, W, C], frame), see `parts`.

    Raises:
        tf.errors.OpError: as `decode`.
    """
    def of_jpeg():
        size = tf.image.extract_jpeg_shape(contents)[:2]
        # Of a file that is cut off the upper rows would be decoded without an error.
        ends = tf.equal(tf.strings.substr(contents, -len(_JPEG_END), len(_JPEG_END)), _JPEG_END)
        is_worth_it = fast is not None or parts.is_worth_it(size[0] * size[1])
        image, frame = tf.cond(ends & is_worth_it,
                               lambda: parts.of_jpeg(contents, size, part(*tf.unstack(size)), fast),
                               lambda: parts.of_whole(_decode_jpeg(contents)))
        return _of_rgb(pixel_type, image), frame

    image, frame = _by_kind(contents, bit_depth, pixel_type, of_jpeg, parts.of_whole)
    return tf.ensure_shape(image, [None, None, pixel_type.channels]), tf.ensure_shape(frame, [5])


def _by_kind(contents, bit_depth, pixel_type, of_jpeg, of_image):
    """`of_jpeg()` for a JPEG that TensorFlow reads; for others `of_image` of the image, pixels [H, W, C]."""
    def by_pillow():
        image = python_calls.call(lambda found: _with_pillow_marked(found, bit_depth, pixel_type), [contents],
                                  pixel_type.dtype)
        return of_image(tf.ensure_shape(image, [None, None, pixel_type.channels]))

    def of_png():
        return of_image(_of_rgb(pixel_type, _decode_png(contents)))

    if not pixel_type.is_colour_or_grey:
        return by_pillow()
    jpeg, png = _kinds(contents)
    return tf.case([(jpeg, lambda: tf.cond(_jpeg_is_for_pillow(contents), by_pillow, of_jpeg)),
                    (png, lambda: tf.cond(_png_is_for_pillow(contents), by_pillow, of_png))], default=by_pillow)


def _with_pillow_marked(contents, bit_depth, pixel_type):
    """`_with_pillow`, its error marked so that `broken_image` finds it in TensorFlow's."""
    try:
        return _with_pillow(contents, bit_depth, pixel_type)
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        raise BrokenImage(f"{_MARK}{_NO_NAME}: {damage.reason(error, contents)}") from error


def decode_file(contents, name, bit_depth=16, pixel_type=RGB):
    """Decode an image eagerly; the same pixels as `decode`.

    Args:
        contents: bytes of the file.
        name: its path, for the message.
        bit_depth, pixel_type: as for `decode`.

    Returns:
        uint8 or uint16 NumPy array [H, W, C].

    Raises:
        BrokenImage: naming the path and what is wrong.
    """
    if not contents:
        raise BrokenImage(f"{_MARK}{name}: the file is empty")
    try:
        if not pixel_type.is_colour_or_grey:
            return _with_pillow(contents, bit_depth, pixel_type)
        with tf.device("CPU:0"):
            tensor = tf.constant(contents)
            jpeg, png = _kinds(tensor)
            if png and not _png_is_for_pillow(tensor):
                return _of_rgb(pixel_type, _decode_png(tensor)).numpy()
            if jpeg and not _jpeg_is_for_pillow(tensor):
                return _of_rgb(pixel_type, _decode_jpeg(tensor)).numpy()
        return _with_pillow(contents, bit_depth, pixel_type)
    except Exception as error:
        raise BrokenImage(f"{_MARK}{name}: {damage.reason(error, contents)}") from error


def read_bytes(path):
    """The bytes of a file.

    Raises:
        BrokenImage: naming it, if it cannot be read.
        OSError: a remote one can't be reached, or too many files are open: no word on the image.
    """
    try:
        return files.read(path)
    except OSError as error:
        if files_fault(error) or files.is_remote(path) and storage_fault(error):
            raise
        raise BrokenImage(f"{_MARK}{shown(path)}: {damage.of_file(path, error)}") from error


def header_size(contents):
    """(height, width) that the header of an image file states; None if there is none. `contents` are its bytes."""
    try:
        with _open(io.BytesIO(contents)) as image:
            return image.height, image.width
    except Exception:  # as in `check_header`
        return as_stored.tiff_size(io.BytesIO(contents))


def check_header(path):
    """Raise BrokenImage if the file is not recognised as an image, or it is too large; decodes nothing."""
    contents = read_bytes(path) if files.is_remote(path) else None
    try:
        with _open(path if contents is None else io.BytesIO(contents)):
            pass  # opening read the header
    except Exception as error:
        if files_fault(error):
            raise
        if as_stored.tiff_size(path if contents is None else io.BytesIO(contents)) is not None:
            return
        raise BrokenImage(f"{_MARK}{shown(path)}: {damage.of_file(path, error)}") from error


def shown(path):
    return path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path


def reason_of(error, name):
    """What is wrong with an image, from the BrokenImage that calls it `name`."""
    return str(error).removeprefix(f"{_MARK}{name}: ")


def named(error, name):
    """The BrokenImage that names an image.

    Args:
        error: what was raised by reading or decoding it, without its name.
        name: its path, with the record if the file holds several.
    """
    reason = reason_of(error, _NO_NAME) if isinstance(error, BrokenImage) else damage.reason(error)
    return BrokenImage(f"{_MARK}{name}: {reason}")


def broken_image(error):
    """The BrokenImage inside an error that a graph raised, or None.

    `encoded.Encoded` and `require_label` raise inside tf.data, where the text arrives within a TensorFlow error.

    Args:
        error: any exception.
    """
    if found := re.search(re.escape(_LABEL_MARK) + r"([^\]\n]*)\] \[(-?\d+)\]", str(error)):
        return BrokenImage(f"{found.group(1)}, found {found.group(2)}")
    found = re.search(re.escape(_MARK) + r"[^\n]*", str(error))
    return BrokenImage(found.group(0)) if found else None


@contextlib.contextmanager
def broken_images_named(then=""):
    """Turn what a graph raised about a broken image into the one line that names it; also a decorator.

    Args:
        then: what a person may do about it, added to the line of an image.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = broken_image(error)
        if found is not None and str(found).startswith(_MARK) and then:
            found = BrokenImage(f"{found} ({then})")
        raise found or error from None


def require_label(label, num_classes, split):
    """An operation that fails if `label` (integer scalar) is not one of the classes.

    Args:
        label: class of a streamed record.
        num_classes: int K.
        split: name of the split, for the message.
    """
    good = (label >= 0) & (label < num_classes)
    return tf.debugging.Assert(good, [f"{_LABEL_MARK}--dataset: expected labels from 0 to {num_classes - 1} in the "
                                      f"{split} split", label])
