"""Mean and standard deviation of the training pixels, exactly, and the known ones."""

from fractions import Fraction

import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.readers import progress
from cct_tf.readers.reader import as_written

# Of the training images in [0, 1]. CIFAR, Flowers: the authors' data modules (SHI-Labs/Compact-Transformers,
# configs/*.yml); ImageNet: timm's IMAGENET_DEFAULT_MEAN and _STD.
KNOWN = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "oxford_flowers102": ((0.4353, 0.3773, 0.2872), (0.2966, 0.2455, 0.2698)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

_PIECE = 2**17  # pixels summed at a time; as int64, twice, they take 6 MiB


def channel_statistics(split, stream=None):
    """Mean and standard deviation of each channel over all pixels of a split.

    Sums are integers, so the result depends on neither order nor threads.

    Args:
        split: source.Split.
        stream: text stream for progress, or None.

    Returns:
        (mean, std): tuples of C floats, of levels as shares of the highest; std is the population's.

    Raises:
        UserError: a streamed split; a constant channel, whose deviation is 0; a broken image on disk.
    """
    channels, white = split.reader.pixel_type.channels, split.reader.pixel_type.white
    count, total, squares = 0, [0] * channels, [0] * channels
    with progress.count(split.num_examples, "mean and deviation", stream) as advance:
        try:
            for number, pixels, sums, square_sums in _sums(split.reader).as_numpy_iterator():
                count += int(pixels)
                total = [a + int(b) for a, b in zip(total, sums, strict=True)]
                squares = [a + int(b) for a, b in zip(squares, square_sums, strict=True)]
                advance(int(number))
        except tf.errors.OpError as error:
            broken = decode.broken_image(error)
            if broken is None:
                raise
            raise broken from error
    mean = [Fraction(s, white * count) for s in total]
    variance = [Fraction(s, white**2 * count) - m**2 for s, m in zip(squares, mean, strict=True)]
    if min(variance) == 0:
        raise UserError("--std: expected above 0, found that a channel of the training images is constant; give --mean "
                        "and --std")
    return tuple(float(m) for m in mean), tuple(float(v)**0.5 for v in variance)


def _moments(pixels):
    """Pixels [..., C] -> (number of pixels, sums [C], sums of squares [C]), int64; a piece at a time."""
    channels = pixels.shape[-1]
    pixels = tf.reshape(pixels, [-1, channels])
    number = tf.shape(pixels, tf.int64)[0]

    def add(start, sums, squares):
        wide = tf.cast(pixels[start:start + _PIECE], tf.int64)
        return start + _PIECE, sums + tf.reduce_sum(wide, 0), squares + tf.reduce_sum(wide * wide, 0)

    zeros = tf.zeros([channels], tf.int64)
    _, sums, squares = tf.while_loop(lambda start, *_: start < number, add, (tf.constant(0, tf.int64), zeros, zeros),
                                     parallel_iterations=1)
    return number, sums, squares


def _sums(reader):
    """Dataset of (images, pixels, sums [C], sums of squares [C]), of some of a reader's images each."""
    @as_written
    def added(*columns):
        return tuple(tf.reduce_sum(column, axis=0) for column in columns)

    return reader.map_pixels(_moments).batch(16).map(added)
