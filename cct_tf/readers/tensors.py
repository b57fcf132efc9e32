"""Images in memory: tensors on the CPU without copies, and how many to handle at a time."""

import math

import numpy as np
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.machine import container

GIB = 2**30
DECODING = 6  # bytes a pixel: the image, and a copy that is turned or handed over
SUMMING = 6 * 2**20  # bytes of a piece of `statistics`, whatever the image
MOST_IMAGES = 256  # handled at a time
_ALIGNMENT = 64  # bytes; what TensorFlow's own tensors have


def num_threads():
    """Threads for decoding: the cores this process may use."""
    return container.num_cores()


def threads_within(budget, call_bytes):
    """How many threads to use where each takes so many bytes: as many as fit into `budget` bytes, at least one."""
    return max(1, min(num_threads(), budget // call_bytes))


def batch_within(budget, image_bytes):
    """How many images of so many bytes are handled at a time: as many as fit into `budget` bytes, from 1 to 256."""
    return max(1, min(MOST_IMAGES, budget // image_bytes))


def require_memory(needed, what):
    """Raise UserError if `needed` bytes for holding `what` exceed the free memory (where the system tells it)."""
    available = container.free_memory()
    if available is not None and needed > available:
        raise UserError(f"--in_memory_gib: expected at most the free memory, {available / GIB:.1f} GiB, found that "
                        f"holding {what} takes {needed / GIB:.1f} GiB")


def on_cpu(value):
    """An eager tensor on the CPU, whatever the devices."""
    with tf.device("CPU:0"):
        return tf.constant(value)


def empty_images(shape, dtype=np.uint8):
    """An array of zeros for `as_tensor`. It takes memory only as it is written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start:start + size].view(dtype).reshape(shape)


def as_tensor(images):
    """The eager tensor on the CPU whose memory is that of an array of `empty_images`. Nobody may write to it again.

    `tf.constant` would hold the images twice.
    """
    with tf.device("CPU:0"):
        return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def by_reference(dataset):
    """`dataset`, whose functions hold large tensors, without the rewriting that copies each of them.

    tf.data's default optimizations make constants of captured tensors: a second copy, which stays.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
