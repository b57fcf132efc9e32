"""Holding the images of a split at the network's size, where they are brought to it the same way each time."""

import dataclasses

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.augment import stages as stages_lib
from cct_tf.data import label_kinds, reading
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.readers import progress, tensors
from cct_tf.readers.held import Held
from cct_tf.readers.reader import as_written

# Bytes of held images as float32, in blocks that are brought to the network's size. No part of the budget, for the last
# bits depend on it.
_BLOCK_BYTES = 2**26
_MOST_HELD = 2 * 2**30  # bytes; a held set that would be larger at the network's size is resized batch by batch


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
    if split.num_examples * reading.pixel_bytes(kind, resize.size) > _MOST_HELD:
        return split
    if resize.resampler == "pillow":
        return _read_once(split, stages, resize, stream)
    apply = tf.function(lambda images: resize.apply({"image": images}, {})["image"], autograph=False)
    resized = tensors.empty_images([split.num_examples, *target, kind.channels], kind.dtype)
    block = resize.block or tensors.batch_within(_BLOCK_BYTES, reading.float_bytes(reader))
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
    image_bytes = reading.pixel_bytes(split.reader.pixel_type, size)
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
        batches = tensors.by_reference(reading.read(split.reader.in_order(size).map(unseeded), split, stages))
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
