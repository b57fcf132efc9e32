"""Image files of any size, decoded one at a time when they are used: their bytes held in memory, or on disk."""

import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from cct_tf import python_calls
from cct_tf.readers import decode, parts, tensors
from cct_tf.readers.reader import Reader, as_written


@dataclasses.dataclass(frozen=True)
class Encoded(Reader):
    """See the module's docstring.

    Attributes:
        contents: string [m], eager: the encoded bytes, or the paths of the files if `on_disk`.
        names: list of m paths, for error messages.
        indices: int64 [n] NumPy array, the entries of `contents` that belong to this split.
        on_disk: whether `contents` holds paths.
        bit_depth: int, see `decode`.
    """

    contents: tf.Tensor
    names: list
    indices: np.ndarray
    on_disk: bool
    bit_depth: int = 16

    def __len__(self):
        return len(self.indices)

    def describe(self):
        return "indexed, decoded as needed from " + ("disk" if self.on_disk else "memory")

    def origin(self, place):
        return str(self.names[self.indices[place]])

    @property
    def held_bytes(self):
        return 0 if self.on_disk else int(tf.reduce_sum(tf.strings.length(self.contents)))

    def sizes(self, most=256):
        found = []
        for index in self.indices[self.spread(most)]:
            value = self.contents[index].numpy()
            with contextlib.suppress(decode.BrokenImage):
                found.append(decode.header_size(decode.read_bytes(value) if self.on_disk else value))
        return np.array([size for size in found if size], np.float64).reshape(-1, 2)

    @functools.cached_property
    def _rows(self):
        with tf.init_scope():  # captured by graphs, not copied into them
            return tensors.on_cpu(np.asarray(self.indices, np.int64))

    def load(self, example):
        """See `Reader.load`.

        Bytes that are held were decoded once when the set was opened, so they cannot fail in a graph. A file on disk
        that fails there is decoded again by Python, because a TensorFlow operation cannot say which file it was.
        """
        row = tf.gather(self._rows, example["index"])
        contents = tf.gather(self.contents, row)
        if tf.executing_eagerly():
            found = contents.numpy()
            found = decode.read_bytes(found) if self.on_disk else found
            return tensors.on_cpu(decode.decode_file(found, self.names[int(row)], self.bit_depth)), None
        if not self.on_disk:
            return decode.decode(contents, self.bit_depth), None
        return self._tried(contents, lambda read: decode.decode(read, self.bit_depth), lambda image: image), None

    def load_part(self, example, part, fast=None):
        contents = tf.gather(self.contents, tf.gather(self._rows, example["index"]))

        def decoded(read):
            return decode.decode_part(read, part, self.bit_depth, fast)

        if not self.on_disk:
            return *decoded(contents), None
        return *self._tried(contents, decoded, parts.of_whole), None

    def _tried(self, path, decoded, of_image):
        """`decoded` of a file's bytes; if that fails, `of_image` of what Python decodes, or its error, with the name.

        "Try, else" in a graph: a data set of one element that is empty if decoding fails, and then the next one.
        """
        path = tf.data.Dataset.from_tensors(path)
        found = path.map(as_written(lambda path: decoded(tf.io.read_file(path)))).ignore_errors()
        named = path.map(as_written(lambda path: of_image(self._decode_by_name(path))))
        return found.concatenate(named).take(1).get_single_element()

    def _decode_by_name(self, path):
        def read(path):
            return decode.decode_file(decode.read_bytes(path), decode.shown(path), self.bit_depth)

        return tf.ensure_shape(python_calls.call(read, [path], tf.uint8, stateful=True), [None, None, 3])

    def select(self, places):
        return dataclasses.replace(self, indices=self.indices[places])
