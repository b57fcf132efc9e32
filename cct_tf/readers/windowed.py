"""Streaming a sharded TFDS set: shards in random order, records shuffled in windows, all from (seed, epoch).

Epoch e visits the shards in a random order; their records, end to end, are cut into windows of W, and each window is
shuffled. Order index e n + offset names an example of the endless stream, so a stream can start anywhere: it skips
whole shards by their lengths without opening them, then serialized records, then the offset inside the window.

Legend: n records of the split, W window, w records of one window (the last of an epoch may have fewer than W).
"""

import tensorflow as tf

from cct_tf import rng

_BUFFER_BYTES = 8 << 20
_as_written = tf.autograph.experimental.do_not_convert  # there is nothing in it to rewrite


def _records(paths, skips, lengths, firsts):
    """Dataset of {"record": string, serialized; "index": int64}, scalars.

    Of each shard `lengths` records after the first `skips`, which are the images `firsts`, `firsts` + 1, ... of the
    split.
    """
    @_as_written
    def shard(path, skip, length, first):
        records = tf.data.TFRecordDataset(path, buffer_size=_BUFFER_BYTES).skip(skip).take(length)
        return records.enumerate(first).map(_as_written(lambda index, record: {"record": record, "index": index}))

    return tf.data.Dataset.from_tensor_slices((paths, skips, lengths, firsts)).flat_map(shard)


def _shards(reader):
    """Eager tensors of a reader's shards: paths string [S], skips, lengths, first images int64 [S]."""
    with tf.device("CPU:0"):
        lengths = tf.constant(reader.lengths, tf.int64)
        return (tf.constant(reader.paths, tf.string), tf.constant(reader.skips, tf.int64), lengths,
                tf.cumsum(lengths, exclusive=True))


def windowed_in_order(reader):
    """The records of a split once, in the order of the files.

    Args:
        reader: source.Windowed.

    Returns:
        tf.data.Dataset of string scalars, serialized records.
    """
    dataset = _records(*_shards(reader)).map(_as_written(lambda example: example["record"]))
    return dataset.apply(tf.data.experimental.assert_cardinality(sum(reader.lengths)))


def windowed_examples(reader, seed, start):
    """The endless order of the training images from a place on.

    Args:
        reader: source.Windowed.
        seed: int, the run's seed.
        start: int, the first order index wanted.

    Returns:
        tf.data.Dataset without end of {"record": string [w], "index": int64 [w], image of the split, "epoch": int64
        [w]}, one window (or what is left of the first) each; `rebatch` makes batches of them.
    """
    n, window = sum(reader.lengths), reader.window
    num_windows = -(-n // window)
    first_epoch, first_offset = divmod(start, n)
    columns = _shards(reader)

    @_as_written
    def one_epoch(epoch):
        offset = tf.where(epoch == first_epoch, tf.constant(first_offset, tf.int64), tf.constant(0, tf.int64))
        first_window = offset // window
        shards = rng.permutation(len(reader.paths), rng.fold_pair(seed, rng.Stream.ORDER, epoch))
        records = _records(*_remaining(*(tf.gather(column, shards) for column in columns), first_window * window))

        @_as_written
        def shuffled(index, batch):
            number = first_window + index
            key = rng.fold_pair(seed, rng.Stream.WINDOW, epoch * num_windows + number)
            order = rng.permutation(tf.size(batch["index"]), key)
            place = tf.maximum(offset - number * window, 0)  # inside the window in which the stream starts
            shuffled = {name: tf.gather(part, order[place:]) for name, part in batch.items()}
            return shuffled | {"epoch": tf.fill(tf.shape(shuffled["index"]), epoch)}

        return records.batch(window).enumerate().map(shuffled)

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return epochs.flat_map(one_epoch).prefetch(1)


def _remaining(paths, skips, lengths, firsts, start):
    """What is left of shards, end to end, from record `start` on: whole shards go, one may lose its beginning."""
    ends = tf.cumsum(lengths)
    left = tf.clip_by_value(ends - start, 0, lengths)
    kept = left > 0
    gone = lengths - left
    return tuple(tf.boolean_mask(column, kept) for column in (paths, skips + gone, left, firsts + gone))
