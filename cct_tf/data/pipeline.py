"""tf.data pipelines: positions of the training order to batches, and a split to padded evaluation batches.

A training batch is a function of (config, seed, step) alone:

    step s -> positions sB ... sB+B-1 -> the reader's order -> images -> the stages of the host, keyed by example seeds

With R repeats a step takes b = B/R new images, the order indices sb ... sb+b-1; copy r of image j has position
sB + rb + j and its own example seed. An epoch of the plan is n positions. The order of the images has epochs of its
own, n order indices each; with repeats they last R times as long. --sampler draws other images, see `sampler`.

A batch is a dict

    "image"  uint8 or uint16 [B, S, S, C]; `stages.on_device` makes of it what the network takes
    "label"  float32 [B, K], smoothed and mixed in training
    "seed"   uint32 [B], example seeds (zeros in evaluation)
    "weight" float32 [B], in training alone, of a split whose examples have weights; mixed as the labels are
    "mask"   float32 [B], 0 for padding, and in evaluation for what is broken
    "broken" float32 [B], in evaluation alone, 1 for images that can't be decoded, see `readers.broken`
    "STAGE/PARAMETER"  [B, ...], what the stages on the device have to know

Legend: B batch, S S height and width of the network's input, which need not be equal, C channels, K classes, n
examples.
"""

import dataclasses
import math

import tensorflow as tf

from cct_tf import rng
from cct_tf.augment import stages as stages_lib
from cct_tf.data import holding, reading, sampler
from cct_tf.readers import budget, tensors
from cct_tf.readers.reader import as_written

_STAGING = 4  # times a batch of levels, taken by a call of the stages of the host: what goes in, comes out, between
_WHOLE = (0, 1)  # the share of a worker that is alone


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which images make a training batch.

    Attributes:
        seed: int, the run's seed.
        batch_size: int B.
        repeats: int R, draws of each image in a batch; a divisor of B.
        sampler: "none", each image once an epoch; "balanced" or "sqrt", see `sampler`.
    """

    seed: int
    batch_size: int
    repeats: int = 1
    sampler: str = "none"

    @property
    def num_images(self):
        """b, new images of a batch."""
        return self.batch_size // self.repeats


def order(split, sampling, num_images, start, num_batches):
    """The order of the training images, in batches of `num_images`, as `Reader.order` gives it."""
    if sampling.sampler == "none":
        return split.reader.order(sampling.seed, num_images, start, num_batches)
    return sampler.order(sampling.sampler, split, sampling.seed, num_images, start, num_batches)


def _drawn(split, sampling, start_step, num_steps, share):
    """Batches of b images in the reader's order, each repeated R times, numbered, with example seeds; a worker's share.
    """
    batches, size = order(split, sampling, sampling.num_images, start_step, num_steps), sampling.batch_size
    rows = _rows_of(share, size)

    @as_written
    def number(step, batch):
        batch = {name: tf.ensure_shape(tf.concat([column] * sampling.repeats, 0), [size])
                 for name, column in batch.items()}
        position = step * size + tf.range(size, dtype=tf.int64)
        batch |= {"position": position, "seed": rng.fold(sampling.seed, rng.Stream.EXAMPLE, position)}
        return {name: column[rows] for name, column in batch.items()}

    holds_files = any(spec.dtype == tf.string for spec in tf.nest.flatten(batches.element_spec))  # and copies them
    return batches.enumerate(start_step).map(number, num_parallel_calls=1 if holds_files else tf.data.AUTOTUNE)


def _rows_of(share, size):
    """The slice of a batch of `size` examples that is a worker's; `share` as `train_batches` takes it."""
    worker, num_workers = share
    number, rest = divmod(size, num_workers)
    if rest:
        raise ValueError(f"batch: expected a multiple of {num_workers} workers, found {size}")
    return slice(worker * number, (worker + 1) * number)


def staged(batches, stages, finish=lambda batch: batch):
    """Batches after the stages of the host that take batches.

    Args:
        batches: Dataset of batches as `read_batches` gives them.
        stages: tuple of `stages.Stage`; those of other places are left out.
        finish: function of a batch, called last.

    Returns:
        Dataset.
    """
    chosen = stages_lib.of_place(stages, stages_lib.BATCH)

    @as_written
    def run(batch):
        for stage in chosen:
            shape = batch["image"].shape[1:3]
            batch = stage.apply(batch, stage.sample(batch, tuple(shape)))
        return finish(batch)

    image = batches.element_spec["image"]
    calls = reading.parallel_calls(_STAGING * math.prod(image.shape) * image.dtype.size, budget.staging())
    # A parallel map fetches its input in turn with its calls. Where these are few, the batch after is read meanwhile.
    batches = batches if calls == tf.data.AUTOTUNE else batches.prefetch(1)
    return tensors.by_reference(batches.map(run, num_parallel_calls=calls))


def _shipped(batches, stages):
    """What goes to the device: `staged`, and what the stages of the device have to know."""
    @as_written
    def finish(batch):
        batch = {"mask": tf.ones_like(batch["seed"], tf.float32)} | stages_lib.sample_for_device(batch, stages)
        return {name: value for name, value in batch.items() if name not in ("index", "epoch", "position")}

    return staged(batches, stages, finish)


def _prefetched(batches):
    """Batches made ahead, as many as wait within the budget. That bounds what tf.data tunes by itself, too."""
    options = tf.data.Options()
    options.autotune.ram_budget = budget.waiting()
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def train_batches(split, stages, sampling, start_step, num_steps, share=_WHOLE):
    """Training batches of steps start_step ... start_step + num_steps - 1.

    Args:
        split: `source.Split` to train on.
        stages: tuple of `stages.Stage`, of `Transform.training_stages`.
        sampling: `Sampling`.
        start_step, num_steps: ints.
        share: (worker, number of workers); worker w gets the w-th slice of each batch, and only that is prepared.

    Returns:
        tf.data.Dataset of batch dicts (see the module's docstring).
    """
    return _prefetched(prepared_batches(_drawn(split, sampling, start_step, num_steps, share), split, stages))


def read_batches(split, stages, sampling, start_step, num_steps):
    """Training batches as they are before the other stages of the host.

    Args: as of `train_batches`.

    Returns:
        Dataset of dicts: "image" [B, S, S, C], "class" int32 [B], "index", "epoch", "position" int64 [B], "seed"
        uint32 [B].
    """
    batches = _drawn(split, sampling, start_step, num_steps, _WHOLE)
    return _prefetched(reading.read(batches, split, stages))


def prepared_batches(batches, split, stages):
    """Training batches of draws that somebody chose.

    Args:
        batches: Dataset of batches of examples (see `readers.reader`) with "epoch" and "position" int64 [B] and "seed"
            uint32 [B]; positions of one batch are of one step.
        split, stages: as in `train_batches`.

    Returns:
        tf.data.Dataset of batch dicts.
    """
    if split.reader.image_shape is not None:  # of others only these may be wanted
        split = holding.hold_at_size(split, stages)
    batches = reading.read(batches, split, stages)
    return _shipped(batches, stages)


def padded_batch_size(eval_batch_size, n, num_replicas):
    """The evaluation batch: min(eval_batch_size, n), rounded up to a multiple of the replicas."""
    size = min(eval_batch_size, n)
    return -(-size // num_replicas) * num_replicas


def evaluation_batches(split, stages, *, batch_size, share=_WHOLE, stream=None):
    """Every example of a split once, in order, padded to full batches.

    Args:
        split: `source.Split`.
        stages: tuple of `stages.Stage`, of `Transform.evaluation_stages`.
        batch_size: int B, see `padded_batch_size`.
        share: (worker, number of workers), as in `train_batches`.
        stream: text stream for the progress of `hold_at_size`, or None.

    Returns:
        tf.data.Dataset of batch dicts; padding repeats the last example with mask 0.
    """
    n, rows = split.num_examples, _rows_of(share, batch_size)
    split = holding.hold_at_size(dataclasses.replace(split, weights=None), stages, stream)
    masked = split.masked

    @as_written
    def numbered(batch_index, batch):
        position = batch_index * batch_size + tf.range(rows.start, rows.stop, dtype=tf.int64)
        batch = {name: tf.ensure_shape(column, [batch_size])[rows] for name, column in batch.items()}
        is_broken = tf.zeros(tf.shape(position), tf.bool) if masked is None else tf.gather(masked, batch["index"])
        mask = tf.cast(position < n, tf.float32)
        return batch | {"seed": tf.zeros_like(position, tf.uint32)} | reading.masks(mask, is_broken)

    batches = split.reader.in_order(batch_size).enumerate().map(numbered)
    return _prefetched(_shipped(reading.read(batches, split, stages), stages))
