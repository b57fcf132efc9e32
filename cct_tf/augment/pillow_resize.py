"""Bringing single images to the network's size by Pillow itself, from graphs and eagerly.

`image_ops` does the same for whole batches by products of matrices, within one level of Pillow. Images of more than
about 64 x 64 pixels are faster here: Pillow computes each pixel from those it needs and no others. Its C code runs
without the interpreter's lock, so the calls of a parallel map run beside each other.

Legend: B batch, H W source height and width, h w those of the output size, see `cct_tf.sizes`.
"""

import math

import numpy as np
import tensorflow as tf
from PIL import Image

from cct_tf import sizes
from cct_tf.augment import image_ops
from cct_tf.machine import python_calls

# Whole images are resized, then cropped, as torchvision and timm do it. Of longer ones the part that stays is computed
# alone: 20,000 x 10 pixels would become 448,000 x 224.
_LONGEST = 8  # longer side / shorter side; where the target is no square, measured in sides of it


def fit(images, size, way="crop", crop_pct=1.0, fill=()):
    """`image_ops.fit`, with Pillow's pixels: [B, H, W, C] -> [B, h, w, C]."""
    one = {"crop": lambda image: _cropped_middle(image, size, crop_pct),
           "pad": lambda image: _padded(image, size, fill),
           "stretch": lambda image: resized(image, None, True, size)}[way]
    return _called(lambda images: np.stack([one(image) for image in images]), size, images)


def crop(images, boxes, bicubic, size, resize):
    """Cut a box out of every image and resize it.

    Args:
        images: uint8 or uint16 [B, H, W, C].
        boxes: float32 [B, 4], (top, left, height, width) within the image. A fractional edge counts its pixel by the
            share of it, as `box` of `Image.resize` does.
        bicubic: bool [B], bicubic or bilinear.
        size: output size.
        resize: what resizes an image: `resized`, or `simd_resize.resized`.

    Returns:
        The same [B, h, w, C].
    """
    def cut(images, boxes, bicubic):
        return np.stack([_cropped(*one, size, resize) for one in zip(images, boxes, bicubic, strict=True)])

    return _called(cut, size, images, boxes, bicubic)


def _called(function, size, images, *columns):
    found = python_calls.call(function, [images, *columns], images.dtype)
    return tf.ensure_shape(found, [images.shape[0], *sizes.sides(size), images.shape[3]])


def _cropped(image, box, bicubic, size, resize):
    """One image [H, W, C], cropped and resized, as an array."""
    (top, left), (bottom, right) = box[:2], box[:2] + box[2:]
    first, last = (math.floor(top), math.floor(left)), (math.ceil(bottom), math.ceil(right))
    pixels = image[first[0]:last[0], first[1]:last[1]]
    height, width = pixels.shape[:2]
    within = left - first[1], top - first[0], min(right - first[1], width), min(bottom - first[0], height)
    return resize(pixels, within, bicubic, size)


def resized(pixels, box, bicubic, size):
    """A part of one image at h x w pixels, by Pillow.

    Args:
        pixels: uint8 or uint16 [H, W, C] NumPy array. Other than in colour of 8 bits, a channel at a time; of 16 bits
            by Pillow's mode "I", whose levels are clipped to 16 bits.
        box: (left, top, right, bottom) of the part, floats; None: the whole image.
        bicubic: bool, bicubic or bilinear.
        size: output size.

    Returns:
        The same [h, w, C] NumPy array.
    """
    kind, sides = Image.BICUBIC if bicubic else Image.BILINEAR, sizes.sides(size)[::-1]
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(sides, kind, box))
    wide = pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels
    planes = [np.asarray(Image.fromarray(np.ascontiguousarray(wide[:, :, channel])).resize(sides, kind, box))
              for channel in range(pixels.shape[2])]
    return np.stack(planes, axis=2).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def _padded(image, size, fill):
    """One image [H, W, C] as large as it fits into a size, with `fill` beside it, as an array."""
    sides = sizes.sides(size)
    inner = image_ops.inner_sides(image.shape[:2], sides)
    found = np.empty([*sides, image.shape[2]], image.dtype)
    found[:] = fill
    top, left = (round((side - length) * 0.5) for side, length in zip(sides, inner, strict=True))
    found[top:top + inner[0], left:left + inner[1]] = resized(image, None, True, inner)
    return found


def _cropped_middle(image, size, crop_pct):
    """One image [H, W, C] resized and cropped, as an array."""
    (down, across), covered = sizes.sides(size), image_ops.covered_sides(size, crop_pct)
    height, width = image.shape[:2]
    if (height, width) == (down, across) == covered:
        return image
    side, least = (covered[0], height) if covered[0] * width >= covered[1] * height else (covered[1], width)
    inner = [math.floor(side * length / least + 1e-9) for length in (height, width)]
    top, left = round((inner[0] - down) / 2), round((inner[1] - across) / 2)
    shape = height * covered[1], width * covered[0]
    if max(shape) > _LONGEST * min(shape):
        box = (left * width / inner[1], top * height / inner[0],
               (left + across) * width / inner[1], (top + down) * height / inner[0])
        return resized(image, box, True, size)
    return resized(image, None, True, tuple(inner))[top:top + down, left:left + across]
