"""Resizing with antialias as Pillow does it, batched, and normalisation.

Pillow's `Image.resize` is separable: each output row (column) is a weighted sum of input rows (columns), the filter
widened by the scale where the image shrinks. Here the weights of all output pixels are one matrix per image and axis,
so a batch is two products of matrices. Pillow rounds to 8 bits between the two passes, columns first; so do we, and
the result is within one level of its own.

Legend: B batch, H W source height and width, S output pixels along an axis, C channels. An output size is an int or
(height, width), see `cct_tf.sizes`; "h, w" is its height and width.
"""

import math

import numpy as np
import tensorflow as tf

from cct_tf import sizes


def _bilinear(x):
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _bicubic(x):
    """Keys' cubic with a = -0.5, Pillow's BICUBIC."""
    x = tf.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tf.where(x < 1.0, inner, tf.where(x < 2.0, outer, 0.0))


def resampling_weights(source_size, start, length, low, high, size, bicubic):
    """The matrix that resamples one axis.

    Args:
        source_size: int or int32 scalar, pixels along the axis (N).
        start, length: float32 [B], the interval of the source that the output covers, in pixels.
        low, high: float32 [B], pixels outside [low, high) do not count (the edge of a crop, or of the image).
        size: int or int32 scalar S, output pixels.
        bicubic: bool [B], bicubic or bilinear.

    Returns:
        float32 [B, S, N], rows summing to 1.
    """
    size = tf.cast(size, tf.float32)
    scale = length[:, None, None] / size  # [B, 1, 1]
    stretch = tf.maximum(scale, 1.0)
    outputs = tf.range(size, dtype=tf.float32)[None, :, None] + 0.5  # [1, S, 1]
    sources = tf.range(tf.cast(source_size, tf.float32), dtype=tf.float32)[None, None, :] + 0.5  # [1, 1, N]
    distance = (sources - (start[:, None, None] + outputs * scale)) / stretch  # [B, S, N]
    weights = tf.where(bicubic[:, None, None], _bicubic(distance), _bilinear(distance))
    inside = (sources > low[:, None, None]) & (sources < high[:, None, None])
    weights = tf.where(inside, weights, 0.0)
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _round(values):
    return tf.floor(values + 0.5)


def resample(images, start, length, low, high, size, bicubic):
    """Cut a box out of every image and resize it, with antialias.

    Args:
        images: uint8 or uint16 [B, H, W, C].
        start, length: float32 [B, 2], the box (y, x) in source pixels; may be fractional.
        low, high: float32 [B, 2], bounds (y, x) of the pixels that may be looked at.
        size: output size; (height, width) may be int32 scalars.
        bicubic: bool [B].

    Returns:
        The same [B, h, w, C].
    """
    shape, sides = tf.shape(images), sizes.sides(size)
    weights_y, weights_x = (
        resampling_weights(shape[1 + axis], start[:, axis], length[:, axis], low[:, axis], high[:, axis], sides[axis],
                           bicubic) for axis in (0, 1))
    dtype = tf.as_dtype(images.dtype)
    columns = _round(tf.einsum("bow,bhwc->bhoc", weights_x, tf.cast(images, tf.float32)))
    if dtype == tf.uint8:  # Pillow's integers of 32 bits, which stand for those of 16, may overshoot in between
        columns = tf.clip_by_value(columns, 0.0, float(dtype.max))
    rows = tf.clip_by_value(_round(tf.einsum("boh,bhwc->bowc", weights_y, columns)), 0.0, float(dtype.max))
    known = [None if tf.is_tensor(side) else side for side in sides]
    return tf.cast(tf.ensure_shape(rows, [None, *known, images.shape[-1]]), images.dtype)


def fit(images, size, way="crop", crop_pct=1.0, fill=()):
    """Bring whole images to a size, the same way each time, bicubic with antialias.

    Args:
        images: uint8 or uint16 [B, H, W, C]; H and W may be unknown.
        size: output size.
        way: "crop", see `center_fit`; "pad": the whole image as large as it fits in, in the middle, and `fill` beside
            it (Pillow's `ImageOps.pad`); "stretch": each side to its own length.
        crop_pct: float, for "crop" alone.
        fill: C levels, for "pad" alone.

    Returns:
        The same [B, h, w, C].
    """
    if way == "crop":
        return center_fit(images, size, crop_pct)
    sides = sizes.sides(size)
    if tuple(images.shape[1:3]) == sides:
        return images
    inner = _inner_sides(tf.shape(images)[1:3], sides) if way == "pad" else sides
    whole = tf.broadcast_to(tf.cast(tf.shape(images)[1:3], tf.float32), [tf.shape(images)[0], 2])
    start, bicubic = tf.zeros_like(whole), tf.ones(tf.shape(images)[:1], tf.bool)
    images = resample(images, start, whole, start, whole, inner, bicubic)
    return images if way == "stretch" else _framed(images, inner, sides, fill)


def _framed(images, inner, sides, fill):
    """Images of int32 scalars `inner` in the middle of others of `sides`, ints, filled with C levels."""
    frame = [[0, 0]]
    for side, length in zip(sides, inner, strict=True):
        before = tf.cast(tf.round(tf.cast(side - length, tf.float32) * 0.5), tf.int32)
        frame.append([before, side - length - before])
    frame.append([0, 0])
    inside = tf.pad(tf.ones_like(images, tf.bool), frame)
    found = tf.where(inside, tf.pad(images, frame), tf.constant(fill, images.dtype))
    return tf.ensure_shape(found, [None, *sides, images.shape[-1]])


def _inner_sides(source, sides):
    """As `inner_sides`, of int32 [2] in a graph: two int32 scalars."""
    height, width = tf.unstack(tf.cast(source, tf.float64))
    down, across = (tf.constant(side, tf.float64) for side in sides)
    is_wide = width / height > across / down
    found = (tf.where(is_wide, tf.maximum(tf.round(height / width * across), 1.0), down),
             tf.where(is_wide, across, tf.maximum(tf.round(width / height * down), 1.0)))
    return tuple(tf.cast(side, tf.int32) for side in found)


def inner_sides(source, sides):
    """The largest sides of an image's shape within others, as Pillow's `ImageOps.contain` rounds them: (height, width).

    Args:
        source, sides: (height, width), ints, of the image and of what it has to fit in.
    """
    (height, width), (down, across) = source, sides
    if width / height > across / down:
        return max(round(height / width * across), 1), across
    return down, max(round(width / height * down), 1)


def center_fit(images, size, crop_pct=1.0):
    """The evaluation transform: resized so that it just covers size / crop_pct, bicubic with antialias; centre crop.

    Of a square that is: the shorter side to floor(size / crop_pct).

    Args:
        images: uint8 or uint16 [B, H, W, C]; H and W may be unknown.
        size: output size.
        crop_pct: float in (0, 1].

    Returns:
        The same [B, h, w, C].
    """
    sides, covered = sizes.sides(size), covered_sides(size, crop_pct)
    if tuple(images.shape[1:3]) == covered == sides:
        return images
    shape = tf.shape(images)
    source, sides = tf.cast(shape[1:3], tf.float64), tf.constant(sides, tf.float64)  # (H, W), (h, w)
    # The axis whose length decides: the other is longer than it needs to be.
    axis = tf.where(covered[0] * source[1] >= covered[1] * source[0], 0, 1)
    resized = tf.floor(tf.gather(tf.constant(covered, tf.float64), axis) * source / tf.gather(source, axis) + 1e-9)
    crop = tf.round((resized - sides) / 2.0)
    scale = source / resized
    source, start, length = (tf.cast(tf.broadcast_to(value, [shape[0], 2]), tf.float32)
                             for value in (source, crop * scale, sides * scale))
    return resample(images, start, length, tf.zeros_like(source), source, size, tf.ones([shape[0]], tf.bool))


def covered_sides(size, crop_pct):
    """What an image is resized to cover before it is cropped to a size: (height, width), ints."""
    return tuple(math.floor(side / crop_pct) for side in sizes.sides(size))


def kept_area(image_sizes, size, crop_pct=1.0):
    """Share of each image's area that `center_fit` keeps.

    Args:
        image_sizes: float [k, 2], heights and widths.
        size, crop_pct: as there.

    Returns:
        float64 [k].
    """
    shares = [side / covered for side, covered in zip(sizes.sides(size), covered_sides(size, crop_pct), strict=True)]
    ratios = image_sizes / np.array(covered_sides(size, crop_pct))  # the larger one is cut off to the smaller
    return math.prod(shares) * ratios.min(axis=1) / ratios.max(axis=1)


def normalize(images, mean, std):
    """(pixels / white - mean) / std, with mean and std of one or C values in [0, 1].

    Args:
        images: uint8 or uint16 [B, H, W, C]; white is 255, or 65535.
        mean, std: sequences.

    Returns:
        float32 [B, H, W, C].
    """
    white = float(tf.as_dtype(images.dtype).max)
    scale = tf.constant([1.0 / (white * value) for value in std], tf.float32)
    offset = tf.constant([m / s for m, s in zip(mean, std, strict=True)], tf.float32)
    return tf.cast(images, tf.float32) * scale - offset
