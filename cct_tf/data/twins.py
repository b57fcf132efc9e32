"""Image files of the same bytes in two splits, which make figures better than they are. No TensorFlow, no decoding."""

import concurrent.futures
import os
import zlib

import numpy as np

from cct_tf.machine import files

_MOST = 10_000  # files of a size that another split has too; more would take long to look at
_HEAD = 4096  # bytes that are looked at first
_THREADS = 8
_NAMED = 3


def notes(root, splits):
    """Lines for the plan. Of files of equal sizes the first bytes are compared by CRC-32, then all of them.

    Args:
        root: str, the folder that paths are relative to.
        splits: sequence of `source.Split` whose files are `files.Files`.
    """
    sizes = np.concatenate([split.files.sizes for split in splits])
    starts = np.cumsum([0, *(len(split.files.paths) for split in splits)])
    where = np.repeat(np.arange(len(splits)), np.diff(starts))
    keys, found = sizes, _in_two_splits(sizes, where)
    if len(found) > _MOST:
        return ()
    paths = {place: bytes(splits[where[place]].files.paths[place - starts[where[place]]]) for place in found.tolist()}
    for most in (_HEAD, None):
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            sums = list(pool.map(lambda place, most=most: _checksum(root, paths[place], most), found.tolist()))
        keys = sizes[found] * 2**33 + np.array(sums, np.int64)
        kept = _in_two_splits(keys, where[found])
        kept = kept[np.array(sums, np.int64)[kept] >= 0]
        found, keys = found[kept], keys[kept]
    return _lines([paths[place] for place in found.tolist()], keys, [splits[place].name for place in where[found]])


def _in_two_splits(keys, where):
    """Places whose key is that of a place of another split: int64 [m]."""
    pairs = np.unique(np.stack([keys, where], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.flatnonzero(np.isin(keys, values[counts > 1]))


def _checksum(root, path, most):
    """CRC-32 of the first bytes of a file, of all where `most` is None; -1 where it can't be read."""
    try:
        return zlib.crc32(files.read(os.path.join(os.fsencode(root), path), most))
    except OSError:
        return -1


def _lines(paths, keys, names):
    """`paths`, `keys` and the names of the splits of the same places."""
    by_key = {}
    for path, key, name in zip(paths, keys.tolist(), names, strict=True):
        by_key.setdefault(key, {}).setdefault(name, path.decode("utf-8", "backslashreplace"))
    pairs = [" = ".join(f"{path} ({split})" for split, path in each.items()) for each in by_key.values()]
    if not pairs:
        return ()
    more = f" and {len(pairs) - _NAMED:,} more" if len(pairs) > _NAMED else ""
    what = "image lies" if len(pairs) == 1 else "images lie"
    return (f"{len(pairs):,} {what} in more than one split, byte for byte: {', '.join(pairs[:_NAMED])}{more}",)
