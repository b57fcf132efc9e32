"""Reading many image files at once: in parallel, in order, with the broken ones found and named.

The files go through a tf.data pipeline that drops what fails; what is missing at its end is decoded again, one file
at a time, to learn what is wrong with it.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import os

import numpy as np
import tensorflow as tf

from cct_tf.data import source
from cct_tf.errors import UserError
from cct_tf.readers import decode, progress

GIB = 2**30
_MOST_IMAGES = 256  # handed over at a time
_BLOCK_BYTES = 64 * 2**20  # of images handed over at a time
_PARALLEL_BYTES = 256 * 2**20  # of images being decoded
MOST_DECODERS = 16  # threads, where nobody knows how large the images are: 16 of 12 million pixels take 0.6 GiB
_ALIGNMENT = 64  # bytes; what TensorFlow's own tensors have
_HEAD = 32  # bytes that tell PNGs of 16 bits from others


class MixedSizes(Exception):
    """The images are not all of one size."""


def num_threads():
    """Threads for decoding: the cores this process may use."""
    return len(os.sched_getaffinity(0))


def require_memory(needed, what):
    """Raise UserError if `needed` bytes for holding `what` exceed the free memory (where the system tells it)."""
    try:
        with open("/proc/meminfo") as file:
            available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return
    if needed > available:
        raise UserError(f"--in_memory_gib: expected at most the free memory, {available / GIB:.1f} GiB, found that "
                        f"holding {what} takes {needed / GIB:.1f} GiB")


def on_cpu(value):
    """An eager tensor on the CPU, whatever the devices."""
    with tf.device("CPU:0"):
        return tf.constant(value)


def empty_images(shape):
    """A uint8 array of zeros for `as_tensor`. It takes memory only as it is written."""
    size = math.prod(shape)
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start:start + size].reshape(shape)


def as_tensor(images):
    """The eager tensor on the CPU whose memory is that of an array of `empty_images`. Nobody may write to it again.

    `tf.constant` would hold the images twice.
    """
    with tf.device("CPU:0"):
        return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def by_reference(dataset):
    """`dataset`, whose functions hold large tensors, without the rewriting that copies each of them.

    tf.data's default optimizations make constants of captured tensors: a second copy, which stays.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)


def path_tensor(paths):
    """Paths (str) -> string [n] tensor of their bytes."""
    return on_cpu([os.fsencode(path) for path in paths])


def whole(contents, names, on_disk, bit_depth=16):
    """source.Encoded of all files of a set: string [n] tensor of bytes or paths, n names, whether they are paths."""
    return source.Encoded(contents, names, np.arange(len(names)), on_disk, bit_depth)


def settle_bit_depth(rules, contents, names, on_disk, what, stream):
    """`rules` with the bit depth that was recorded, else the one that the images use.

    Args:
        rules: source.Rules.
        contents, names, on_disk: as for `whole`.
        what, stream: progress.

    Returns:
        (source.Rules, lines for the plan).
    """
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
    places = [place for place, head in enumerate(_heads(contents, on_disk)) if _may_be_wide(head)]
    if not places:
        return 16, 0
    largest = []
    with progress.count(len(places), what, stream) as advance, \
            concurrent.futures.ThreadPoolExecutor(min(num_threads(), MOST_DECODERS)) as pool:
        for value in pool.map(lambda place: _largest(contents, place, on_disk), places):
            largest += [] if value is None else [value]
            advance(1)
    if not largest:
        return 16, 0
    return min(max(max(largest).bit_length(), 8), decode.MOST_BITS), len(largest)


def _heads(contents, on_disk):
    """The first bytes of every file; none of one that can't be read."""
    if not on_disk:
        return tf.strings.substr(contents, 0, _HEAD).numpy()
    return (_head(path) for path in contents.numpy())


def _head(path):
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _may_be_wide(head):
    """Whether a file that begins so may have more than 8 bits a channel that `decode` can choose from."""
    return (head.startswith(b"\x89PNG") and head[24:25] == b"\x10") or head[:2] in (b"II", b"MM")  # PNG, TIFF


def _largest(contents, place, on_disk):
    value = contents[place].numpy()
    try:
        return decode.largest_value(decode.read_bytes(value) if on_disk else value)
    except decode.BrokenImage:
        return None


def threads_within(budget, call_bytes):
    """How many threads to use where each takes so many bytes: as many as fit into `budget` bytes, at least one."""
    return max(1, min(num_threads(), budget // call_bytes))


def _in_parallel(images, function, threads):
    """Dataset of (index int64, function's result for the decoded image), in order, without what fails."""
    @tf.autograph.experimental.do_not_convert
    def one(index):
        value = tf.gather(images.contents, index)
        encoded = tf.io.read_file(value) if images.on_disk else value
        return index, function(decode.decode(encoded, images.bit_depth))

    dataset = tf.data.Dataset.range(len(images.names)).map(one, num_parallel_calls=threads)
    return dataset.ignore_errors()


def _diagnose(images, index, on_bad):
    """Decode one image eagerly: the image; or None if it is broken and may be skipped; else raise BrokenImage."""
    value = images.contents[index].numpy()
    try:
        contents = decode.read_bytes(value) if images.on_disk else value
        return decode.decode_file(contents, images.names[index], images.bit_depth)
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
        images: source.Encoded, `whole`.
        shape: (H, W) that every image must have.
        on_bad: "stop" or "skip".
        what: what the progress line says.
        stream: progress stream or None.

    Returns:
        (uint8 [n, H, W, 3] array of `empty_images`, zeros where broken; bool [n], False where broken).

    Raises:
        MixedSizes: an image of another size.
        BrokenImage: a broken image, with on_bad="stop".
        UserError: the pixels exceed the free memory.
    """
    def fitted(image):
        fits = tf.reduce_all(tf.equal(tf.shape(image), [*shape, 3]))
        image = tf.cond(fits, lambda: image, lambda: tf.zeros([*shape, 3], tf.uint8))
        return tf.ensure_shape(image, [*shape, 3]), fits

    number = len(images.names)
    pixels = empty_images((number, *shape, 3))
    good = np.zeros(number, bool)
    # Sets of mixed sizes mostly show themselves in the first images, so the memory is not judged before.
    image_bytes = math.prod(shape) * 3
    decoded = _in_parallel(images, fitted, threads_within(_PARALLEL_BYTES, 2 * image_bytes))
    decoded = by_reference(decoded.batch(batch_within(_BLOCK_BYTES, image_bytes)).prefetch(1)).as_numpy_iterator()
    with progress.count(number, what, stream) as advance:
        for place, (indices, (block, fits)) in enumerate(decoded):
            if not fits.all():
                raise MixedSizes
            if place == 0:
                require_memory(pixels.nbytes, what.removeprefix("decoding "))
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


def find_broken(images, on_bad, what, stream):
    """Decode every image and throw the pixels away.

    Args and errors: as for `decode_uniform`.

    Returns:
        bool [n], False where broken.
    """
    good = np.zeros(len(images.names), bool)
    decoded = _in_parallel(images, tf.size, min(num_threads(), MOST_DECODERS))
    decoded = by_reference(decoded.batch(_MOST_IMAGES).prefetch(2)).as_numpy_iterator()
    with progress.count(len(good), what, stream) as advance:
        for indices, _ in decoded:
            good[indices] = True
            advance(len(indices))
    for index in np.flatnonzero(~good):
        good[index] = _diagnose(images, index, on_bad) is not None
    return good


def image_sizes(reader, most=256):
    """(height, width) of the images of a reader, float64 [k, 2], before any rotation by their orientation tags.

    Args:
        reader: source.Held, Encoded or Windowed.
        most: int, so many at most, evenly spread; of a streamed one none, for that would read it.
    """
    if isinstance(reader, source.Windowed):
        return np.zeros([0, 2])
    if isinstance(reader, source.Held):
        return np.array([reader.image_shape], np.float64)
    number = min(most, len(reader.indices))
    found = []
    for index in reader.indices[np.arange(number) * len(reader.indices) // max(number, 1)]:
        value = reader.contents[index].numpy()
        with contextlib.suppress(decode.BrokenImage):
            found.append(decode.header_size(decode.read_bytes(value) if reader.on_disk else value))
    return np.array([size for size in found if size], np.float64).reshape(-1, 2)


def batch_within(budget, image_bytes):
    """How many images of so many bytes are handled at a time: as many as fit into `budget` bytes, from 1 to 256."""
    return max(1, min(_MOST_IMAGES, budget // image_bytes))


def broken_images(images, good):
    """What was left out: tuple of (name, reason).

    Args:
        images: source.Encoded, `whole`.
        good: bool [n], False where broken.
    """
    found = []
    for index in np.flatnonzero(~good):
        value, name = images.contents[index].numpy(), images.names[index]
        try:
            decode.decode_file(decode.read_bytes(value) if images.on_disk else value, name, images.bit_depth)
        except decode.BrokenImage as error:
            found.append((name, decode.reason_of(error, name)))
    return tuple(found)
