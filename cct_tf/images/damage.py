"""What is wrong with an image file, in words for a person. No TensorFlow here.

Of a JPEG that is cut off TensorFlow says `jpeg::Uncompress failed. Invalid JPEG data or crop window.`, and of such a
WebP Pillow says `could not create decoder object`. The bytes of the file tell more than these texts.
"""

import codecs
import importlib.util
import os
import re

from PIL import Image

from cct_tf.machine import files

HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Starts of files that are no images, in small letters and without leading white space.
_OTHERS = ((b"<!doctype html", "a web page (HTML)"), (b"<html", "a web page (HTML)"), (b"<svg", "an SVG drawing"),
           (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the image)"),
           (b"%pdf", "a PDF file"), (b"pk\x03\x04", "a ZIP archive"))
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_START = 512  # bytes that are enough to tell what a file is
_CUT_OFF = "the file is cut off"


def is_tiff(contents):
    """Whether bytes begin as a TIFF does."""
    return contents.startswith(_TIFF)


def reason(error, contents=b""):
    """One short line of what is wrong with an image.

    Args:
        error: the exception of the decoder.
        contents: bytes of the file, as far as they are known.
    """
    known = next((format for format in _FORMATS if contents.startswith(format[1])), None)
    if isinstance(error, Image.UnidentifiedImageError) and known is None:
        return f"expected an image, found {_kind(contents)}"
    text = re.sub(r"^\{\{function_node .*?\}\} *", "", " ".join(str(error).split()))
    text = re.sub(r" *(\[Op:\w+\]|\[\[.*\]\]).*$", "", text)[:200] or type(error).__name__
    if text.startswith("expected "):  # ours
        return text
    if re.search(r"\btruncated\b|reached EOF|unexpected end of file|but only got|failed to read \d+ bytes, got", text,
                 re.IGNORECASE):
        return _CUT_OFF
    if known is None:
        return f"it can't be decoded ({text})"
    name, _, is_cut_off = known
    return _CUT_OFF if is_cut_off(contents) else f"damaged {name} data"


# Name, first bytes, function of the bytes: whether the end is missing.
_FORMATS = (
    ("JPEG", b"\xff\xd8\xff", lambda contents: b"\xff\xd9" not in contents[-_START:]),  # padding may follow the end
    ("PNG", b"\x89PNG", lambda contents: b"IEND" not in contents[-_START:]),
    ("WebP", b"RIFF", lambda contents: len(contents) < 8 + int.from_bytes(contents[4:8], "little")),
)


def of_file(path, error):
    """The `reason` of a file that could not be opened, or not be recognised.

    Args:
        path: str or bytes.
        error: the exception.
    """
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"a link that points to nothing, {os.fsdecode(os.readlink(path))!r}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        return reason(error, files.read(path))
    except OSError as unreadable:
        return unreadable.strerror


def is_heic(contents):
    """Whether the bytes begin like a HEIC or HEIF file."""
    return contents[4:8] == b"ftyp" and contents[8:12] in HEIC_BRANDS


def _kind(contents):
    """What a file is that is no image known here."""
    if is_tiff(contents):
        return "a TIFF that can't be read as 8 bits in colour (--channels=N reads more channels, --bits=16 more bits)"
    start = contents[:_START].lstrip().lower()
    for signature, kind in _OTHERS:
        if start.startswith(signature):
            return kind
    if is_heic(contents):
        missing = importlib.util.find_spec("pillow_heif") is None
        return "HEIC, which needs the package pillow-heif (pip install pillow-heif)" if missing else "damaged HEIC data"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # its last letter may be cut
    except UnicodeDecodeError:
        text = ""
    return "text" if text and all(letter.isprintable() or letter.isspace() for letter in text) else (
        "no format known here")
