"""A sharded TFDS set in ArrayRecord files: a record is found by its place, read and decoded when it is used.

Records are read by Python, a batch at a time: a call from TensorFlow takes 0.1 ms, a record 0.01.

TFDS' own `as_data_source` reads the same records, but decodes with another decoder and keeps every shard open.

Legend: n records of the split, m records of its shards before any were chosen.
"""

import bisect
import concurrent.futures
import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf
from array_record.python import array_record_module

from cct_tf.images import decode
from cct_tf.images.pixel_type import RGB
from cct_tf.machine import python_calls
from cct_tf.readers import tensors
from cct_tf.readers.broken import Broken, OnDemand
from cct_tf.readers.reader import as_written

_MOST_OPEN = 128  # shards of a split that are kept open; opening one takes 0.2 ms, and systems may allow 1,024 files
_MOST_OPENING = 16  # at a time
_BLOCK = 64  # records read at a time where all of them are read
_MOST_BATCHES = 4  # read at a time


@dataclasses.dataclass(frozen=True)
class ArrayRecords(OnDemand):
    """See the module's docstring.

    Attributes:
        paths: list of the shards' files.
        lengths: list of int, the records of each shard that may be used, m in all.
        skips: list of int, records at the start of each shard that belong to another split.
        decode: function of one serialized record (string scalar) -> (image [H, W, C], label int64 scalar). Its
            attribute `encoded` is a function of the same -> (bytes of the image, label), `pixel_type` that of the
            image, or missing.
        indices: int64 [n] NumPy array, those of the m records that belong to this split; None: all.
        broken: see `broken.OnDemand`.
    """

    paths: list
    lengths: list
    skips: list
    decode: object
    indices: np.ndarray | None = None
    broken: Broken | None = None

    knows_labels = True
    own_columns = ("record",)  # string [B], serialized

    def __len__(self):
        return sum(self.lengths) if self.indices is None else len(self.indices)

    def describe(self):
        return "indexed, decoded as needed from ArrayRecord shards"

    def origin(self, place):
        path, number = self._located(place)
        return f"{path} (record {number})"

    def sizes(self, most=256):
        found = []
        for place in self.spread(most):
            with contextlib.suppress(Exception):  # a damaged one shows itself when it is used
                encoded, _ = self.decode.encoded(tensors.on_cpu(self._record(place)))
                found.append(decode.header_size(encoded.numpy()))
        return np.array([size for size in found if size], np.float64).reshape(-1, 2)

    def fetch(self, batches):
        def found(places):  # an array of objects: one of bytes would lose zeros at their ends
            return np.array([self._record_or_none(place) for place in places], object)

        @as_written
        def read(batch):
            records = python_calls.call(found, [batch["index"]], tf.string, stateful=True)
            return batch | {"record": tf.ensure_shape(records, batch["index"].shape)}

        return batches.map(read, num_parallel_calls=_MOST_BATCHES)

    @property
    def pixel_type(self):
        return getattr(self.decode, "pixel_type", RGB)

    def attempt(self, example):
        return self.decode(example["record"])

    def attempt_part(self, example, part, fast=None):
        contents, label = self.decode.encoded(example["record"])
        return *decode.decode_part(contents, part, fast=fast, pixel_type=self.pixel_type), label

    def decoded(self, place):
        try:
            image, label = self.decode(tensors.on_cpu(self._record(place)))
        except Exception as error:  # whatever array_record, TFDS or the decoder raise on damaged bytes
            raise decode.named(error, self.origin(place)) from error
        return image.numpy(), label.numpy()

    def home(self, place):
        return self._located(place)[0]

    def select(self, places):
        return dataclasses.replace(self, indices=places if self.indices is None else self.indices[places],
                                   broken=self.broken and self.broken.of(places))

    def cut(self, number):
        """(Reader of the first `number` records, reader of the others)."""
        places = np.arange(len(self))
        return self.select(places[:number]), self.select(places[number:])

    # Records.

    @functools.cached_property
    def _columns(self):
        """Of each shard: the place behind its last record, and what makes a number in its file of a place; ints."""
        ends = np.cumsum(self.lengths)
        return ends.tolist(), (np.array(self.skips) + self.lengths - ends).tolist()

    def _located(self, place):
        """A place in this split -> (path of the shard, number of the record in it)."""
        (ends, offsets), place = self._columns, int(place if self.indices is None else self.indices[place])
        shard = bisect.bisect_right(ends, place)
        return self.paths[shard], place + offsets[shard]

    @functools.cached_property
    def _open(self):
        return functools.lru_cache(_MOST_OPEN)(_opened)  # a shard that is dropped stays open while a thread reads it

    def _record(self, place):
        """The serialized record at a place, bytes; RuntimeError."""
        path, number = self._located(place)
        return self._open(path).read([number])[0]

    def _record_or_none(self, place):
        """As `_record`, but empty where it can't be read: decoding it will say why."""
        with contextlib.suppress(RuntimeError):
            return self._record(place)
        return b""

    def records(self):
        """The records once, in the order of the files: Dataset of string scalars, serialized."""
        def block(start):
            places = range(start, min(start + _BLOCK, len(self)))
            return np.array([self._record(place) for place in places], object)

        @as_written
        def read(start):
            return tf.ensure_shape(python_calls.call(block, [start], tf.string, stateful=True), [None])

        return tf.data.Dataset.range(0, len(self), _BLOCK).map(read).unbatch()


def _opened(path):
    """The open reader of a shard; RuntimeError if it is missing, or its end is, where its index lies."""
    reader = array_record_module.ArrayRecordReader(path, options="readahead_buffer_size:0",
                                                   file_reader_buffer_size=32768)
    if not reader.ok():
        reader.close()  # raises what is wrong
    return reader


def find_unsound(paths, least):
    """The first shard that can't be opened, or holds too few records; no record is read.

    Args:
        paths: list of shards.
        least: sequence of ints, records that each must hold.

    Returns:
        (path, what is wrong with it: text); None if all are sound.
    """
    def wrong(path, least):
        try:
            found = _opened(path).num_records()
        except RuntimeError as error:
            return path, str(error)
        return (path, f"{found} records, where {least} should be") if found < least else None

    with concurrent.futures.ThreadPoolExecutor(_MOST_OPENING) as pool:
        return next(filter(None, pool.map(wrong, paths, least)), None)
