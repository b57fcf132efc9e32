"""Resizing of single images by SIMD instructions: cykooz-resizer, an optional package, in a third of Pillow's time.

It computes what Pillow 13 does with coefficients of 16 bits instead of 22: one value in 300 of a photograph differs by
a level, and one or two of a million by two where the crop is bicubic. Hence it is for random crops of training alone,
and only where --resize=fast says so.
"""

import importlib.util
import threading

import numpy as np

from cct_tf import sizes
from cct_tf.errors import UserError

_per_thread = threading.local()  # a resizer has buffers of its own


def require_package():
    """Raise UserError if the package is missing."""
    if importlib.util.find_spec("cykooz_resizer") is None:
        raise UserError("--resize: expected the package cykooz-resizer with fast (pip install cykooz-resizer), found "
                        "none")


def resized(pixels, box, bicubic, size, width_first=False):
    """As `pillow_resize.resized`, of colours or grey of 8 bits.

    Args:
        width_first: whether the width is always resized before the height, as Pillow did before 13.
    """
    import cykooz_resizer as package
    left, top, right, bottom = map(float, box)
    kind = package.FilterType.catmull_rom if bicubic else package.FilterType.bilinear
    level = package.PixelType.U8x3 if pixels.shape[2] == 3 else package.PixelType.U8

    def step(source, shape, box):
        options = package.ResizeOptions(package.ResizeAlg.convolution(kind), use_alpha=False,
                                        crop_box=package.CropBox(*box))
        target = package.ImageData(*shape, level)
        _resizer(package).resize(source, target, options)
        return target

    (height, width), (down, across) = pixels.shape[:2], sizes.sides(size)
    source = package.ImageData(width, height, level, pixels.tobytes())
    # Two calls, for Pillow rounds in between: the package would choose an order by itself.
    if height - down > max(0, 2 * (width - across)) and not width_first:  # Pillow's condition
        middle = step(source, (width, down), (0.0, top, width, bottom - top))
        found = step(middle, (across, down), (left, 0.0, right - left, down))
    else:
        middle = step(source, (across, height), (left, 0.0, right - left, height))
        found = step(middle, (across, down), (0.0, top, across, bottom - top))
    return np.frombuffer(found.get_buffer(), np.uint8).reshape(down, across, pixels.shape[2])


def _resizer(package):
    if not hasattr(_per_thread, "resizer"):
        _per_thread.resizer = package.Resizer()
    return _per_thread.resizer
