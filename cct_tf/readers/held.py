"""Decoded images of one size, in one tensor."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from cct_tf.images.pixel_type import PixelType
from cct_tf.readers import budget, tensors
from cct_tf.readers.reader import Reader, as_written

_BLOCK_BYTES = 2**24  # of `map_pixels`


@dataclasses.dataclass(frozen=True)
class Held(Reader):
    """See the module's docstring.

    Attributes:
        tensor: uint8 or uint16 [m, H, W, C], eager, on the CPU (captured by reference; a NumPy array would be copied
            into the graph).
        indices: int64 [n] NumPy array, the images of the tensor that belong to this split (splits share tensors).
        at_network_size: whether they are what the network takes already.
        names: list of m paths, for messages; None where the images were no files.
    """

    tensor: tf.Tensor
    indices: np.ndarray
    at_network_size: bool = False
    names: list | None = None

    holds_pixels = True

    def __len__(self):
        return len(self.indices)

    @property
    def image_shape(self):
        return tuple(self.tensor.shape[1:3])

    def describe(self):
        return "indexed, held in memory"

    def origin(self, place):
        return None if self.names is None else str(self.names[self.indices[place]])

    @property
    def held_bytes(self):
        return math.prod(self.tensor.shape) * self._level_bytes

    @property
    def _level_bytes(self):
        return tf.as_dtype(self.tensor.dtype).size

    @property
    def pixel_type(self):
        return PixelType(self.tensor.shape[-1], 8 * self._level_bytes)

    def sizes(self, most=256):
        return np.array([self.image_shape], np.float64)

    def load(self, example):
        return self.tensor[self._rows[example["index"]]], None

    def gather(self, index):
        return tf.gather(self.tensor, tf.gather(self._rows, index))

    @functools.cached_property
    def _rows(self):
        with tf.init_scope():  # captured by graphs, not copied into them
            return tensors.on_cpu(np.asarray(self.indices, np.int64))

    def select(self, places):
        return dataclasses.replace(self, indices=self.indices[places])

    def map_pixels(self, function):
        image_bytes = math.prod(self.tensor.shape[1:]) * self._level_bytes
        size = tensors.batch_within(_BLOCK_BYTES, image_bytes)
        rows = self._rows

        @as_written
        def block(start):
            chosen = rows[start:start + size]
            return tf.size(chosen), *function(tf.gather(self.tensor, chosen))

        threads = tensors.threads_within(budget.opening(), size * image_bytes + tensors.SUMMING)
        starts = tf.data.Dataset.range(0, len(self), size)
        return tensors.by_reference(starts.map(block, num_parallel_calls=threads).prefetch(2))
