"""A data set of images whose encoded bytes are at hand: from shards of TFDS, or from a user's own function."""

import dataclasses

import numpy as np

from cct_tf.data import splits
from cct_tf.errors import UserError
from cct_tf.images import pixel_type
from cct_tf.readers import flat, loading, tensors


def open_encoded(config, rules, class_names, contents, labels, names, members, stream, *, known=None, notes=()):
    """Hold images in memory, decoded where they fit.

    Args:
        config: DataConfig.
        rules: source.Rules.
        class_names: sequence of K strings.
        contents: list of n bytes, the encoded images.
        labels: int [n] NumPy array.
        names: list of n strings, for messages.
        members: dict of int64 arrays, the images of each split.
        stream: text stream for progress, or None.
        known, notes: mean and deviation, and lines for the plan, of `splits.indexed_source`.

    Returns:
        source.Source.

    Raises:
        UserError: no image can be decoded; or one is broken, with --on_bad_image=stop.
    """
    contents = tensors.on_cpu(contents)
    kind = pixel_type.of_config(config)
    rules, wide = loading.settle_bit_depth(rules, contents, names, False, f"looking at {config.dataset}", stream, kind)
    images = loading.whole(contents, names, False, rules.settled_depth, kind)
    make_reader, good = _hold(images, config, stream)
    subsets = {split: splits.without_broken(splits.Subset(make_reader, indices, labels[indices].astype(np.int32)), good)
               for split, indices in members.items()}
    return splits.indexed_source(config, rules, class_names, subsets, known=known, every_class=False,
                                 notes=notes + wide, broken=loading.broken_images(images, good))


def _hold(images, config, stream):
    """Encoded images -> (function of indices -> reader; bool [n] of sound ones)."""
    what, on_bad = f"decoding {config.dataset}", config.on_bad_image
    shape, number = loading.first_shape(images, on_bad), len(images.names)
    if shape is None:
        raise UserError(f"--dataset={config.dataset}: expected images that can be decoded, found {number} broken ones")
    limit = config.in_memory_gib * tensors.GIB
    if number * shape[0] * shape[1] * images.pixel_type.num_bytes <= limit:
        found = flat.decoded(images, shape, limit, config, what, stream)
        if found is not None:
            return found
    good = loading.find_broken(images, on_bad, what, stream)
    return lambda indices: dataclasses.replace(images, indices=indices), good
