"""Reading many image files at once: in parallel, in order, with the broken ones found and named.

The files go through a tf.data pipeline that drops what fails; what is missing at its end is decoded again, one file
at a time, to learn what is wrong with it.
"""

import concurrent.futures
import dataclasses
import math
import os

import numpy as np
import tensorflow as tf

from cct_tf.images import decode
from cct_tf.images.pixel_type import RGB
from cct_tf.machine import files
from cct_tf.readers import budget, progress, tensors
from cct_tf.readers.encoded import Encoded

HEAD = 32  # bytes that tell PNGs of 16 bits from others


class MixedSizes(Exception):
    """The images are not all of one size."""


def path_tensor(paths):
    """Paths (str) -> string [n] tensor of their bytes."""
    return tensors.on_cpu([os.fsencode(path) for path in paths])


def whole(contents, names, on_disk, bit_depth=16, pixel_type=RGB):
    """Encoded of all files of a set: string [n] tensor of bytes or paths, n names, whether they are paths."""
    return Encoded(contents, names, np.arange(len(names)), on_disk, bit_depth, pixel_type=pixel_type)


def settle_bit_depth(rules, contents, names, on_disk, what, stream, pixel_type=RGB):
    """`rules` with the bit depth that was recorded, else the one that the images use.

    Args:
        rules: source.Rules.
        pixel_type: with 16 bits, or all channels as they are stored, there is nothing to find out.
        contents, names, on_disk: as for `whole`.
        what, stream: progress.

    Returns:
        (source.Rules, lines for the plan).
    """
    if pixel_type.bits == 16 or not pixel_type.is_colour_or_grey:
        return rules, ()
    if rules.bit_depth is None:
        bits, count = used_bits(contents, names, on_disk, what, stream)
        rules = dataclasses.replace(rules, bit_depth=bits)
    else:
        count = int(rules.bit_depth != 16)
    if not count:
        return rules, ()
    lost = rules.bit_depth - 8
    return rules, (f"images of more than 8 bits a channel use {rules.bit_depth} bits; the network sees the highest 8"
                   + (f" ({2**lost} neighbouring values become one)" if lost else ""),)


def used_bits(contents, names, on_disk, what, stream):
    """How many bits per channel the images of more than 8 bits use.

    Args:
        contents, names, on_disk: as for `whole`.
        what: what the progress line says.
        stream: progress stream or None.

    Returns:
        (int, 8 to 31; how many such images there are). (16, 0) if there are none.
    """
    places = [place for place, head in enumerate(_heads(contents, on_disk)) if may_be_wide(head)]
    images = dataclasses.replace(whole(contents, names, on_disk), indices=np.array(places, np.int64))
    if not places:
        return 16, 0
    largest = []
    with progress.count(len(places), what, stream) as advance, \
            concurrent.futures.ThreadPoolExecutor(_decoders(images)) as pool:
        for value in pool.map(lambda place: _largest(contents, place, on_disk), places):
            largest += [] if value is None else [value]
            advance(1)
    if not largest:
        return 16, 0
    return min(max(max(largest).bit_length(), 8), decode.MOST_BITS), len(largest)


def _heads(contents, on_disk):
    """The first bytes of every file; none of one that can't be read."""
    if not on_disk:
        return tf.strings.substr(contents, 0, HEAD).numpy()
    return (_head(path) for path in contents.numpy())


def _head(path):
    try:
        return files.read(path, HEAD)
    except OSError:
        return b""


def may_be_wide(head):
    """Whether a file that begins so may have more than 8 bits a channel that `decode` can choose from."""
    return (head.startswith(b"\x89PNG") and head[24:25] == b"\x10") or head[:2] in (b"II", b"MM")  # PNG, TIFF


def _largest(contents, place, on_disk):
    value = contents[place].numpy()
    try:
        return decode.largest_value(decode.read_bytes(value) if on_disk else value)
    except decode.BrokenImage:
        return None


def _in_parallel(images, function, threads):
    """Dataset of (index int64, function's result for the decoded image), in order, without what fails."""
    @tf.autograph.experimental.do_not_convert
    def one(index):
        value = tf.gather(images.contents, index)
        return index, function(decode.decode(images.bytes_of(value), images.bit_depth, images.pixel_type))

    dataset = tf.data.Dataset.range(len(images.names)).map(one, num_parallel_calls=threads)
    return dataset.ignore_errors()


def _decoders(images):
    """How many images of an Encoded are decoded at a time."""
    return tensors.threads_within(budget.opening(), images.decoding_bytes)


def _diagnose(images, index, on_bad):
    """Decode one image eagerly: the image; or None if it is broken and may be skipped; else raise BrokenImage."""
    value = images.contents[index].numpy()
    try:
        contents = decode.read_bytes(value) if images.on_disk else value
        return decode.decode_file(contents, images.names[index], images.bit_depth, images.pixel_type)
    except decode.BrokenImage as error:
        if on_bad == "stop":
            raise decode.BrokenImage(f"{error} (--on_bad_image=skip leaves such images out)") from error
        return None


def first_shape(images, on_bad):
    """(H, W) of the first image of a `whole` set that can be decoded, None if there is none."""
    for index in range(len(images.names)):
        image = _diagnose(images, index, on_bad)
        if image is not None:
            return image.shape[:2]
    return None


def decode_uniform(images, shape, on_bad, what, stream):
    """Decode images of one size.

    Args:
        images: Encoded, `whole`.
        shape: (H, W) that every image must have.
        on_bad: "stop" or "skip".
        what: what the progress line says.
        stream: progress stream or None.

    Returns:
        (array [n, H, W, C] of `tensors.empty_images`, zeros where broken; bool [n], False where broken).

    Raises:
        MixedSizes: an image of another size.
        BrokenImage: a broken image, with on_bad="stop".
        UserError: the pixels exceed the free memory.
    """
    kind = images.pixel_type
    wanted = [*shape, kind.channels]

    def fitted(image):
        fits = tf.reduce_all(tf.equal(tf.shape(image), wanted))
        image = tf.cond(fits, lambda: image, lambda: tf.zeros(wanted, kind.dtype))
        return tf.ensure_shape(image, wanted), fits

    number = len(images.names)
    pixels = tensors.empty_images((number, *wanted), kind.dtype)
    good = np.zeros(number, bool)
    # Sets of mixed sizes mostly show themselves in the first images, so the memory is not judged before.
    image_bytes = math.prod(shape) * kind.num_bytes
    decoded = _in_parallel(images, fitted, tensors.threads_within(budget.opening(), 2 * image_bytes))
    decoded = decoded.batch(tensors.batch_within(budget.block(), image_bytes)).prefetch(1)
    decoded = tensors.by_reference(decoded).as_numpy_iterator()
    with progress.count(number, what, stream) as advance:
        for place, (indices, (block, fits)) in enumerate(decoded):
            if not fits.all():
                raise MixedSizes
            if place == 0:
                tensors.require_memory(pixels.nbytes, what.removeprefix("decoding "))
            pixels[indices] = block
            good[indices] = True
            advance(len(indices))
    for index in np.flatnonzero(~good):
        image = _diagnose(images, index, on_bad)
        if image is None:
            continue
        if image.shape[:2] != tuple(shape):
            raise MixedSizes
        pixels[index], good[index] = image, True
    return pixels, good


def each_decoded(images, put, on_bad, what, stream):
    """Decode every image, in parallel, and hand it over.

    Args:
        images, on_bad, what, stream: as for `decode_uniform`.
        put: function of (index, NumPy array [H, W, C]), called by one thread; False ends the work.

    Returns:
        bool [n], False where broken; None if `put` said so.
    """
    good = np.zeros(len(images.names), bool)
    decoded = _in_parallel(images, lambda image: image, _decoders(images))
    with progress.count(len(good), what, stream) as advance:
        for index, image in tensors.by_reference(decoded.prefetch(2)).as_numpy_iterator():
            if not put(index, image):
                return None
            good[index] = True
            advance(1)
    for index in np.flatnonzero(~good):
        image = _diagnose(images, index, on_bad)
        if image is not None and not put(index, image):
            return None
        good[index] = image is not None
    return good


def find_broken(images, on_bad, what, stream):
    """Decode every image and throw the pixels away.

    Args and errors: as for `decode_uniform`.

    Returns:
        bool [n], False where broken.
    """
    good = np.zeros(len(images.names), bool)
    decoded = _in_parallel(images, tf.size, _decoders(images))
    decoded = tensors.by_reference(decoded.batch(tensors.MOST_IMAGES).prefetch(2)).as_numpy_iterator()
    with progress.count(len(good), what, stream) as advance:
        for indices, _ in decoded:
            good[indices] = True
            advance(len(indices))
    for index in np.flatnonzero(~good):
        good[index] = _diagnose(images, index, on_bad) is not None
    return good


def broken_images(images, good):
    """What was left out: tuple of (name, reason).

    Args:
        images: Encoded, `whole`.
        good: bool [n], False where broken.
    """
    found = []
    for index in np.flatnonzero(~good):
        value, name = images.contents[index].numpy(), images.names[index]
        try:
            contents = decode.read_bytes(value) if images.on_disk else value
            decode.decode_file(contents, name, images.bit_depth, images.pixel_type)
        except decode.BrokenImage as error:
            found.append((name, decode.reason_of(error, name)))
    return tuple(found)
