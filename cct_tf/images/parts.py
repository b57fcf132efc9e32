"""A part of an image, decoded without the rest where that is faster: large JPEGs.

A part is chosen by a function of the image's size, which the header of a JPEG tells. Then only the blocks of the part
are decoded, and those around it: at a cut libjpeg computes colours from the blocks that are left, so with a margin the
pixels are those of the whole image, to the bit.

With `fast` JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where the part stays at least as large as it is needed.
The pixels then differ from those of the whole image, see docs/design/augmentation.md.

What was decoded is told by a *frame*, int32 [5]: height and width of the whole image; the scale it was decoded at (1 /
scale); top and left of the pixels in the scaled image.
"""

import tensorflow as tf

_MARGIN = 16  # pixels around a part: the largest block of colours that is smoothed at its edges
_SCALES = (8, 4, 2)
_LARGE = 2**18  # pixels of an image; below, the rest is decoded in less time than it takes to leave it out


def of_whole(image):
    """(`image`, its frame): uint8 [H, W, 3], decoded as it is."""
    return image, tf.concat([tf.shape(image)[:2], [1, 0, 0]], 0)


def placed(box, frame):
    """A box of the whole image in the pixels of a frame: float32 [4] (top, left, height, width), fractional if scaled.
    """
    frame = tf.cast(frame, tf.float32)
    return box / frame[2] - tf.concat([frame[3:], [0.0, 0.0]], 0)  # a power of two


def is_worth_it(area):
    """Whether of a JPEG of so many pixels a part is decoded by itself."""
    return area >= _LARGE


def of_jpeg(contents, size, box, fast):
    """Decode a part of a JPEG that TensorFlow reads.

    Args:
        contents: string scalar tensor.
        size: int32 [2], height and width of the image.
        box: float32 [4], the part (top, left, height, width), whole numbers.
        fast: (height, width) that the part needs, pixels; None decodes at full size.

    Returns:
        (uint8 [H, W, 3], frame).
    """
    scale = tf.constant(1)
    if fast is not None:
        least = tf.reduce_min(box[2:] / fast)
        scale = tf.reduce_max(tf.where(least >= _SCALES, _SCALES, 1))
    whole = (size + scale - 1) // scale
    box /= tf.cast(scale, tf.float32)
    start = tf.maximum(tf.cast(tf.floor(box[:2]), tf.int32) - _MARGIN, 0)
    end = tf.minimum(tf.cast(tf.math.ceil(box[:2] + box[2:]), tf.int32) + _MARGIN, whole)
    window = tf.concat([start, end - start], 0)

    def at(ratio):
        return lambda: tf.io.decode_and_crop_jpeg(contents, window, channels=3, ratio=ratio,
                                                  dct_method="INTEGER_ACCURATE")

    pixels = at(1)() if fast is None else tf.case([(tf.equal(scale, ratio), at(ratio)) for ratio in _SCALES],
                                                  default=at(1))
    return pixels, tf.concat([size, [scale], start], 0)
