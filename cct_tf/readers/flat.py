"""Decoded images of mixed sizes, end to end in one tensor; and holding what was decoded, of one size or mixed."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.images.pixel_type import RGB, PixelType
from cct_tf.readers import loading, progress, tensors
from cct_tf.readers.held import Held
from cct_tf.readers.reader import Reader


@dataclasses.dataclass(frozen=True)
class Flat(Reader):
    """See the module's docstring.

    Attributes:
        pixels: uint8 or uint16 [levels], eager, on the CPU: one image after the other.
        starts: int64 [m] NumPy array, where each begins.
        shapes: int32 [m, 2] NumPy array, height and width of each.
        indices: int64 [n] NumPy array, the images that belong to this split (splits share the tensor).
        names: list of m paths, for messages.
        pixel_type: `pixel_type.PixelType` of the images.
    """

    pixels: tf.Tensor
    starts: np.ndarray
    shapes: np.ndarray
    indices: np.ndarray
    names: list
    pixel_type: PixelType = RGB

    holds_pixels = True

    def __len__(self):
        return len(self.indices)

    def describe(self):
        return "indexed, held in memory"

    def origin(self, place):
        return str(self.names[self.indices[place]])

    @property
    def held_bytes(self):
        return int(self.pixels.shape[0]) * self.pixels.dtype.size

    def sizes(self, most=256):
        return self.shapes[self.indices[self.spread(most)]].astype(np.float64)

    @functools.cached_property
    def _table(self):
        """Of this split's images: start, height and width, int64 [n, 3]."""
        with tf.init_scope():  # captured by graphs, not copied into them
            return tensors.on_cpu(np.column_stack([self.starts, self.shapes])[self.indices])

    def load(self, example):
        start, height, width = tf.unstack(tf.gather(self._table, example["index"]))
        channels = self.pixel_type.channels
        flat = tf.slice(self.pixels, start[None], (height * width * channels)[None])
        return tf.ensure_shape(tf.reshape(flat, tf.stack([height, width, channels])), [None, None, channels]), None

    def select(self, places):
        return dataclasses.replace(self, indices=self.indices[places])


def hold(images, budget, on_bad, what, stream):
    """Decode images of mixed sizes, if they fit.

    Args:
        images: Encoded, `loading.whole`.
        budget: bytes that the pixels may take. Of the free memory they take half at most.
        on_bad, what, stream: as for `loading.decode_uniform`.

    Returns:
        (Flat of all images, bool [n], False where broken); None if they don't fit, or a header lies about its size.

    Raises:
        BrokenImage: a broken image, with on_bad="stop".
    """
    lengths = _lengths(images, budget)
    if lengths is None:
        return None
    try:
        tensors.require_memory(2 * sum(lengths) * images.pixel_type.dtype.itemsize, "pixels")
    except UserError:
        return None
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    pixels = tensors.empty_images([sum(lengths)], images.pixel_type.dtype)
    shapes = np.zeros([len(lengths), 2], np.int32)

    def put(index, image):
        if image.size == lengths[index]:
            pixels[starts[index]:starts[index] + image.size] = image.reshape(-1)
            shapes[index] = image.shape[:2]
        return image.size == lengths[index]

    good = loading.each_decoded(images, put, on_bad, what, stream)
    if good is None:
        return None
    everything = np.arange(len(lengths))
    return Flat(tensors.as_tensor(pixels), starts, shapes, everything, images.names, images.pixel_type), good


def decoded(images, shape, limit, config, what, stream):
    """Decode all images, whether they are of one size or not, and hold them if they fit.

    Args:
        images: Encoded, `loading.whole`.
        shape: (height, width) of the first of them.
        limit: bytes that pixels may take; those of mixed sizes half of it.
        config: DataConfig; with --decode=fast mixed sizes are not held, for they are decoded at a part of their size.
        what, stream: as for `loading.decode_uniform`.

    Returns:
        (function of indices -> Held or Flat, bool [n], False where broken); None if they can't be held.

    Raises:
        BrokenImage: a broken image, with --on_bad_image=stop.
    """
    try:
        pixels, good = loading.decode_uniform(images, shape, config.on_bad_image, what, stream)
    except loading.MixedSizes:
        found = None if config.decode == "fast" else hold(images, limit / 2, config.on_bad_image, what, stream)
        if found is None:
            progress.say(stream, "images of mixed sizes: each is decoded when it is used")
            return None
        return lambda indices: dataclasses.replace(found[0], indices=indices), found[1]
    tensor = tensors.as_tensor(pixels)
    return lambda indices: Held(tensor, indices, names=images.names), good


def _lengths(images, budget):
    """The levels of each image by its header, 0 without one: list of ints; None if they exceed the budget in bytes."""
    found, total = [], 0
    for value in images.contents:
        try:
            contents = decode.read_bytes(value.numpy()) if images.on_disk else value.numpy()
            found.append(images.pixel_type.channels * math.prod(decode.header_size(contents) or (0,)))
        except decode.BrokenImage:
            found.append(0)
        total += found[-1]
        if total * images.pixel_type.dtype.itemsize > budget:
            return None
    return found
