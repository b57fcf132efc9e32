"""Counter-based randomness: every random number is a hash of what it is for.

There is no generator state anywhere. A number is named by (run seed, stream, index), so it does not matter which
replica, worker or micro-batch asks for it, nor whether the run was interrupted before. Everything is uint32: it wraps
around on overflow, gives the same bits with and without XLA, and has GPU kernels (TensorFlow keeps int32 on the host).

    fold(seed, Stream.EXAMPLE, positions)        the example seeds of a batch, [B]
    draw(example_seeds, site)                    one uniform uint32 per example and site, [B]
    bits(example_seeds, site, shape)             uint32 for every element of [B, *shape]
    keep_mask(example_seeds, site, shape, rate)  True with probability 1 - rate

A *site* is a written-out constant that says what the number is used for (augmentation operation, dropout layer).
"""

import enum
import zlib

import numpy as np
import tensorflow as tf

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, odd
_ALL = 0xFFFFFFFF  # 32 bits


class Stream(enum.IntEnum):
    """What a number is for. Written out, never counted: reordering them would change every run."""

    ORDER = 1  # index: epoch. The order of the training images
    EXAMPLE = 2  # index: position in the training stream. Augmentation and dropout
    STEP = 3  # index: step. Mixing
    WINDOW = 4  # index: epoch * windows + window. The order inside a window of a streamed set
    WEIGHTS = 5  # index: hash of the variable's path. Initial weights
    SPLIT = 6  # index: class. Validation split
    IMAGE = 7  # index: index of the image in the training set. What belongs to an image, not to a draw
    SAMPLE = 8  # index: place in the order of the training images. What --sampler draws there


def _uint32(value):
    if isinstance(value, (int, np.integer)):
        return tf.constant(int(value) & _ALL, tf.uint32)
    return tf.cast(value, tf.uint32)


def mix(x):
    """A bijective, well-mixed 32-bit finaliser ("lowbias32": Chris Wellons, hash-prospector, public domain).

    Args:
        x: uint32 tensor of any shape, or a Python int, of which the lower 32 bits count.

    Returns:
        uint32 tensor of the same shape; of a Python int another one. What is known when a graph is made needs no
        operations in it, which are most of the time that making it takes.
    """
    if isinstance(x, int):
        x &= _ALL
        x = (x ^ x >> 16) * 0x7FEB352D & _ALL
        x = (x ^ x >> 15) * 0x846CA68B & _ALL
        return x ^ x >> 16
    half = _uint32(16)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, half))
    x = x * _uint32(0x7FEB352D)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint32(15)))
    x = x * _uint32(0x846CA68B)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, half))


def _words(index):
    """Low and high 32-bit word of an index: a Python int or an integer tensor."""
    if isinstance(index, (int, np.integer)):
        return _uint32(int(index)), _uint32(int(index) >> 32)
    index = tf.cast(index, tf.int64)
    low = tf.cast(tf.bitwise.bitwise_and(index, tf.constant(_ALL, tf.int64)), tf.uint32)
    high = tf.cast(tf.bitwise.right_shift(index, tf.constant(32, tf.int64)), tf.uint32)
    return low, high


def fold(seed, stream, index):
    """Hash of (seed, stream, index), the root of all randomness.

    For one seed and stream, different indices below 2^32 give different results.

    Args:
        seed: the run's seed, a Python int.
        stream: a `Stream`.
        index: int, or an integer tensor of any shape. Both of its 32-bit words count.

    Returns:
        uint32 tensor of the shape of `index`.
    """
    low, high = _words(index)
    key = mix(int(seed) + _GOLDEN)
    key = mix((key ^ int(seed) >> 32 & _ALL) + int(stream) * _GOLDEN)
    key = mix(tf.bitwise.bitwise_xor(_uint32(key), high) + _uint32(_GOLDEN))
    return mix(tf.bitwise.bitwise_xor(key, low))


def fold_pair(seed, stream, index):
    """`fold` as an int32 tensor [2], the seed that `tf.random.stateless_*` takes.

    Args:
        seed: Python int.
        stream: a `Stream`.
        index: int or scalar integer tensor.

    Returns:
        int32 tensor [2]. Compute it outside XLA: `stateless_shuffle` has no kernel there.
    """
    first = fold(seed, stream, index)
    second = mix(first * _uint32(_GOLDEN) + _uint32(0x85EBCA6B))
    return tf.bitcast(tf.stack([first, second]), tf.int32)


def permutation(n, seed_pair):
    """A uniformly random order of range(n), int64 [n], the same eagerly, in graphs and in tf.data."""
    return tf.random.experimental.stateless_shuffle(tf.range(tf.cast(n, tf.int64)), seed=seed_pair)


def name_hash(name):
    """A stable 32-bit hash of a string (CRC-32 of its UTF-8 bytes), a Python int."""
    return zlib.crc32(name.encode("utf-8"))


def draw(seeds, site):
    """One uniform uint32 per example for one site.

    Args:
        seeds: uint32 [B], example seeds.
        site: Python int, below 2^32, unique to the use.

    Returns:
        uint32 [B].
    """
    return mix(tf.bitwise.bitwise_xor(seeds, _uint32(mix(int(site) * _GOLDEN + 1))))


def bits(seeds, site, shape):
    """Uniform uint32 for every element of a tensor, independent of the rest of the batch.

    Args:
        seeds: uint32 [B], example seeds.
        site: Python int, unique to the use (layer id).
        shape: sequence of sizes (ints or scalar tensors) of one example; their product is below 2^32.

    Returns:
        uint32 [B, *shape].
    """
    start = draw(seeds, site)
    # Each example has its own start and its own odd stride. With a common stride, one example's numbers would be
    # another's, shifted.
    stride = tf.bitwise.bitwise_or(mix(start + _uint32(_GOLDEN)), _uint32(1))
    extended = tf.constant([-1] + [1] * len(shape))
    counter = tf.reshape(start, extended)
    stride = tf.reshape(stride, extended)
    step = 1
    for axis in reversed(range(len(shape))):
        counter = counter + _steps(shape[axis], step, [1] * axis + [-1] + [1] * (len(shape) - 1 - axis)) * stride
        step = step * shape[axis]
    return mix(counter)


def _steps(size, step, place):
    """0, step, 2 step ... `size` of them along the axis of -1 in `place`: uint32, of ints and scalar tensors.

    Sums of such short ranges make the counter, not one long range: uint32 has no Range kernel on GPUs.
    """
    if isinstance(size, int) and isinstance(step, int):
        return tf.constant(np.uint32(np.arange(size, dtype=np.uint64) * np.uint64(step & _ALL) & _ALL).reshape(place))
    return tf.reshape(tf.cast(tf.range(size), tf.uint32), place) * _uint32(step)


def threshold(rate):
    """The uint32 below which a uniform uint32 falls with probability `rate` (0 <= rate < 1, a Python float)."""
    return _uint32(min(round(rate * 2.0**32), 2**32 - 1))


def keep_mask(seeds, site, shape, rate):
    """True with probability 1 - rate (to 2^-32), for dropout and stochastic depth.

    Args:
        seeds: uint32 [B], example seeds.
        site: Python int, the layer's id.
        shape: sizes of one example's mask.
        rate: Python float, 0 <= rate < 1.

    Returns:
        bool [B, *shape].
    """
    return bits(seeds, site, shape) >= threshold(rate)


def uniform(random_bits):
    """uint32 of any shape -> float32 in [0, 1), on a grid of 2^-24."""
    return tf.cast(tf.bitwise.right_shift(random_bits, _uint32(8)), tf.float32) * 2.0**-24


def uniform_int(random_bits, maximum):
    """uint32 of any shape -> int32 in [0, maximum), for a Python int or int32 tensor `maximum` below 2^24."""
    scaled = tf.floor(uniform(random_bits) * tf.cast(maximum, tf.float32))
    return tf.cast(tf.minimum(scaled, tf.cast(maximum, tf.float32) - 1.0), tf.int32)
