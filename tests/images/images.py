"""Image files of every format, made on the spot."""

import io
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image


def pixels(seed=0, height=13, width=17):
    """A smooth random picture: lossy formats keep it recognisable."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


RGB = Image.fromarray(pixels())
ALPHA = Image.fromarray(np.dstack([pixels(), np.arange(13 * 17, dtype=np.uint8).reshape(13, 17)]))

# Files whose pixels are Pillow's `convert("RGB")` of the same bytes.
AS_PILLOW = {
    "jpeg": encoded(RGB, "JPEG", quality=90),
    "jpeg 4:2:0 progressive": encoded(RGB, "JPEG", quality=50, subsampling=2, progressive=True),
    "jpeg 4:4:4": encoded(RGB, "JPEG", quality=95, subsampling=0),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg upright exif": encoded(RGB, "JPEG", exif=orientation(1)),
    "png": encoded(RGB, "PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png 1 bit": encoded(RGB.convert("1"), "PNG"),
    "png palette": encoded(RGB.quantize(16), "PNG"),
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "webp": encoded(RGB, "WEBP", quality=80),
    "tiff": encoded(RGB, "TIFF"),
    "tiff cmyk": encoded(RGB.convert("CMYK"), "TIFF"),
    "bmp": encoded(RGB, "BMP"),
    "gif": encoded(RGB.quantize(64), "GIF"),
    "ppm": encoded(RGB, "PPM"),
}


def wide_png(pixels, turned=None):
    """A PNG of 16 bits a channel, uint16 [H, W, 1 to 4]: Pillow writes none in colour."""
    contents = tf.io.encode_png(pixels).numpy()
    if turned is None:
        return contents
    exif = orientation(turned).tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + exif
    return contents[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + contents[33:]


_WIDE = np.arange(13 * 17 * 3, dtype=np.uint16).reshape(13, 17, 3) * 6  # 12 bits

# Kinds for which Pillow's `convert("RGB")` is not the rule.
OTHERS = {
    **{f"{kind} turned": encoded(RGB, kind, exif=orientation(6)) for kind in ("JPEG", "PNG", "WEBP")},
    **{f"{kind} with alpha": encoded(ALPHA, kind) for kind in ("PNG", "WEBP", "TIFF")},
    "png grey with alpha": encoded(ALPHA.convert("LA"), "PNG"),
    "png grey 16 bits": wide_png(_WIDE[:, :, :1]),
    "png 16 bits": wide_png(_WIDE),
    "tiff grey 16 bits": encoded(Image.fromarray(_WIDE[:, :, 0]), "TIFF"),
    "tiff grey 32 bits": encoded(Image.fromarray(_WIDE[:, :, 0].astype(np.int32)), "TIFF"),
}
