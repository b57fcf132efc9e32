"""Image files of any size, decoded one at a time when they are used: their bytes held in memory, or on disk."""

import collections.abc
import contextlib
import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from cct_tf.images import decode, parts
from cct_tf.images.pixel_type import RGB, PixelType
from cct_tf.machine import files, python_calls
from cct_tf.readers import tensors
from cct_tf.readers.broken import Broken, OnDemand


@dataclasses.dataclass(frozen=True)
class Encoded(OnDemand):
    """See the module's docstring.

    Attributes:
        contents: string [m], eager: the encoded bytes, or the paths of the files if `on_disk`.
        names: list of m paths, for error messages.
        indices: int64 [n] NumPy array, the entries of `contents` that belong to this split.
        on_disk: whether `contents` holds paths.
        bit_depth, pixel_type: see `decode.decode`.
        broken: see `broken.OnDemand`.
        note: function of an entry -> text, what else is said of it where it is broken; None: nothing.
    """

    contents: tf.Tensor
    names: list
    indices: np.ndarray
    on_disk: bool
    bit_depth: int = 16
    broken: Broken | None = None
    note: collections.abc.Callable | None = None
    pixel_type: PixelType = RGB

    def __len__(self):
        return len(self.indices)

    def describe(self):
        where = "disk" if self.on_disk else "memory"
        if self._is_remote:
            where = f"{files.scheme(self.origin(0))}://"
        return f"indexed, decoded as needed from {where}"

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

    def tolerating(self, way, known=()):
        return super().tolerating(way, known) if self.on_disk else self  # the others were decoded when it was opened

    def _contents(self, example):
        contents = tf.gather(self.contents, tf.gather(self._rows, example["index"]))
        return self.bytes_of(contents)

    def bytes_of(self, contents):
        """The encoded bytes of an entry of `contents`, in a graph: string scalars."""
        if not self.on_disk:
            return contents
        if not self._is_remote:
            return tf.io.read_file(contents)
        return tf.ensure_shape(python_calls.call(files.read, [contents], tf.string, stateful=True), [])

    @property
    def _is_remote(self):
        return self.on_disk and files.is_remote(str(self.names[0]))  # all have one root

    def attempt(self, example):
        return decode.decode(self._contents(example), self.bit_depth, self.pixel_type), None

    @functools.cached_property
    def _has_large(self):
        """Whether most images, of a few, are large enough for `parts`: for others its choices alone cost 0.4 ms."""
        with tf.init_scope():  # graphs ask too
            areas = self.sizes(most=16).prod(axis=1)
        return bool(len(areas)) and parts.is_worth_it(areas.mean())

    def attempt_part(self, example, part, fast=None):
        if fast is None and not self._has_large:
            return super().attempt_part(example, part)
        return *decode.decode_part(self._contents(example), part, self.bit_depth, fast, self.pixel_type), None

    def decoded(self, place):
        row = int(self.indices[place])
        found = self.contents[row].numpy()
        try:
            found = decode.read_bytes(found) if self.on_disk else found
            return decode.decode_file(found, self.names[row], self.bit_depth, self.pixel_type), None
        except decode.BrokenImage as error:
            if self.note is None or not self.note(row):
                raise
            raise decode.BrokenImage(f"{error}{self.note(row)}") from error

    def home(self, place):
        return files.dirname(os.fsdecode(self.contents[int(self.indices[place])].numpy()))

    @property
    def can_fail(self):
        """Bytes that are held were decoded when the set was opened, so they cannot fail in a graph."""
        return self.on_disk

    def _tried(self, example, attempt, of_image):
        return super()._tried(example, attempt, of_image) if self.can_fail else (*attempt(), example["index"])

    def select(self, places):
        return dataclasses.replace(self, indices=self.indices[places], broken=self.broken and self.broken.of(places))
