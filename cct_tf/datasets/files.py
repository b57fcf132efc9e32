"""The image files of a folder or a table, as columns: a million Python objects would take half a GiB. No TensorFlow."""

import dataclasses
import os

import numpy as np

from cct_tf.data.source import File

_MOST_PADDING = 4  # an array of bytes has rows as long as its longest: so many times the mean at most

_BLOCK = 65_536
# What a table says of each file, beside its path: what stands where it says nothing.
_OF_TABLES = {"numbers": 0, "weights": 1.0, "groups": ""}


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, in order.

    Attributes:
        paths: array of n bytes, relative to the root of the data set, see `bytes_array`.
        sizes: int64 [n], bytes.
        times: int64 [n], when they were last modified, in nanoseconds.
        numbers: int32 [n], the row of the table that names each, 0 where none does; None of a folder.
        weights: float64 [n], at least 0; None where they have none.
        groups: object [n] of str; None where they have none.
    """

    paths: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    numbers: np.ndarray | None = None
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, chosen):
        """The `source.File` at an int, the Files at an array or a slice."""
        if isinstance(chosen, (int, np.integer)):
            return File(bytes(self.paths[chosen]), int(self.sizes[chosen]))
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Files(**{name: None if column is None else column[chosen] for name, column in columns.items()})

    def __iter__(self):
        return (File(path, size) for path, size, _ in self.rows())

    def rows(self):
        """Yield (path, size, time) of each, as Python objects, of which there are few at a time."""
        for start in range(0, len(self), _BLOCK):
            columns = (column[start:start + _BLOCK].tolist() for column in (self.paths, self.sizes, self.times))
            yield from zip(*columns, strict=True)


def bytes_array(values):
    """Array of a list of bytes that hold no zeros: of bytes objects where one is far longer than most."""
    longest = max(map(len, values), default=1)
    padded = longest * len(values) <= _MOST_PADDING * sum(map(len, values))
    return np.array(values, f"S{max(longest, 1)}" if padded else object)


def joined(parts):
    """Files of several, in a row."""
    parts = list(parts)
    paths = [part.paths for part in parts]
    widths, number = [array.itemsize for array in paths], sum(map(len, paths))
    if any(array.dtype == object for array in paths) or max(widths) * number > _MOST_PADDING * sum(
            width * len(array) for width, array in zip(widths, paths, strict=True)):
        paths = bytes_array([path for array in paths for path in array.tolist()])
    else:
        paths = np.concatenate(paths)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "times")}
    return Files(paths, **columns, **{name: _joined(parts, name, nothing) for name, nothing in _OF_TABLES.items()})


def _joined(parts, name, nothing):
    """A column of tables, where one of the parts has it; `nothing` stands for it in the others."""
    columns = [getattr(part, name) for part in parts]
    dtype = next((column.dtype for column in columns if column is not None), None)
    if dtype is None:
        return None
    return np.concatenate([np.full(len(part), nothing, dtype) if column is None else column
                           for part, column in zip(parts, columns, strict=True)])


def below(folder, paths):
    """Array of the paths (bytes) of files below a folder (str), as `os.path.join` makes them, for an array of names."""
    start = os.fsencode(os.path.join(folder, ""))
    if paths.dtype == object:
        return np.array([start + path for path in paths], object)
    return np.char.add(start, paths)
