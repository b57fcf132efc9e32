"""Streaming a sharded TFDS set: shards in random order, records shuffled in windows, all from (seed, epoch).

Epoch e visits the shards in a random order; their records, end to end, are cut into windows of W, and each window is
shuffled. Order index e n + offset names an example of the endless stream, so a stream can start anywhere: it skips
whole shards by their lengths without opening them, then serialized records, then the offset inside the window.

Legend: n records of the split, W window, w records of one window (the last of an epoch may have fewer than W).
"""

import dataclasses

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.errors import UserError
from cct_tf.readers import decode
from cct_tf.readers.reader import Reader, as_written

_BUFFER_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Windowed(Reader):
    """Records of a sharded TFDS set, streamed: see the module's docstring.

    Attributes:
        paths: list of the shards' TFRecord files.
        lengths: list of int, the records of each shard that belong to this split.
        skips: list of int, records at the start of each shard that belong to another split.
        decode: function of one serialized record (string scalar) -> (image uint8 [H, W, 3], label int64 scalar); its
            `encoded`, where there is one, gives (bytes of the image, label).
        window: int W.
    """

    paths: list
    lengths: list
    skips: list
    decode: object
    window: int

    knows_labels = True
    own_columns = ("record",)  # string [B], serialized

    def __len__(self):
        return sum(self.lengths)

    def describe(self):
        return f"windowed (streamed, shuffled {self.window:,} records at a time)"

    def sizes(self, most=256):
        return np.zeros([0, 2])

    def load(self, example):
        return self.decode(example["record"])

    def load_part(self, example, part, fast=None):
        if not hasattr(self.decode, "encoded"):
            return super().load_part(example, part, fast)
        contents, label = self.decode.encoded(example["record"])
        return *decode.decode_part(contents, part, fast=fast), label

    def images(self, places):
        wanted, found = set(map(int, places)), {}
        left = list(map(int, places))
        with tf.device("CPU:0"):
            records = iter(self.records().take(max(wanted) + 1 if wanted else 0))
        for place, record in enumerate(records):
            if place in wanted:
                found[place] = record
            while left and left[0] in found:
                with tf.device("CPU:0"):  # not around the yield: it would be the caller's device too
                    image, label = self.decode(found[left.pop(0)])
                yield image.numpy(), int(label)

    def spread(self, count):
        return np.arange(min(count, len(self)))

    def select(self, places):
        if not np.array_equal(places, np.arange(len(places))):
            raise ValueError(f"places: expected the first {len(places)}, found others")
        return self if len(places) == len(self) else self.cut(len(places))[0]

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

    def records(self):
        """The records once, in the order of the files: Dataset of string scalars, serialized."""
        dataset = _records(*self._shards()).map(as_written(lambda example: example["record"]))
        return dataset.apply(tf.data.experimental.assert_cardinality(len(self)))

    def in_order(self, batch_size):
        n, records = len(self), self.records().enumerate()
        # Cached: otherwise each repetition reads the whole split again to find its last record.
        padding = records.skip(n - 1).take(1).cache().repeat(-n % batch_size)
        batches = records.concatenate(padding).batch(batch_size, drop_remainder=True)
        return batches.map(as_written(lambda index, record: {"index": index, "record": record}))

    def order(self, seed, batch_size, start, num_batches):
        examples = self.examples(seed, start * batch_size)
        return examples.rebatch(batch_size, drop_remainder=True).take(num_batches)

    def examples(self, seed, start):
        """The endless order of the training images from a place on.

        Args:
            seed: int, the run's seed.
            start: int, the first order index wanted.

        Returns:
            tf.data.Dataset without end of {"record": string [w], "index": int64 [w], image of the split, "epoch": int64
            [w]}, one window (or what is left of the first) each; `rebatch` makes batches of them.
        """
        n, window = len(self), self.window
        num_windows = -(-n // window)
        first_epoch, first_offset = divmod(start, n)
        columns = self._shards()

        @as_written
        def one_epoch(epoch):
            offset = tf.where(epoch == first_epoch, tf.constant(first_offset, tf.int64), tf.constant(0, tf.int64))
            first_window = offset // window
            shards = rng.permutation(len(self.paths), rng.fold_pair(seed, rng.Stream.ORDER, epoch))
            records = _records(*_remaining(*(tf.gather(column, shards) for column in columns), first_window * window))

            @as_written
            def shuffled(index, batch):
                number = first_window + index
                key = rng.fold_pair(seed, rng.Stream.WINDOW, epoch * num_windows + number)
                order = rng.permutation(tf.size(batch["index"]), key)
                place = tf.maximum(offset - number * window, 0)  # inside the window in which the stream starts
                shuffled = {name: tf.gather(column, order[place:]) for name, column in batch.items()}
                return shuffled | {"epoch": tf.fill(tf.shape(shuffled["index"]), epoch)}

            return records.batch(window).enumerate().map(shuffled)

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return epochs.flat_map(one_epoch).prefetch(1)


def _records(paths, skips, lengths, firsts):
    """Dataset of {"record": string, serialized; "index": int64}, scalars.

    Of each shard `lengths` records after the first `skips`, which are the images `firsts`, `firsts` + 1, ... of the
    split.
    """
    @as_written
    def shard(path, skip, length, first):
        records = tf.data.TFRecordDataset(path, buffer_size=_BUFFER_BYTES).skip(skip).take(length)
        return records.enumerate(first).map(as_written(lambda index, record: {"record": record, "index": index}))

    return tf.data.Dataset.from_tensor_slices((paths, skips, lengths, firsts)).flat_map(shard)


def _remaining(paths, skips, lengths, firsts, start):
    """What is left of shards, end to end, from record `start` on: whole shards go, one may lose its beginning."""
    ends = tf.cumsum(lengths)
    left = tf.clip_by_value(ends - start, 0, lengths)
    kept = left > 0
    gone = lengths - left
    return tuple(tf.boolean_mask(column, kept) for column in (paths, skips + gone, left, firsts + gone))
