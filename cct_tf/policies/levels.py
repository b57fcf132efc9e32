"""Operations of policies on the levels (0-255) of an image, each equal to Pillow's on every pixel.

`equalize` needs the histogram of the whole image, `auto_contrast` its extremes; `level_ops` (the rest) are elementwise,
but for the mean of Contrast and the 3 x 3 neighbourhood of Sharpness. All are meant to be compiled.

Pillow blends in float32: fl(a + fl(factor * (b - a))), fl for rounding. XLA would contract product and sum into one
operation, rounded once. So both are computed in float64, where they are exact, and casts round them to float32.
AutoContrast computes in float64 itself; there a `tf.where` between product and sum keeps XLA from contracting them.

Legend: B batch, H W image, n = H W pixels.
"""

import tensorflow as tf

from cct_tf.policies.notation import Op

# ImageOps and ImageEnhance names; Op holds the units of their arguments.
LEVEL_OPS = (Op.INVERT, Op.POSTERIZE, Op.SOLARIZE, Op.SOLARIZE_ADD, Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.SHARPNESS)


def gray(levels):
    """Pillow's conversion to "L": int32 [..., 3] -> int32 [...], 16 bits of fraction."""
    total = levels[..., 0] * 19595 + levels[..., 1] * 38470 + levels[..., 2] * 7471 + 0x8000
    return tf.bitwise.right_shift(total, 16)


def grey(images):
    """Pillow's "L" of every pixel: uint8 [..., 3] -> uint8 [..., 1]; equal channels give themselves."""
    return tf.cast(gray(tf.cast(images, tf.int32)), tf.uint8)[..., None]


def smooth(levels):
    """Pillow's ImageFilter.SMOOTH: int32 [B, H, W, 3] -> the same; the outermost pixels stay."""
    height, width = levels.shape[1:3]
    padded = tf.pad(levels, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels
    # Weights 1 1 1, 1 5 1, 1 1 1 over 13, rounded; there are no ties. (x * 40330) >> 20 is x // 26 for x below 2^15.
    inner = tf.bitwise.right_shift((2 * total + 13) * 40330, 20)
    y, x = tf.range(height)[None, :, None, None], tf.range(width)[None, None, :, None]
    # Faster than concatenating slices, which would take XLA twice the time.
    return tf.where((y == 0) | (y == height - 1) | (x == 0) | (x == width - 1), levels, inner)


def blend(base, levels, factor):
    """Pillow's Image.blend(base, levels, factor), bit for bit.

    Args:
        base, levels: int32, broadcastable, 0-255.
        factor: float64, broadcastable; 1 gives `levels`, above 1 goes beyond.

    Returns:
        int32, truncated towards 0 and clipped to 0-255.
    """
    factor = tf.cast(tf.cast(factor, tf.float32), tf.float64)
    product = tf.cast(tf.cast(factor * tf.cast(levels - base, tf.float64), tf.float32), tf.float64)
    total = tf.cast(tf.cast(base, tf.float64) + product, tf.float32)
    return tf.cast(tf.clip_by_value(total, 0.0, 255.0), tf.int32)


def level_ops(images, op, argument):
    """INVERT ... SHARPNESS of each image.

    Args:
        images: uint8 [B, H, W, 3], or [B, H, W, 1], which are Pillow's images of mode "L".
        op: int32 [B], one of LEVEL_OPS.
        argument: float64 [B].

    Returns:
        uint8 [B, H, W, 3].
    """
    levels = tf.cast(images, tf.int32)
    op, argument = op[:, None, None, None], argument[:, None, None, None]
    whole = tf.cast(argument, tf.int32)
    gray_levels = gray(levels)[..., None] if levels.shape[-1] == 3 else levels  # [B, H, W, 1]
    pixels = images.shape[1] * images.shape[2]
    mean = (2 * tf.reduce_sum(gray_levels, axis=[1, 2, 3], keepdims=True) + pixels) // (2 * pixels)  # rounded
    base = tf.where(op == Op.CONTRAST, mean, tf.where(op == Op.COLOR, gray_levels, 0))
    base = tf.where(op == Op.SHARPNESS, smooth(levels), base)
    inverted = 255 - levels
    ignored = tf.bitwise.left_shift(1, 8 - whole) - 1  # the low bits that posterizing drops
    threshold = tf.cast(tf.math.ceil(argument), tf.int32)
    result = blend(base, levels, argument)
    for code, value in (
            (Op.INVERT, inverted),
            (Op.POSTERIZE, tf.bitwise.bitwise_and(levels, 255 - ignored)),
            (Op.SOLARIZE, tf.where(levels < threshold, levels, inverted)),
            (Op.SOLARIZE_ADD, tf.where(levels < 128, tf.minimum(levels + whole, 255), levels))):
        result = tf.where(op == code, value, result)
    return tf.cast(result, tf.uint8)


def auto_contrast(images):
    """ImageOps.autocontrast of each image, in float64 as Python computes it: uint8 [B, H, W, 3] -> the same."""
    levels = tf.cast(images, tf.int32)
    first, last = (reduce(levels, axis=[1, 2], keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    scale = 255.0 / tf.cast(tf.maximum(last - first, 1), tf.float64)
    # The condition always holds; the `tf.where` keeps XLA from contracting products and sum, which Python rounds each.
    # It is of each pixel: LLVM takes one that is of the image alone out of the loop.
    product, offset = (tf.where(tf.abs(each) < 1e6, each, 0.0) for each in (
        tf.cast(levels, tf.float64) * scale, tf.cast(-first, tf.float64) * scale))
    stretched = tf.clip_by_value(product + offset, 0.0, 255.0)
    return tf.cast(tf.where(last > first, tf.cast(stretched, tf.int32), levels), tf.uint8)


def equalize(images):
    """ImageOps.equalize of each image: uint8 [B, H, W, 3] -> the same."""
    count, height, width, channels = images.shape
    planes = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [count * channels, height * width])  # [3B, n]
    planes = tf.cast(planes, tf.int32)
    places = tf.reshape(planes + 256 * tf.range(count * channels)[:, None], [-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(places), places, count * channels * 256)
    table = tf.cast(_equalize_table(tf.reshape(counts, [count * channels, 256])), tf.uint8)
    planes = tf.gather(table, planes, axis=1, batch_dims=1)
    return tf.transpose(tf.reshape(planes, [count, channels, height, width]), [0, 2, 3, 1])


def _equalize_table(counts):
    """What becomes of each level: int32 [P, 256] counts -> int32 [P, 256]."""
    last = 255 - tf.argmax(tf.cast(counts > 0, tf.int32)[:, ::-1], axis=1, output_type=tf.int32)[:, None]
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - tf.gather(counts, last, axis=1, batch_dims=1)) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = (step // 2 + below) // tf.maximum(step, 1)
    return tf.where(step > 0, tf.minimum(table, 255), tf.range(256)[None])
