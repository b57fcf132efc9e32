"""tf.data pipelines: positions of the training stream to batches, and a split to padded evaluation batches.

A training batch is a function of (config, seed, step) alone:

    step s -> positions sB ... sB+B-1 -> epoch order -> images -> fit, augment (keyed by example seeds) -> mix -> finish

With R repeats a step takes b = B/R new images, the order indices sb ... sb+b-1; copy r of image j has position
sB + rb + j and its own example seed. Epochs count images processed, n each (order index // n is the epoch whose order
the image came from, which with repeats is another).

A batch is a dict

    "image"  float32 [B, S, S, 3], normalised
    "label"  float32 [B, K], smoothed and mixed in training
    "seed"   uint32 [B], example seeds (zeros in evaluation)
    "mask"   float32 [B], 0 for padding

Legend: B batch, S side of the network's input, K classes, n examples.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment.mix import Mix
from cct_tf.augment.transform import compiled
from cct_tf.data.source import Held, Windowed
from cct_tf.readers import decode, loading, windowed

# Nothing here needs autograph, whose conversion took most of the time of tracing.
_as_written = tf.autograph.experimental.do_not_convert
# Bytes of held images as float32; resizing takes about three times as many. Blocks of a set that is brought to the
# network's size; the largest batch that is resized at once, others are image by image; all threads together.
_BLOCK_BYTES, _BATCH_BYTES, _PARALLEL_BYTES = 2**26, 2**28, 2**29
_MOST_HELD = 2 * 2**30  # bytes; a held set that would be larger at the network's size is resized batch by batch


@dataclasses.dataclass(frozen=True)
class Stream:
    """What the training stream is made of, beside the images and their transform.

    Attributes:
        num_classes: int K.
        seed: int, the run's seed.
        batch_size: int B.
        label_smoothing: float, share of the label spread over all classes (arXiv:1512.00567 section 7).
        repeats: int R, draws of each image in a batch; a divisor of B.
        mix: `mix.Mix`, or None.
        mix_off_epoch: int, batches whose first position is in this epoch or later are not mixed; 0 = never off.
    """

    num_classes: int
    seed: int
    batch_size: int
    label_smoothing: float = 0.0
    repeats: int = 1
    mix: Mix | None = None
    mix_off_epoch: int = 0


def ordered_indices(n, seed, batch_size, start, num_batches):
    """The order of the training images, in batches.

    Args:
        n: int, training examples.
        seed: int, the run's seed.
        batch_size: int b, images per batch.
        start: int, first batch.
        num_batches: int.

    Returns:
        Dataset of {"index": int64 [b], images of the split; "epoch": int64 [b], whose order it is}.
    """
    first, end = start * batch_size, (start + num_batches) * batch_size

    @_as_written
    def one_epoch(epoch):
        order = rng.permutation(n, rng.fold_pair(seed, rng.Stream.ORDER, epoch))
        left = order[tf.maximum(first - epoch * n, 0):]
        return {"index": left, "epoch": tf.fill(tf.shape(left), epoch)}

    epochs = tf.data.Dataset.range(first // n, (end - 1) // n + 1)
    return epochs.map(one_epoch).rebatch(batch_size, drop_remainder=True).take(num_batches)


def _numbered(batches, stream, start_step, part):
    """Repeat each batch of b images R times and give every draw its position and example seed; keep a worker's part."""
    size = stream.batch_size
    rows = _rows_of(part, size)

    @_as_written
    def number(step, batch):
        batch = {name: tf.ensure_shape(tf.concat([part] * stream.repeats, 0), [size]) for name, part in batch.items()}
        position = step * size + tf.range(size, dtype=tf.int64)
        batch |= {"position": position, "seed": rng.fold(stream.seed, rng.Stream.EXAMPLE, position)}
        return {name: column[rows] for name, column in batch.items()}

    return batches.enumerate(start_step).map(number, num_parallel_calls=tf.data.AUTOTUNE)


def _rows_of(part, size):
    """The slice of a batch of `size` examples that is a worker's; `part` as `train_batches` takes it."""
    worker, num_workers = part
    share, rest = divmod(size, num_workers)
    if rest:
        raise ValueError(f"batch: expected a multiple of {num_workers} workers, found {size}")
    return slice(worker * share, (worker + 1) * share)


def hold_at_size(split, transform):
    """`split` with its held images brought to the network's size once, where that is all that `fit` does.

    The pixels are the same as when each batch is resized, so what is held is a matter of speed and memory alone.

    Args:
        split: `source.Split`.
        transform: `transform.Transform`.

    Returns:
        Split: a new one, or the same.
    """
    reader = split.reader
    target = (transform.size, transform.size)
    if not isinstance(reader, Held) or reader.fitted:
        return split
    if reader.image_shape == target and transform.crop_pct == 1.0:
        return split  # nothing to do, now or later
    if split.num_examples * transform.size**2 * 3 > _MOST_HELD:
        return split
    fit = tf.function(transform.fit, autograph=False)
    fitted = loading.empty_images([split.num_examples, *target, 3])
    block = transform.resize_block or loading.batch_within(_BLOCK_BYTES, _float_bytes(reader))
    with tf.device("CPU:0"):  # where tf.data resizes too: another device rounds otherwise
        for start in range(0, split.num_examples, block):
            rows = reader.indices[start:start + block]
            fitted[start:start + block] = fit(tf.gather(reader.images, rows)).numpy()
    return dataclasses.replace(split, reader=Held(loading.as_tensor(fitted), np.arange(split.num_examples), True))


def _float_bytes(reader):
    """Bytes of one image of a Held reader as float32."""
    return 4 * math.prod(reader.images.shape[1:])


def _rows_and_labels(split):
    """Eager tensors: the row of the reader's storage and the class of every example, int64 [n] and int32 [n]."""
    with tf.device("CPU:0"):
        return tf.constant(split.reader.indices, tf.int64), tf.constant(split.labels, tf.int32)


def _fit_one(transform, image, seed=None):
    """`Transform.fit` of one image of any size: uint8 [H, W, 3], uint32 scalar or None -> uint8 [S, S, 3]."""
    return transform.fit(image[None], None if seed is None else seed[None])[0]


def _fitted_indexed(batches, split, transform, training):
    """Add "image" uint8 [B, S, S, 3] and "class" int32 [B] to batches of {"index", "seed", ...}."""
    rows, labels = _rows_and_labels(split)
    reader = split.reader

    if isinstance(reader, Held):
        return _fitted_held(batches, reader, rows, labels, transform, training)

    def load(example):
        image = decode.load_encoded(reader, tf.gather(rows, example["index"]))
        fitted = _fit_one(transform, image, example["seed"] if training else None)
        return example | {"image": fitted, "class": tf.gather(labels, example["index"])}

    return _per_example(batches, load)


def _fitted_held(batches, reader, rows, labels, transform, training):
    """`_fitted_indexed` of a Held reader: batch by batch, or image by image where these are large."""
    images, size = reader.images, batches.element_spec["seed"].shape[0]
    image_bytes = 0 if reader.fitted else _float_bytes(reader)

    @_as_written
    def sample(batch):
        params = transform.sample_fit(batch["seed"] if training else None, *reader.image_shape)
        return batch | {"class": tf.gather(labels, batch["index"])} | ({} if params is None else {"fit": params})

    @_as_written
    def gather(batch):
        batch = dict(batch)
        params = batch.pop("fit", None)
        found = tf.gather(images, tf.gather(rows, batch["index"]))
        return batch | {"image": found if reader.fitted else transform.apply_fit(found, params)}

    @_as_written
    def gather_batch(batch):
        return gather(sample(batch))

    @_as_written
    def gather_one(example):
        found = gather(tf.nest.map_structure(lambda column: column[None], example))
        return tf.nest.map_structure(lambda column: column[0], found)

    if size * image_bytes > _BATCH_BYTES and not transform.resize_block:
        return _per_example(batches.map(sample), gather_one, _parallel_calls(3 * image_bytes))
    return batches.map(gather_batch, num_parallel_calls=_parallel_calls(3 * size * image_bytes))


def _parallel_calls(call_bytes):
    """AUTOTUNE, or fewer calls at once if they take so many bytes each that all threads would take too much."""
    threads = loading.threads_within(_PARALLEL_BYTES, max(call_bytes, 1))
    return tf.data.AUTOTUNE if threads == loading.num_threads() else threads


def _per_example(batches, function, parallel_calls=tf.data.AUTOTUNE):
    """Map a function over single examples, in parallel, and put the batches together again."""
    size = batches.element_spec["seed"].shape[0]
    return batches.unbatch().map(function, num_parallel_calls=parallel_calls).batch(size, drop_remainder=True)


def _fitted_records(batches, split, transform, training, num_classes):
    """As `_fitted_indexed`, for batches of {"record", "seed", ...}. Labels are checked as they come."""
    def load(example):
        example = dict(example)
        image, label = split.reader.decode(example.pop("record"))
        with tf.control_dependencies([decode.require_label(label, num_classes, split.name)]):
            label = tf.identity(label)
        fitted = _fit_one(transform, image, example["seed"] if training else None)
        return example | {"image": fitted, "class": tf.cast(label, tf.int32)}

    return _per_example(batches, load)


def _mixed(images, labels, step, n, stream):
    """Mix neighbours of the batch of `step`: uint8 [B, S, S, 3], float32 [B, K] -> the same."""
    height, width = images.shape[1:3]

    def mix():
        params = stream.mix.sample(stream.seed, step, height, width)
        return compiled(Mix.apply, images, stream.mix)(images, labels, params)

    if not stream.mix_off_epoch:
        return mix()
    return tf.cond(step * stream.batch_size // n < stream.mix_off_epoch, mix, lambda: (images, labels))


def _finish_training(batch, transform, stream, n):
    """From fitted images to the batch the step takes."""
    keys = rng.fold(stream.seed, rng.Stream.IMAGE, batch["index"])
    images = transform.augment(batch["image"], batch["seed"], keys, batch["epoch"])
    labels = tf.one_hot(batch["class"], stream.num_classes)
    labels = labels * (1.0 - stream.label_smoothing) + stream.label_smoothing / stream.num_classes
    if stream.mix is not None:
        images, labels = _mixed(images, labels, batch["position"][0] // stream.batch_size, n, stream)
    images = transform.erase(transform.finish(images), batch["seed"])
    return {"image": images, "label": labels, "seed": batch["seed"], "mask": tf.ones_like(batch["seed"], tf.float32)}


def train_batches(split, transform, stream, start_step, num_steps, part=(0, 1)):
    """Training batches of steps start_step ... start_step + num_steps - 1.

    Args:
        split: `source.Split` to train on.
        transform: `transform.Transform`.
        stream: `Stream`.
        start_step, num_steps: ints.
        part: (worker, number of workers); worker w gets the w-th slice of each batch, and only that is prepared.

    Returns:
        tf.data.Dataset of batch dicts (see the module's docstring).
    """
    n, new = split.num_examples, stream.batch_size // stream.repeats
    streamed = isinstance(split.reader, Windowed)
    if streamed:
        batches = windowed.windowed_examples(split.reader, stream.seed, start_step * new)
        batches = batches.rebatch(new, drop_remainder=True).take(num_steps)
    else:
        batches = ordered_indices(n, stream.seed, new, start_step, num_steps)
    batches = prepared_batches(_numbered(batches, stream, start_step, part), split, transform, stream)
    return batches.prefetch(tf.data.AUTOTUNE)


def prepared_batches(batches, split, transform, stream):
    """Training batches of draws that somebody chose.

    Args:
        batches: Dataset of {"index", "epoch", "position": int64 [B]; "seed": uint32 [B]}, of a streamed split
            "record" too; positions of one batch are of one step.
        split, transform, stream: as in `train_batches`.

    Returns:
        tf.data.Dataset of batch dicts.
    """
    if isinstance(split.reader, Windowed):
        batches = _fitted_records(batches, split, transform, training=True, num_classes=stream.num_classes)
    else:
        if transform.fits_once:
            split = hold_at_size(split, transform)
        batches = _fitted_indexed(batches, split, transform, training=True)

    @_as_written
    def finish(batch):
        return _finish_training(batch, transform, stream, split.num_examples)

    return loading.by_reference(batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE))


def padded_batch_size(eval_batch_size, n, num_replicas):
    """The evaluation batch: min(eval_batch_size, n), rounded up to a multiple of the replicas."""
    size = min(eval_batch_size, n)
    return -(-size // num_replicas) * num_replicas


def evaluation_batches(split, transform, *, num_classes, batch_size, part=(0, 1)):
    """Every example of a split once, in order, padded to full batches.

    Args:
        split: `source.Split`.
        transform: `transform.Transform`; its evaluation side is used.
        num_classes: int K.
        batch_size: int B, see `padded_batch_size`.
        part: (worker, number of workers), as in `train_batches`.

    Returns:
        tf.data.Dataset of batch dicts; padding repeats the last example with mask 0.
    """
    n = split.num_examples
    starts = tf.data.Dataset.range(0, n, batch_size)
    rows = _rows_of(part, batch_size)

    @_as_written
    def numbers(start):
        position = start + tf.range(rows.start, rows.stop, dtype=tf.int64)
        return {"index": tf.minimum(position, n - 1), "seed": tf.zeros_like(position, tf.uint32),
                "mask": tf.cast(position < n, tf.float32)}

    @_as_written
    def finish(batch):
        return {"image": transform.finish(batch["image"]), "label": tf.one_hot(batch["class"], num_classes),
                "seed": batch["seed"], "mask": batch["mask"]}

    if isinstance(split.reader, Windowed):
        records = windowed.windowed_in_order(split.reader)
        # Cached: otherwise each repetition reads the whole split again to find its last record.
        padding = records.skip(n - 1).take(1).cache().repeat(-n % batch_size)
        records = records.concatenate(padding).batch(batch_size, drop_remainder=True)
        batches = tf.data.Dataset.zip(starts.map(numbers), records).map(
            lambda batch, record: {"record": record[rows], "seed": batch["seed"], "mask": batch["mask"]})
        batches = _fitted_records(batches, split, transform, training=False, num_classes=num_classes)
    else:
        batches = _fitted_indexed(starts.map(numbers), hold_at_size(split, transform), transform, training=False)
    batches = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE)
    return loading.by_reference(batches.prefetch(tf.data.AUTOTUNE))


