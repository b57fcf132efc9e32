"""The entries of a file of weights: storages, tensors as views of them, and their NumPy arrays."""

import dataclasses
import math
import sys

import numpy as np

MAX_TENSORS = 10_000
_MAX_RANK = 8
_MAX_NUMBER = 2**48  # of a shape, stride or offset: their products with an element's size stay below 2^63
# PyTorch's type -> NumPy's. None: a file may hold tensors of this type, but they can't be read as weights.
_TYPES = {"float16": "f2", "bfloat16": "u2", "float32": "f4", "float64": "f8", "int64": "i8", "int32": None,
          "int16": None, "int8": None, "uint8": None, "bool": None, "complex64": None, "complex128": None}
_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
          "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16}


class Refused(Exception):
    """A file is refused. The message is "expected ..., found ...", without the file's name."""


def shown(value):
    """The `repr` of a value read from a file, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}...{text[-10:]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A one-dimensional array of elements in a file.

    Attributes:
        key: str, its name in the file.
        dtype: str, PyTorch's name of the type, such as "float32".
        size: int, number of elements.
    """

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self):
        return self.size * _SIZES[self.dtype]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage.

    Attributes:
        storage: Storage.
        offset: int, index of its first element in the storage.
        shape, strides: tuples of int; strides count elements.
    """

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    def problem(self):
        """What is wrong with the tensor, "expected ..., found ...": its type, or its bounds; None if nothing is."""
        if _TYPES.get(self.storage.dtype) is None:
            readable = ", ".join(name for name, kind in _TYPES.items() if kind)
            return f"expected a type of {readable}, found {self.storage.dtype}"
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) > _MAX_RANK or len(self.strides) != len(self.shape):
            return f"expected a stride for each of at most {_MAX_RANK} axes, found {len(self.shape)} axes and " \
                   f"{len(self.strides)} strides"
        if not all(type(number) is int and 0 <= number < _MAX_NUMBER for number in numbers) or 0 in self.shape:
            return "expected a shape above 0, strides and an offset of at least 0, all below 2^48, found others"
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= self.storage.size or math.prod(self.shape) > self.storage.size:
            return f"expected elements inside a storage of {self.storage.size}, found shape {list(self.shape)}, " \
                   f"strides {list(self.strides)} and offset {self.offset}"
        return None


def contiguous(storage, shape):
    """The `Tensor` of a whole storage, in row-major order."""
    strides = tuple(math.prod(shape[axis + 1:]) for axis in range(len(shape)))
    return Tensor(storage, 0, shape, strides)


class Arrays:
    """Turns tensors into NumPy arrays. Each storage is read once; arrays share memory as their tensors do.

    bfloat16 becomes float32, which represents it exactly; the other types stay.

    Args:
        fetch: function `Storage` -> its bytes, uint8 [num_bytes].
        order: byte order in the file, "<" (little-endian) or ">".
    """

    def __init__(self, fetch, order="<"):
        self._fetch, self._order, self._read = fetch, order, {}

    def __call__(self, tensor):
        """The read-only array of a tensor whose `problem()` is None."""
        key = tensor.storage.key
        if key not in self._read:
            self._read[key] = self._values(tensor.storage)
        values = self._read[key]
        strides = tuple(stride * values.itemsize for stride in tensor.strides)
        array = np.ndarray(tensor.shape, values.dtype, values, tensor.offset * values.itemsize, strides)
        array.flags.writeable = False
        return array

    def _values(self, storage):
        values = self._fetch(storage).view(_TYPES[storage.dtype])
        if self._order != ("<" if sys.byteorder == "little" else ">"):
            values.byteswap(inplace=True)
        if storage.dtype != "bfloat16":
            return values
        bits = values.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
