"""Reading many image files at once: in parallel, in order, with the broken ones found and named.

The files go through a tf.data pipeline that drops what fails; what is missing at its end is decoded again, one file
at a time, to learn what is wrong with it.
"""

import os

import numpy as np
import tensorflow as tf

from cct_tf.data import decode, progress
from cct_tf.errors import UserError

GIB = 2**30
_BATCH = 256  # images handed to Python at a time


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


def path_tensor(paths):
    """Paths (str) -> string [n] tensor of their bytes."""
    return on_cpu([os.fsencode(path) for path in paths])


def _in_parallel(contents, on_disk, function):
    """Dataset of (indices int64 [b], function's result for the bytes of each [b, ...]) without what fails."""
    def one(index):
        value = tf.gather(contents, index)
        return index, function(tf.io.read_file(value) if on_disk else value)

    dataset = tf.data.Dataset.range(contents.shape[0]).map(one, num_parallel_calls=num_threads())
    return dataset.ignore_errors().batch(_BATCH).prefetch(2).as_numpy_iterator()


def _diagnose(contents, names, on_disk, index, on_bad):
    """Decode one image eagerly: the image; or None if it is broken and may be skipped; else raise BrokenImage."""
    value = contents[index].numpy()
    try:
        return decode.decode_file(decode.read_bytes(value) if on_disk else value, names[index])
    except decode.BrokenImage as error:
        if on_bad == "stop":
            raise decode.BrokenImage(f"{error} (--on_bad_image=skip leaves such images out)") from error
        return None


def first_shape(contents, names, on_disk, on_bad):
    """(H, W) of the first image that can be decoded, None if there is none."""
    for index in range(contents.shape[0]):
        image = _diagnose(contents, names, on_disk, index, on_bad)
        if image is not None:
            return image.shape[:2]
    return None


def decode_uniform(contents, names, on_disk, shape, on_bad, what, stream):
    """Decode images of one size.

    Args:
        contents: string [n] tensor, encoded bytes or paths.
        names: n names for messages.
        on_disk: whether `contents` holds paths.
        shape: (H, W) that every image must have.
        on_bad: "stop" or "skip".
        what: what the progress line says.
        stream: progress stream or None.

    Returns:
        (images uint8 [n, H, W, 3] NumPy array, zeros where broken; bool [n], False where broken).

    Raises:
        MixedSizes: an image of another size.
        BrokenImage: a broken image, with on_bad="stop".
        UserError: the pixels exceed the free memory.
    """
    def fitted(encoded):
        image = decode.decode(encoded)
        fits = tf.reduce_all(tf.equal(tf.shape(image), [*shape, 3]))
        image = tf.cond(fits, lambda: image, lambda: tf.zeros([*shape, 3], tf.uint8))
        return tf.ensure_shape(image, [*shape, 3]), fits

    images = np.zeros((contents.shape[0], *shape, 3), np.uint8)  # takes memory only as it is written
    checked = False
    good = np.zeros(contents.shape[0], bool)
    with progress.count(contents.shape[0], what, stream) as advance:
        for indices, (block, fits) in _in_parallel(contents, on_disk, fitted):
            if not fits.all():
                raise MixedSizes
            if not checked:  # not before: sets of mixed sizes mostly show themselves in the first batch
                require_memory(2 * images.nbytes, what.removeprefix("decoding "))  # twice: TensorFlow copies it
                checked = True
            images[indices] = block
            good[indices] = True
            advance(len(indices))
    for index in np.flatnonzero(~good):
        image = _diagnose(contents, names, on_disk, index, on_bad)
        if image is None:
            continue
        if image.shape[:2] != tuple(shape):
            raise MixedSizes
        images[index], good[index] = image, True
    return images, good


def find_broken(contents, names, on_disk, on_bad, what, stream):
    """Decode every image and throw the pixels away.

    Args and errors: as for `decode_uniform`.

    Returns:
        bool [n], False where broken.
    """
    good = np.zeros(contents.shape[0], bool)
    with progress.count(contents.shape[0], what, stream) as advance:
        for indices, _ in _in_parallel(contents, on_disk, lambda encoded: tf.size(decode.decode(encoded))):
            good[indices] = True
            advance(len(indices))
    for index in np.flatnonzero(~good):
        good[index] = _diagnose(contents, names, on_disk, index, on_bad) is not None
    return good


def broken_images(contents, names, on_disk, good):
    """What was left out: tuple of (name, reason).

    Args:
        contents, names, on_disk: as for `decode_uniform`.
        good: bool [n], False where broken.
    """
    found = []
    for index in np.flatnonzero(~good):
        value, name = contents[index].numpy(), names[index]
        try:
            decode.decode_file(decode.read_bytes(value) if on_disk else value, name)
        except decode.BrokenImage as error:
            found.append((name, decode.reason_of(error, name)))
    return tuple(found)
