"""`--dataset=folder`: images in class folders, held decoded, held as bytes, or read from disk.

    all of one size, and fits in --in_memory_gib as pixels    held.Held
    fits as it is, encoded                                    encoded.Encoded, bytes held
    neither                                                   encoded.Encoded, on disk
"""

import dataclasses
import os

import numpy as np

from cct_tf.data import source, splits, tree
from cct_tf.errors import UserError
from cct_tf.readers import decode, flat, loading, progress, tensors
from cct_tf.readers.held import Held


def open_folder(config, rules, stream=None):
    """Open an image folder.

    Args:
        config: DataConfig.
        rules: source.Rules.
        stream: text stream for progress, or None.

    Returns:
        source.Source.

    Raises:
        UserError: the folder is not laid out as `tree` says, an image is broken and --on_bad_image=stop, or a set to be
            held exceeds the free memory.
    """
    listing = tree.scan(config)
    files = [file for split_files in listing.files.values() for file in split_files]
    names = [os.path.join(listing.root, tree.shown(path)) for path, _, _ in files]
    paths = loading.path_tensor([os.path.join(listing.root, path) for path, _, _ in files])
    num_bytes = sum(size for _, _, size in files)
    rules, notes = loading.settle_bit_depth(rules, paths, names, True, f"looking at {config.data_dir}", stream)
    images = loading.whole(paths, names, True, rules.bit_depth)
    make_reader, good = open_images(images, num_bytes, config, f"decoding {config.data_dir}", stream)
    labels = np.array([label for _, label, _ in files], np.int32)
    subsets, start = {}, 0
    known = np.array([source.File(os.fsencode(path), size) for path, _, size in files], object)
    for split, split_files in listing.files.items():
        indices = np.arange(start, start + len(split_files))
        start += len(split_files)
        subsets[split] = splits.without_broken(splits.Subset(make_reader, indices, labels[indices], known[indices]),
                                              good)
    return splits.indexed_source(
        config, rules, listing.class_names, subsets, notes=listing.notes + notes,
        broken=loading.broken_images(images, good),
        extra=[f"file {tree.shown(path)} {size}" for path, _, size in files])


def open_images(images, num_bytes, config, what, stream):
    """Decide how to hold image files, and read them.

    Args:
        images: encoded.Encoded on disk, of `loading.whole`.
        num_bytes: size of all the files.
        config: DataConfig (in_memory_gib, on_bad_image).
        what, stream: progress.

    Returns:
        (function of indices -> reader, bool [n] False where the image is broken).
    """
    limit, on_bad, number = config.in_memory_gib * tensors.GIB, config.on_bad_image, len(images.names)
    shape = loading.first_shape(images, on_bad)
    if shape is None:
        raise UserError(f"{config.data_dir}: expected images that can be decoded, found {number} broken ones")
    pixels = number * shape[0] * shape[1] * 3
    if pixels <= limit:
        try:
            pixels, good = loading.decode_uniform(images, shape, on_bad, what, stream)
            held = tensors.as_tensor(pixels)
            return lambda indices: Held(held, indices, names=images.names), good
        except loading.MixedSizes:
            held = None if config.decode == "fast" else flat.hold(images, limit / 2, on_bad, what, stream)
            if held is not None:
                return lambda indices: dataclasses.replace(held[0], indices=indices), held[1]
            progress.say(stream, "images of mixed sizes: each is decoded when it is used")
    on_disk = num_bytes > limit
    if not on_disk:
        tensors.require_memory(2 * num_bytes, config.data_dir)  # twice: TensorFlow copies them
        images = dataclasses.replace(images, contents=_read(images.contents, on_bad), on_disk=False)
    good = _verify(images, on_bad, what, stream)
    return lambda indices: dataclasses.replace(images, indices=indices), good


def _read(paths, on_bad):
    """String [n] tensor of the files' bytes; empty where a file cannot be read and on_bad is "skip"."""
    contents = []
    for path in paths.numpy():
        try:
            contents.append(decode.read_bytes(path))
        except decode.BrokenImage:
            if on_bad == "stop":
                raise
            contents.append(b"")
    return tensors.on_cpu(contents)


def _verify(images, on_bad, what, stream):
    """bool [n]: held bytes, and everything that may be skipped, are decoded once; else the headers on disk are read."""
    if not images.on_disk or on_bad == "skip":
        return loading.find_broken(images, on_bad, what, stream)
    with progress.count(len(images.names), what.replace("decoding", "checking"), stream) as advance:
        for path in images.contents.numpy():
            decode.check_header(path)
            advance(1)
    return np.ones(len(images.names), bool)
