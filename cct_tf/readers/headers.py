"""Whether files begin as images do: many at once, and nothing decoded."""

import concurrent.futures
import contextlib
import os

import numpy as np

from cct_tf.images import decode
from cct_tf.machine import files
from cct_tf.readers import loading

_BLOCK = 256  # files handed to a thread
_THREADS = 16  # that mostly wait for the disk
_START = 16384  # bytes read of a file before it is left to Pillow
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive JPEG, with Huffman coding


def check_many(paths):
    """Check the headers of files; yields how many were found good since it yielded last.

    Args:
        paths: array of n bytes.

    Raises:
        BrokenImage: of the first file that is no image, see `decode.check_header`.
    """
    return _in_blocks(_check_all, paths)


def find_wide(paths, advance):
    """Places of the files that may have more than 8 bits a channel, see `loading.used_bits`: list of int.

    Args:
        paths: array of n bytes.
        advance: function of a number of files, called as they are looked at.
    """
    found, done = [], 0
    for wide in _in_blocks(_wide, paths):
        found += [done + place for place in np.flatnonzero(wide).tolist()]
        done += len(wide)
        advance(len(wide))
    return found


def _wide(paths):
    return [loading.may_be_wide(_start(path, loading.HEAD)) for path in paths.tolist()]


def _in_blocks(function, paths):
    """Yield the results of a function of an array of paths, block by block, in order; threads call it."""
    blocks = (paths[start:start + _BLOCK] for start in range(0, len(paths), _BLOCK))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield from pool.map(function, blocks)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _check_all(paths):
    for path in paths.tolist():
        check(path)
    return len(paths)


def check(path):
    """As `decode.check_header`; a plain JPEG, which most files are, takes a fifth of Pillow's time."""
    if not is_plain_jpeg(_start(path)):
        decode.check_header(path)


def _start(path, size=_START):
    """The first bytes of a file; none of one that can't be read."""
    if files.is_remote(path):
        with contextlib.suppress(OSError):
            return files.read(path, size)
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def is_plain_jpeg(start):
    """Whether bytes are the start of a JPEG of 8 bits in grey or colour, not too large, up to its pixels.

    Args:
        start: bytes; where the pixels begin behind them, the answer is False.
    """
    if start[:3] != b"\xff\xd8\xff":
        return False
    place, frame = 2, False
    try:
        while start[place] == 0xFF:
            marker, length = start[place + 1], start[place + 2] << 8 | start[place + 3]
            if marker == 0xDA:  # the pixels
                return frame
            if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2:
                return False  # has no length, or must not come here
            if marker in _FRAMES:
                bits, height, width = start[place + 4], _number(start, place + 5), _number(start, place + 7)
                frame = bits == 8 and start[place + 9] in (1, 3) and 0 < height * width <= decode.MAX_PIXELS
            place += 2 + length
    except IndexError:
        pass
    return False


def _number(start, place):
    return start[place] << 8 | start[place + 1]

