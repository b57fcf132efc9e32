"""Streaming a sharded TFDS set: shards in random order, records shuffled in windows, all from (seed, epoch).

Epoch e visits the shards in a random order; their records, end to end, are cut into windows of W, and each window is
shuffled. Order index e n + offset names an example of the endless stream, so a stream can start anywhere: it skips
whole shards by their lengths without opening them, then serialized records, then the offset inside the window.

Of a shard TensorFlow reads nothing behind a damaged record. What is missing is empty in the stream, so the order stays;
`fetch` reads those that are sound (see `tf_records`), and the others are broken images.

While one shard is read, the next two are read ahead; the order of the records is that of the shards, one after the
other. Batches are taken from one window while the next is filled; the bytes of three to four windows were seen in
memory. They define the order, so they are no part of the budget; `describe` says what they take.

Legend: n records of the split, W window, w records of one window (the last of an epoch may have fewer than W).
"""

import bisect
import contextlib
import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.images.pixel_type import RGB
from cct_tf.machine import python_calls
from cct_tf.readers import budget, tensors, tf_records
from cct_tf.readers.broken import Broken, OnDemand
from cct_tf.readers.reader import as_written

_BUFFER_BYTES = 8 << 20
_WINDOWS = 4  # in memory, see above
_PART = 64  # records of a window that are taken out of it at a time


@dataclasses.dataclass(frozen=True)
class Windowed(OnDemand):
    """Records of a sharded TFDS set, streamed: see the module's docstring.

    Attributes:
        paths: list of the shards' TFRecord files.
        lengths: list of int, the records of each shard that belong to this split.
        skips: list of int, records at the start of each shard that belong to another split.
        decode: function of one serialized record (string scalar) -> (image [H, W, C], label int64 scalar); its
            `encoded`, where there is one, gives (bytes of the image, label), its `pixel_type` that of the image.
        window: int W.
        broken: see `broken.OnDemand`.
    """

    paths: list
    lengths: list
    skips: list
    decode: object
    window: int
    broken: Broken | None = None

    knows_labels = True
    shuffling = "windowed"
    own_columns = ("record",)  # string [B], serialized; empty where the stream could not read it

    def __len__(self):
        return sum(self.lengths)

    def describe(self):
        window_bytes = min(self.window, len(self)) * self._bytes_of_records().mean()
        return (f"windowed (streamed, shuffled {self.window:,} records at a time, which takes about "
                f"{max(1, round(_WINDOWS * window_bytes / 2**20)):,} MiB)")

    def sizes(self, most=256):
        return np.zeros([0, 2])

    def origin(self, place):
        path, number = self._located(place)
        return f"{path} (record {number})"

    @property
    def pixel_type(self):
        return getattr(self.decode, "pixel_type", RGB)

    def attempt(self, example):
        return self.decode(example["record"])

    def attempt_part(self, example, part, fast=None):
        if not hasattr(self.decode, "encoded"):
            return super().attempt_part(example, part, fast)
        contents, label = self.decode.encoded(example["record"])
        return *decode.decode_part(contents, part, fast=fast, pixel_type=self.pixel_type), label

    def fetch(self, batches):
        @as_written
        def fill(batch):
            place, record = batch["index"], batch["record"]
            missing = tf.where(tf.equal(tf.strings.length(record), 0))  # int64 [k, 1]

            def filled():
                found = python_calls.call(self._salvaged, [tf.gather_nd(place, missing)], tf.string, stateful=True)
                return tf.tensor_scatter_nd_update(record, missing, tf.ensure_shape(found, [None]))

            record = tf.cond(tf.size(missing) > 0, filled, lambda: record)
            return batch | {"record": tf.ensure_shape(record, place.shape)}

        return batches.map(fill)

    def _salvaged(self, places):
        """Serialized records that the stream could not read, int64 [k] -> objects [k]; empty are those that are broken.
        """
        def one(place):
            if self.broken is None or place not in self.broken.known:
                with contextlib.suppress(decode.BrokenImage):
                    return self._record(place)
            return b""

        return np.array([one(int(place)) for place in places], object)

    def decoded(self, place):
        return self._decoded(place, self._record(place))

    def _decoded(self, place, record):
        """As `decoded`; `record` is the serialized record, bytes."""
        try:
            image, label = self.decode(tensors.on_cpu(record))
        except Exception as error:  # whatever TFDS or the decoder raise on damaged bytes
            raise decode.named(error, self.origin(place)) from error
        return image.numpy(), label.numpy()

    def _record(self, place):
        """The serialized record at a place, bytes; BrokenImage, or an OSError of the storage."""
        try:
            return tf_records.read(*self._located(place))
        except ValueError as error:
            raise decode.named(error, self.origin(place)) from error

    def home(self, place):
        return self._located(place)[0]

    @functools.cached_property
    def _ends(self):
        return np.cumsum(self.lengths).tolist()

    def _located(self, place):
        """A place in this split -> (path of the shard, number of the record in it)."""
        shard = bisect.bisect_right(self._ends, place)
        return self.paths[shard], self.skips[shard] + place - self._ends[shard] + self.lengths[shard]

    def found(self, places):
        wanted, records = set(map(int, places)), {}
        left = list(map(int, places))
        with tf.device("CPU:0"):
            stream = iter(self._bearing_records(ahead=1).take(max(wanted) + 1 if wanted else 0))
        for place, record in enumerate(stream):
            if place in wanted:
                records[place] = record.numpy()
            while left and left[0] in records:
                with tf.device("CPU:0"):  # not around the yield: it would be the caller's device too
                    image, label, found = self._found(left[0], records[left.pop(0)])
                yield image, int(label), found

    def _found(self, place, record):
        """As `_find`, of a record that the stream has read, or could not: then it is empty."""
        if not record:
            return self._find(place)
        if self.broken is None:
            return *self._decoded(place, record), place
        with contextlib.suppress(decode.BrokenImage):
            if place not in self.broken.known:
                return *self._decoded(place, record), place
        return self.broken.find(self, place, is_look=True)

    def spread(self, count):
        return np.arange(min(count, len(self)))

    def select(self, places):
        if not np.array_equal(places, np.arange(len(places))):
            raise ValueError(f"places: expected the first {len(places)}, found others")
        if len(places) == len(self):
            return self
        return dataclasses.replace(self.cut(len(places))[0], broken=self.broken and self.broken.of(places))

    def cut(self, number):
        """(Reader of the first `number` records, reader of the others)."""
        first, rest = [], []
        for path, skip, length in zip(self.paths, self.skips, self.lengths, strict=True):
            head = min(length, number)
            number -= head
            first += [(path, head, skip)] if head else []
            rest += [(path, length - head, skip + head)] if length > head else []
        return tuple(Windowed(*(list(column) for column in zip(*shards, strict=True)), self.decode, self.window)
                     for shards in (first, rest))

    def place_in_epoch(self, seed, epoch, index):
        return tf.range(tf.size(index, tf.int64), dtype=tf.int64)

    def map_pixels(self, function):
        raise UserError("--mean: expected --mean and --std, for a streamed data set is not read to compute them, found "
                        "neither")

    # Records.

    def _shards(self):
        """Eager tensors of the shards: paths string [S], skips, lengths, first images int64 [S]."""
        with tf.device("CPU:0"):
            lengths = tf.constant(self.lengths, tf.int64)
            return (tf.constant(self.paths, tf.string), tf.constant(self.skips, tf.int64), lengths,
                    tf.cumsum(lengths, exclusive=True))

    def _bytes_of_records(self):
        """Of each shard the bytes of a record, on average: float64 [shards]; 0 where a shard is missing."""
        return np.array([os.path.getsize(path) / (skip + length) if os.path.exists(path) else 0
                         for path, skip, length in zip(self.paths, self.skips, self.lengths, strict=True)])

    def _ahead(self):
        """How many records of each shard may be read ahead, of the one that is read and of the next two."""
        most = budget.ahead() // 3 // max(self._bytes_of_records().max(initial=0), 1)
        return max(1, min(int(most), max(self.lengths)))

    def records(self):
        """The records once, in the order of the files: Dataset of string scalars, serialized. Damage is an error."""
        return self._all(_records(*self._shards(), self._ahead(), _sound))

    def _bearing_records(self, ahead=None):
        """As `records`, with empty ones where the stream can't read.

        Args:
            ahead: int, records of each shard that may be read ahead; None: as many as memory is set aside for.
        """
        return self._all(_records(*self._shards(), ahead or self._ahead()))

    def _all(self, examples):
        """All records of the split, of `_records`: Dataset of string scalars."""
        dataset = examples.map(as_written(lambda example: example["record"]))
        return dataset.apply(tf.data.experimental.assert_cardinality(len(self)))

    def in_order(self, batch_size):
        @as_written
        def filled(index, record):
            missing = batch_size - tf.size(index)

            def column_of(column):  # a whole one is not copied
                padded = tf.cond(missing > 0, lambda: tf.concat([column, tf.repeat(column[-1:], missing)], 0),
                                 lambda: column)
                return tf.ensure_shape(padded, [batch_size])

            return {"index": column_of(index), "record": column_of(record)}

        return self._bearing_records().enumerate().batch(batch_size).map(filled)

    def order(self, seed, batch_size, start, num_batches):
        examples = self.examples(seed, start * batch_size)
        return examples.rebatch(batch_size, drop_remainder=True).take(num_batches)

    def examples(self, seed, start):
        """The endless order of the training images from a place on.

        Args:
            seed: int, the run's seed.
            start: int, the first order index wanted.

        Returns:
            tf.data.Dataset without end of {"record": string [k], "index": int64 [k], image of the split, "epoch": int64
            [k]}, at most `_PART` images of a window each; `rebatch` makes batches of them.
        """
        n, window = len(self), self.window
        num_windows = -(-n // window)
        first_epoch, first_offset = divmod(start, n)
        columns, ahead = self._shards(), self._ahead()

        @as_written
        def windows(epoch):
            first = tf.where(epoch == first_epoch, tf.constant(first_offset // window, tf.int64), 0)
            shards = rng.permutation(len(self.paths), rng.fold_pair(seed, rng.Stream.ORDER, epoch))
            left = _remaining(*(tf.gather(column, shards) for column in columns), first * window)
            records = _records(*left, ahead).batch(window).enumerate(first)
            return records.map(as_written(lambda number, batch: (epoch, number, batch)))

        @as_written
        def shuffled(epoch, number, batch):
            key = rng.fold_pair(seed, rng.Stream.WINDOW, epoch * num_windows + number)
            place = tf.where(epoch == first_epoch, tf.maximum(first_offset - number * window, 0), 0)
            order = rng.permutation(tf.size(batch["index"]), key)[place:]  # from where the stream starts

            @as_written
            def part(start):
                chosen = order[start:start + _PART]
                found = {name: tf.gather(column, chosen) for name, column in batch.items()}
                return found | {"epoch": tf.fill(tf.shape(chosen), epoch)}

            return tf.data.Dataset.range(0, tf.size(order, tf.int64), _PART).map(part)

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return epochs.flat_map(windows).prefetch(1).flat_map(shuffled)


def _sound(path, skip, length):
    """Some records of a shard: Dataset of (number, string), scalars. What is damaged is an error, what is missing not.
    """
    records = tf.data.TFRecordDataset(path, buffer_size=_BUFFER_BYTES).skip(skip)
    return tf.data.Dataset.zip(tf.data.Dataset.range(length), records)


def _bearing(path, skip, length):
    """As `_sound`, but always `length`: from the first one on that can't be read they are empty, and not numbered."""
    # Each error uses up a number, so even a shard that can't be opened comes to an end.
    empty = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), "")).repeat()
    return _sound(path, skip, length).ignore_errors().concatenate(empty).take(length)


def _records(paths, skips, lengths, firsts, ahead, records_of=_bearing):
    """Dataset of {"record": string, serialized; "index": int64}, scalars.

    Of each shard `lengths` records after the first `skips`, which are the images `firsts`, `firsts` + 1, ... of the
    split. About `ahead` records of a shard and of each of the next two are read before they are asked for.
    """
    @as_written
    def shard(path, skip, length, first):
        found = records_of(path, skip, length).enumerate(first)
        return found.map(as_written(lambda index, numbered: {"record": numbered[1], "index": index}))

    # A cycle of one is one shard after the other. TensorFlow reads two more shards than the cycle has, and of each two
    # blocks.
    shards = tf.data.Dataset.from_tensor_slices((paths, skips, lengths, firsts))
    return shards.interleave(shard, cycle_length=1, block_length=-(-ahead // 2), num_parallel_calls=1,
                             deterministic=True)


def _remaining(paths, skips, lengths, firsts, start):
    """What is left of shards, end to end, from record `start` on: whole shards go, one may lose its beginning."""
    ends = tf.cumsum(lengths)
    left = tf.clip_by_value(ends - start, 0, lengths)
    kept = left > 0
    gone = lengths - left
    return tuple(tf.boolean_mask(column, kept) for column in (paths, skips + gone, left, firsts + gone))
