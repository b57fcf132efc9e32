"""Streaming a sharded TFDS set: shards in random order, records shuffled in windows, all from (seed, epoch).

Epoch e visits the shards in a random order; their records, end to end, are cut into windows of W, and each window is
shuffled. Position p = e n + offset names an example of the endless stream, so a stream can start anywhere: it skips
whole shards by their lengths without opening them, then serialized records, then the offset inside the window.

Legend: n records of the split, W window, w records of one window (the last of an epoch may have fewer than W).
"""

import tensorflow as tf

from cct_tf import rng

_BUFFER_BYTES = 8 << 20


def _records(paths, skips, lengths):
    """Dataset of serialized records (string scalars): `lengths` records of each shard after the first `skips`."""
    def shard(path, skip, length):
        return tf.data.TFRecordDataset(path, buffer_size=_BUFFER_BYTES).skip(skip).take(length)

    return tf.data.Dataset.from_tensor_slices((paths, skips, lengths)).flat_map(shard)


def _shards(reader):
    """Eager tensors of a reader's shards: paths string [S], skips int64 [S], lengths int64 [S]."""
    with tf.device("CPU:0"):
        return (tf.constant(reader.paths, tf.string), tf.constant(reader.skips, tf.int64),
                tf.constant(reader.lengths, tf.int64))


def windowed_in_order(reader):
    """The records of a split once, in the order of the files.

    Args:
        reader: source.Windowed.

    Returns:
        tf.data.Dataset of string scalars, serialized records.
    """
    dataset = _records(*_shards(reader))
    return dataset.apply(tf.data.experimental.assert_cardinality(sum(reader.lengths)))


def windowed_examples(reader, seed, start_position):
    """The endless training stream from a position on.

    Args:
        reader: source.Windowed.
        seed: int, the run's seed.
        start_position: int p, the first position wanted.

    Returns:
        tf.data.Dataset without end of {"position": int64 [w], "record": string [w]}, one window (or what is left of the
        first) each; `rebatch` makes batches of them.
    """
    n, window = sum(reader.lengths), reader.window
    num_windows = -(-n // window)
    first_epoch, first_offset = divmod(start_position, n)
    paths, skips, lengths = _shards(reader)

    def one_epoch(epoch):
        offset = tf.where(epoch == first_epoch, tf.constant(first_offset, tf.int64), tf.constant(0, tf.int64))
        first_window = offset // window
        shards = rng.permutation(len(reader.paths), rng.fold_pair(seed, rng.Stream.ORDER, epoch))
        records = _records(*_remaining(tf.gather(paths, shards), tf.gather(skips, shards), tf.gather(lengths, shards),
                                       first_window * window))

        def shuffled(index, batch):
            number = first_window + index
            key = rng.fold_pair(seed, rng.Stream.WINDOW, epoch * num_windows + number)
            order = rng.permutation(tf.size(batch), key)
            begin = number * window
            place = tf.maximum(offset - begin, 0)  # inside the window in which the stream starts
            positions = epoch * n + begin + tf.range(tf.size(batch, tf.int64), dtype=tf.int64)
            return {"position": positions[place:], "record": tf.gather(batch, order[place:])}

        return records.batch(window).enumerate().map(shuffled)

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return epochs.flat_map(one_epoch).prefetch(1)


def _remaining(paths, skips, lengths, start):
    """What is left of shards, end to end, from record `start` on: whole shards go, one may lose its beginning."""
    ends = tf.cumsum(lengths)
    left = tf.clip_by_value(ends - start, 0, lengths)
    kept = left > 0
    return (tf.boolean_mask(paths, kept), tf.boolean_mask(skips + lengths - left, kept), tf.boolean_mask(left, kept))
