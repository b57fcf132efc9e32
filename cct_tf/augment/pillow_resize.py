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
    """`image_ops.fit`, with Pillow's pixels: uint8 [B, H, W, 3] -> uint8 [B, h, w, 3]."""
    one = {"crop": lambda image: _cropped_middle(image, size, crop_pct),
           "pad": lambda image: _padded(image, size, fill),
           "stretch": lambda image: resized(image, None, True, size)}[way]
    return _called(lambda images: np.stack([one(image) for image in images]), size, images)


def crop(images, boxes, bicubic, size, resize):
    """Cut a box out of every image and resize it.

    Args:
        images: uint8 [B, H, W, 3].
        boxes: float32 [B, 4], (top, left, height, width) within the image. A fractional edge counts its pixel by the
            share of it, as `box` of `Image.resize` does.
        bicubic: bool [B], bicubic or bilinear.
        size: output size.
        resize: what resizes an image: `resized`, or `simd_resize.resized`.

    Returns:
        uint8 [B, h, w, 3].
    """
    def cut(images, boxes, bicubic):
        return np.stack([_cropped(*one, size, resize) for one in zip(images, boxes, bicubic, strict=True)])

    return _called(cut, size, images, boxes, bicubic)


def _called(function, size, images, *columns):
    found = python_calls.call(function, [images, *columns], tf.uint8)
    return tf.ensure_shape(found, [images.shape[0], *sizes.sides(size), 3])


def _cropped(image, box, bicubic, size, resize):
    """One image [H, W, 3], cropped and resized, as an array."""
    (top, left), (bottom, right) = box[:2], box[:2] + box[2:]
    first, last = (math.floor(top), math.floor(left)), (math.ceil(bottom), math.ceil(right))
    pixels = image[first[0]:last[0], first[1]:last[1]]
    height, width = pixels.shape[:2]
    within = left - first[1], top - first[0], min(right - first[1], width), min(bottom - first[0], height)
    return resize(pixels, within, bicubic, size)


def resized(pixels, box, bicubic, size):
    """A part of one image at h x w pixels, by Pillow.

    Args:
        pixels: uint8 [h, w, 3] NumPy array.
        box: (left, top, right, bottom) of the part, floats; None: the whole image.
        bicubic: bool, bicubic or bilinear.
        size: output size.

    Returns:
        uint8 [h, w, 3] NumPy array.
    """
    kind = Image.BICUBIC if bicubic else Image.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize(sizes.sides(size)[::-1], kind, box))


def _padded(image, size, fill):
    """One image [H, W, 3] as large as it fits into a size, with `fill` beside it, as an array."""
    sides = sizes.sides(size)
    inner = image_ops.inner_sides(image.shape[:2], sides)
    found = np.empty([*sides, image.shape[2]], np.uint8)
    found[:] = fill
    top, left = (round((side - length) * 0.5) for side, length in zip(sides, inner, strict=True))
    found[top:top + inner[0], left:left + inner[1]] = resized(image, None, True, inner)
    return found


def _cropped_middle(image, size, crop_pct):
    """One image [H, W, 3] resized and cropped, as an array."""
    (down, across), covered = sizes.sides(size), image_ops.covered_sides(size, crop_pct)
    height, width = image.shape[:2]
    if (height, width) == (down, across) == covered:
        return image
    side, least = (covered[0], height) if covered[0] * width >= covered[1] * height else (covered[1], width)
    resized = [math.floor(side * length / least + 1e-9) for length in (height, width)]
    top, left = round((resized[0] - down) / 2), round((resized[1] - across) / 2)
    pixels = Image.fromarray(image)
    shape = height * covered[1], width * covered[0]
    if max(shape) > _LONGEST * min(shape):
        box = (left * width / resized[1], top * height / resized[0],
               (left + across) * width / resized[1], (top + down) * height / resized[0])
        return np.asarray(pixels.resize((across, down), Image.BICUBIC, box))
    return np.asarray(pixels.resize(resized[::-1], Image.BICUBIC).crop((left, top, left + across, top + down)))
