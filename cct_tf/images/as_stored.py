"""All channels and bits of an image file: what `decode` reads for pixel types of 16 bits or of many channels, and what
it reduces to 8 bits for others.

TIFF is read by tifffile, an optional package (it comes with the extra `tiff`), where that is installed: Pillow knows no
TIFF of more than four channels, or of 16 bits in colour. Channels may be stored as planes or pages of their own; of a
stack over time or depth the first page counts.
"""

import importlib.util
import io

import numpy as np
import tensorflow as tf

from cct_tf.images import damage

_CHANNELS = {"C", "S", "Q", "I"}  # axes: channels, samples, and those that have no name
PNG = b"\x89PNG\r\n\x1a\n"


def has_tiff_reader():
    """Whether tifffile is installed."""
    return importlib.util.find_spec("tifffile") is not None


def tiff_size(file):
    """(height, width) of the first page of a TIFF, a path or file; None of another, or where tifffile is missing."""
    if not has_tiff_reader():
        return None
    import tifffile

    if hasattr(file, "seek"):
        file.seek(0)  # it begins where the file stands
    try:
        with tifffile.TiffFile(file) as found:
            return found.pages[0].imagelength, found.pages[0].imagewidth
    except Exception:  # of a file that is no TIFF, or damaged
        return None


def of_tiff(contents, max_pixels):
    """The first page of a TIFF: uint8 or uint16 [H, W, C]; None of another file, or where tifffile is missing.

    Raises:
        ValueError, or what tifffile raises on a broken file.
    """
    if not damage.is_tiff(contents) or not has_tiff_reader():
        return None
    import tifffile

    with tifffile.TiffFile(io.BytesIO(contents)) as file:
        series = file.series[0]
        is_image = len(series.axes) <= 3 and set(series.axes) - {"Y", "X"} <= _CHANNELS
        found = series if is_image else file.pages[0]
        axes = dict(zip(found.axes, found.shape, strict=True))
        if not {"Y", "X"} <= set(axes) or len(axes) > 3 or axes["Y"] * axes["X"] > max_pixels:
            raise ValueError(f"expected an image of at most {max_pixels:,} pixels, found the axes {axes}")
        pixels = found.asarray()
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif found.axes.index("Y") == 1:  # planes, one a channel
        pixels = np.moveaxis(pixels, 0, 2)
    return np.ascontiguousarray(_of_levels(pixels))


def of_pillow(image, contents):
    """All of Pillow's image: uint8 or uint16 [H, W, C], orientation not applied.

    Args:
        image: Pillow's, loaded.
        contents: bytes of its file.

    Raises:
        ValueError: numbers that are no levels of at most 16 bits.
    """
    wide = _png_of_16_bits(contents, 0)
    if wide is not None:
        return wide
    if image.mode.startswith("I") or image.mode == "F":
        return _of_levels(np.asarray(image)[:, :, None])
    straight = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA", "P": "RGBA" if "transparency" in image.info else "RGB",
                "1": "L"}.get(image.mode)
    if straight is None and image.mode not in ("L", "LA", "RGB", "RGBA"):
        straight = "RGB"
    pixels = np.asarray(image.convert(straight) if straight else image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _of_levels(pixels):
    """Integers as uint8 or uint16."""
    if pixels.dtype.kind not in "uib":
        raise ValueError(f"expected levels of 8 or 16 bits, found {pixels.dtype}")
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high >= 2**16:
        raise ValueError(f"expected levels of at most 16 bits, found values {low} to {high}")
    return pixels.astype(np.uint16)


def _png_of_16_bits(contents, channels):
    """uint16 [H, W, C], C `channels`, or with 0 those of the file; None of another file."""
    if not contents.startswith(PNG) or contents[24] != 16:
        return None
    with tf.device("CPU:0"):  # Pillow has no mode for 16 bits in colour
        return tf.io.decode_png(contents, channels=channels, dtype=tf.uint16).numpy()


def wide_pixels(image, contents):
    """All bits of an image that has more than 8 a channel; raises what Pillow and TensorFlow raise on a broken one.

    Args:
        image: Pillow's, opened.
        contents: bytes of its file.

    Returns:
        Integers [H, W, 1] or [H, W, 3], orientation not applied; None for files that `decode` takes 8 bits of.
    """
    if image.mode.startswith("I"):  # I;16, I;16B, or I: 16 or 32 bits
        return np.asarray(image)[:, :, None]
    return _png_of_16_bits(contents, 3)


def narrowed(wide, bit_depth):
    """Integers [H, W, 1 or 3] -> uint8 [H, W, 3], the highest 8 of `bit_depth` bits."""
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high >> bit_depth:
        raise ValueError(f"expected at most {bit_depth} bits per channel, as the data set has, found values {low} to "
                         f"{high}")
    return np.repeat((wide >> (bit_depth - 8)).astype(np.uint8), 3 // wide.shape[2], axis=2)
