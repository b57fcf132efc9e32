"""The image files of a folder as columns: a million of them as Python objects would take half a GiB. No TensorFlow."""

import dataclasses
import os

import numpy as np

from cct_tf.data.source import File

_MOST_PADDING = 4  # an array of bytes has rows as long as its longest: so many times the mean at most


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, in order.

    Attributes:
        paths: array of n bytes, relative to the root of the data set, see `bytes_array`.
        sizes: int64 [n], bytes.
        times: int64 [n], when they were last modified, in nanoseconds.
    """

    paths: np.ndarray
    sizes: np.ndarray
    times: np.ndarray

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, chosen):
        """The `source.File` at an int, the Files at an array or a slice."""
        if isinstance(chosen, (int, np.integer)):
            return File(bytes(self.paths[chosen]), int(self.sizes[chosen]))
        return Files(self.paths[chosen], self.sizes[chosen], self.times[chosen])

    def __iter__(self):
        return map(File, self.paths.tolist(), self.sizes.tolist())


def bytes_array(values):
    """Array of a list of bytes that hold no zeros: of bytes objects where one is far longer than most."""
    longest = max(map(len, values), default=1)
    padded = longest * len(values) <= _MOST_PADDING * sum(map(len, values))
    return np.array(values, f"S{max(longest, 1)}" if padded else object)


def joined(parts):
    """Files of several, in a row."""
    parts = list(parts)
    return Files(bytes_array([path for part in parts for path in part.paths.tolist()]),
                 *(np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "times")))


def below(folder, paths):
    """Array of the paths (bytes) of files below a folder (str), as `os.path.join` makes them, for an array of names."""
    start = os.fsencode(os.path.join(folder, ""))
    if paths.dtype == object:
        return np.array([start + path for path in paths], object)
    return np.char.add(start, paths)
