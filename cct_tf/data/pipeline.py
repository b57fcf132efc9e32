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

Legend: B batch, S S height and width of the network's input, which need not be equal, C channels, K
classes, n examples.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from cct_tf import rng, sizes
from cct_tf.augment import stages as stages_lib
from cct_tf.data import label_kinds, sampler
from cct_tf.errors import UserError
from cct_tf.images import decode, parts
from cct_tf.readers import budget, progress, tensors
from cct_tf.readers.held import Held
from cct_tf.readers.reader import as_written

# Bytes of held images as float32, in blocks of a set that is brought to the network's size, and in the largest batch
# that is resized at once; others are image by image. No part of the budget, for the last bits depend on them.
_BLOCK_BYTES, _BATCH_BYTES = 2**26, 2**28
_RESIZING = {"matrix": 12, "pillow": 4}  # bytes a level of an image, taken while it is resized
_STAGING = 4  # times a batch of levels, taken by a call of the stages of the host: what goes in, comes out, between
_FLOAT = 4  # bytes of a level as float32
_MOST_HELD = 2 * 2**30  # bytes; a held set that would be larger at the network's size is resized batch by batch
_GROUP = 8  # images that are loaded by one call where they may be broken
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


def hold_at_size(split, stages, stream=None):
    """`split` with its held images brought to the network's size once, where that is done the same way each time.

    The pixels are the same as when each batch is resized, so what is held is a matter of speed and memory alone.

    Args:
        split: `source.Split`.
        stages: tuple of `stages.Stage`.
        stream: text stream for progress, or None.

    Returns:
        Split: a new one, or the same.
    """
    reader, resize = split.reader, stages_lib.resize_stage(stages)
    if resize.is_random or reader.at_network_size:
        return split
    if reader.image_shape is None:
        return _read_once(split, stages, resize, stream) if _has_room(split, resize.size) else split
    kind = reader.pixel_type
    target = sizes.sides(resize.size)
    if reader.image_shape == target and resize.crop_pct == 1.0:
        return split  # nothing to do, now or later
    if split.num_examples * _pixel_bytes(kind, resize.size) > _MOST_HELD:
        return split
    if resize.resampler == "pillow":
        return _read_once(split, stages, resize, stream)
    apply = tf.function(lambda images: resize.apply({"image": images}, {})["image"], autograph=False)
    resized = tensors.empty_images([split.num_examples, *target, kind.channels], kind.dtype)
    block = resize.block or tensors.batch_within(_BLOCK_BYTES, _float_bytes(reader))
    with _shown(split, stream) as advance, tf.device("CPU:0"):  # where tf.data resizes too: others round otherwise
        for start in range(0, split.num_examples, block):
            places = np.arange(start, min(start + block, split.num_examples))
            resized[places[0]:places[-1] + 1] = apply(reader.gather(places)).numpy()
            advance(len(places))
    reader = Held(tensors.as_tensor(resized), np.arange(split.num_examples), at_network_size=True)
    return dataclasses.replace(split, reader=reader)


def _shown(split, stream):
    """The progress of bringing the images of a split to the network's size, as `progress.count` gives it."""
    return progress.count(split.num_examples, f"preparing the {split.name} images", stream)


def _has_room(split, size):
    """Whether a split of mixed sizes is held at the network's size: within --in_memory_gib, and half the free memory.

    A training split that streams keeps its order, which one that is held hasn't.
    """
    image_bytes = _pixel_bytes(split.reader.pixel_type, size)
    if image_bytes > split.room or (split.name == "train" and split.reader.own_columns):
        return False
    try:
        tensors.require_memory(2 * split.num_examples * image_bytes, f"the {split.name} split")
    except UserError:
        return False
    return True


@decode.broken_images_named()
def _read_once(split, stages, resize, stream):
    """The split with its images at the network's size, held, and their labels."""
    n, size = split.num_examples, min(split.num_examples, tensors.MOST_IMAGES)
    kind = split.reader.pixel_type
    images = tensors.empty_images([n, *sizes.sides(resize.size), kind.channels], kind.dtype)
    labels = np.zeros(n, np.int32) if split.labels is None else np.zeros_like(label_kinds.as_held(split.labels))
    weights, masked = None if split.weights is None else split.weights.copy(), np.zeros(n, bool)

    @as_written
    def unseeded(batch):
        return {name: tf.ensure_shape(column, [size]) for name, column in batch.items()} | {
            "seed": tf.zeros([size], tf.uint32), "mask": tf.ones([size])}

    with _shown(split, stream) as advance, tf.device("CPU:0"):
        batches = tensors.by_reference(_read(split.reader.in_order(size).map(unseeded), split, resize,
                                             _num_classes(stages)))
        for start, batch in zip(range(0, n, size), batches.as_numpy_iterator(), strict=True):
            images[start:start + size] = batch["image"][:n - start]
            labels[start:start + size] = batch["class"][:n - start]
            masked[start:start + size] = batch["mask"][:n - start] == 0
            if weights is not None:  # as the label: those of the image that stands for a broken one
                weights[start:start + size] = batch["weight"][:n - start]
            advance(min(size, n - start))
    reader = Held(tensors.as_tensor(images), np.arange(n), at_network_size=True)
    return dataclasses.replace(split, reader=reader, labels=labels, masked=masked if masked.any() else None,
                               weights=weights)


def _float_bytes(reader):
    """Bytes of one image as float32, of a reader whose images are of one size."""
    return _FLOAT * reader.pixel_type.channels * math.prod(reader.image_shape)


def _pixel_bytes(kind, size):
    """Bytes of an image of a PixelType and a size, see `cct_tf.sizes`."""
    return kind.num_bytes * math.prod(sizes.sides(size))


def _read(batches, split, resize, num_classes):
    """Add "image" [B, S, S, C], "class", int32 [B] or uint8 [B, K], and "weight" to batches with "seed".

    Args:
        resize: the stage that brings images to the network's size.
    """
    reader, kind = split.reader, split.reader.pixel_type
    labels = None if reader.knows_labels else tensors.on_cpu(label_kinds.as_held(split.labels))
    weights = None if split.weights is None else tensors.on_cpu(split.weights.astype(np.float32))
    if reader.image_shape is not None:
        return _read_batches(batches, reader, labels, weights, resize)

    def prepared(example, may_fail):
        if resize.takes_a_part:
            return _part(reader, resize, example, may_fail)
        image, label, place = reader.load_or_replace(example, may_fail)
        return _resized_one(resize, image, example["seed"]), label, place

    @as_written
    def load(example, may_fail=False):
        image, label, place = prepared(example, may_fail)
        example = {name: value for name, value in example.items() if name not in reader.own_columns}
        if reader.knows_labels:
            with tf.control_dependencies([decode.require_label(label, num_classes, split.name)]):
                label = tf.cast(tf.identity(label), tf.int32)
        else:
            label = tf.gather(labels, tf.where(place >= 0, place, example["index"]))
        if weights is not None:
            example["weight"] = tf.gather(weights, tf.where(place >= 0, place, example["index"]))
        if reader.broken is not None and "mask" in example:
            example |= _masks(example["mask"], place < 0)
        return example | {"image": image, "class": label}

    image_bytes = _RESIZING[resize.resampler] * kind.num_bytes * reader.most_pixels
    if reader.can_fail:
        calls = _parallel_calls(image_bytes + _GROUP * _pixel_bytes(kind, resize.size), budget.reading())
        return _per_group(reader.fetch(batches), load, calls)
    return _per_example(reader.fetch(batches), load, _parallel_calls(image_bytes, budget.reading()))


def _masks(mask, is_broken):
    """The columns of an evaluation where images may be broken: float32 of padding alone, bool -> dict of float32."""
    is_broken = tf.cast(is_broken, tf.float32)
    return {"mask": mask * (1.0 - is_broken), "broken": mask * is_broken}


def _resized_one(resize, image, seed):
    """One image of any size at the network's: [H, W, C], uint32 scalar -> [S, S, C]."""
    batch, shape = {"image": image[None], "seed": seed[None]}, tf.unstack(tf.shape(image)[:2])
    return resize.apply(batch, resize.sample(batch, shape))["image"][0]


def _part(reader, resize, example, may_fail):
    """A random part of one image at the network's size, [S, S, C]; label and place of `load_or_replace`."""
    batch = {"seed": example["seed"][None]}

    def box(height, width):
        return resize.sample(batch, (height, width))["box"][0]

    needed = sizes.sides(resize.size) if resize.fast else None
    pixels, frame, label, place = reader.load_part(example, box, needed, may_fail)
    params = resize.sample(batch, (frame[0], frame[1]))
    params = params | {"box": parts.placed(params["box"][0], frame)[None]}
    return resize.apply({"image": pixels[None]}, params)["image"][0], label, place


def _read_batches(batches, reader, labels, weights, resize):
    """`_read` of images of one size: batch by batch, or image by image where these are large."""
    size = batches.element_spec["seed"].shape[0]
    image_bytes = 0 if reader.at_network_size else _float_bytes(reader)

    @as_written
    def sample(batch):
        batch = batch | {"class": tf.gather(labels, batch["index"])}
        if weights is not None:
            batch["weight"] = tf.gather(weights, batch["index"])
        return batch, ({} if reader.at_network_size else resize.sample(batch, reader.image_shape))

    @as_written
    def gather(batch, params):
        batch = batch | {"image": reader.gather(batch["index"])}
        return batch if reader.at_network_size else resize.apply(batch, params)

    @as_written
    def gather_batch(batch):
        return gather(*sample(batch))

    @as_written
    def gather_one(*example):
        found = gather(*tf.nest.map_structure(lambda column: column[None], example))
        return tf.nest.map_structure(lambda column: column[0], found)

    one_by_one = resize.resampler == "pillow" or (size * image_bytes > _BATCH_BYTES and not resize.block)
    one_bytes = _pixel_bytes(reader.pixel_type, resize.size)
    if not reader.at_network_size:
        one_bytes += _RESIZING[resize.resampler] * reader.pixel_type.num_bytes * math.prod(reader.image_shape)
    if one_by_one and not reader.at_network_size:
        return _per_example(batches.map(sample), gather_one, _parallel_calls(one_bytes, budget.reading()))
    return batches.map(gather_batch, num_parallel_calls=_parallel_calls(size * one_bytes, budget.reading()))


def _parallel_calls(call_bytes, share):
    """AUTOTUNE, or fewer calls at once if they take so many bytes each that those of all threads exceed `share`."""
    threads = tensors.threads_within(share, call_bytes)
    return tf.data.AUTOTUNE if threads == tensors.num_threads() else threads


def _per_example(batches, function, parallel_calls=tf.data.AUTOTUNE):
    """Map a function over single examples, in parallel, and put the batches together again."""
    size = tf.nest.flatten(batches.element_spec)[0].shape[0]
    return batches.unbatch().map(function, num_parallel_calls=parallel_calls).batch(size, drop_remainder=True)


def _per_group(batches, function, parallel_calls):
    """As `_per_example`, of a function that fails for broken images if its second argument is True.

    "Try, else" in a graph is a data set of its own, which takes 0.3 ms. So a few examples share one: all of them are
    tried, and if one fails, `function` does without failing what it can do, one by one.
    """
    size = tf.nest.flatten(batches.element_spec)[0].shape[0]
    group_size = math.gcd(size, _GROUP)

    @as_written
    def split(batch):
        return tf.nest.map_structure(lambda column: tf.reshape(column, [-1, group_size, *column.shape[1:]]), batch)

    @as_written
    def joined(batch):
        return tf.nest.map_structure(lambda column: tf.reshape(column, [size, *column.shape[2:]]), batch)

    @as_written
    def load(group):
        examples = tf.data.Dataset.from_tensor_slices(group)
        tried = examples.map(as_written(lambda example: function(example, True))).ignore_errors()
        tried, careful = (found.batch(group_size, drop_remainder=True) for found in (tried, examples.map(function)))
        return tried.concatenate(careful).take(1).get_single_element()

    groups = batches.map(split).unbatch().map(load, num_parallel_calls=parallel_calls)
    return groups.batch(size // group_size, drop_remainder=True).map(joined)


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
    calls = _parallel_calls(_STAGING * math.prod(image.shape) * image.dtype.size, budget.staging())
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
    return _prefetched(_read(batches, split, stages_lib.resize_stage(stages), _num_classes(stages)))


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
        split = hold_at_size(split, stages)
    batches = _read(batches, split, stages_lib.resize_stage(stages), _num_classes(stages))
    return _shipped(batches, stages)


def _num_classes(stages):
    return next(stage.num_classes for stage in stages if stage.name == "labels")


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
    split = hold_at_size(dataclasses.replace(split, weights=None), stages, stream)
    masked = split.masked

    @as_written
    def numbered(batch_index, batch):
        position = batch_index * batch_size + tf.range(rows.start, rows.stop, dtype=tf.int64)
        batch = {name: tf.ensure_shape(column, [batch_size])[rows] for name, column in batch.items()}
        is_broken = tf.zeros(tf.shape(position), tf.bool) if masked is None else tf.gather(masked, batch["index"])
        mask = tf.cast(position < n, tf.float32)
        return batch | {"seed": tf.zeros_like(position, tf.uint32)} | _masks(mask, is_broken)

    batches = split.reader.in_order(batch_size).enumerate().map(numbered)
    return _prefetched(_shipped(_read(batches, split, stages_lib.resize_stage(stages), _num_classes(stages)), stages))
