"""From examples to images at the network's size, with their labels and weights: in parallel, in bounded memory.

Legend: B batch, H W height and width of an image, S S those of the network's input, C channels, K classes.
"""

import math

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.augment import stages as stages_lib
from cct_tf.data import label_kinds
from cct_tf.images import decode, parts
from cct_tf.readers import budget, tensors
from cct_tf.readers.reader import as_written

# Bytes of held images as float32 in the largest batch that is resized at once; others are image by image. No part of
# the budget, for the last bits depend on it.
_BATCH_BYTES = 2**28
_RESIZING = {"matrix": 12, "pillow": 4}  # bytes a level of an image, taken while it is resized
_FLOAT = 4  # bytes of a level as float32
_GROUP = 8  # images that are loaded by one call where they may be broken


def float_bytes(reader):
    """Bytes of one image as float32, of a reader whose images are of one size."""
    return _FLOAT * reader.pixel_type.channels * math.prod(reader.image_shape)


def pixel_bytes(kind, size):
    """Bytes of an image of a PixelType and a size, see `cct_tf.sizes`."""
    return kind.num_bytes * math.prod(sizes.sides(size))


def read(batches, split, stages):
    """Add "image" [B, S, S, C], "class", int32 [B] or uint8 [B, K], and "weight" to batches with "seed".

    Args:
        batches: Dataset of batches of examples.
        split: `source.Split`.
        stages: tuple of `stages.Stage`, one of which brings images to the network's size.

    Returns:
        Dataset.
    """
    reader, kind, resize = split.reader, split.reader.pixel_type, stages_lib.resize_stage(stages)
    num_classes = next(stage.num_classes for stage in stages if stage.name == "labels")
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
            example |= masks(example["mask"], place < 0)
        return example | {"image": image, "class": label}

    image_bytes = _RESIZING[resize.resampler] * kind.num_bytes * reader.most_pixels
    if reader.can_fail:
        calls = parallel_calls(image_bytes + _GROUP * pixel_bytes(kind, resize.size), budget.reading())
        return _per_group(reader.fetch(batches), load, calls)
    return _per_example(reader.fetch(batches), load, parallel_calls(image_bytes, budget.reading()))


def masks(mask, is_broken):
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
    image_bytes = 0 if reader.at_network_size else float_bytes(reader)

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
    one_bytes = pixel_bytes(reader.pixel_type, resize.size)
    if not reader.at_network_size:
        one_bytes += _RESIZING[resize.resampler] * reader.pixel_type.num_bytes * math.prod(reader.image_shape)
    if one_by_one and not reader.at_network_size:
        return _per_example(batches.map(sample), gather_one, parallel_calls(one_bytes, budget.reading()))
    return batches.map(gather_batch, num_parallel_calls=parallel_calls(size * one_bytes, budget.reading()))


def parallel_calls(call_bytes, share):
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
