"""The safetensors format: the header's length, the header in JSON, then the bytes of the tensors without gaps.

The format is described at huggingface.co/docs/safetensors. Little-endian throughout.
"""

import json
import math
import os

import numpy as np

from cct_tf.convert.entries import MAX_TENSORS, Arrays, Refused, Storage, contiguous, shown

_MAX_HEADER = 2 * 2**20
_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32",
          "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


def looks_so(head):
    """Whether a file with these first bytes has this format."""
    return head[8:9] == b"{"


class Safetensors:
    """A file in the safetensors format.

    Args:
        file: binary file, at its beginning.
        size: int, its bytes.

    Attributes:
        content: dict name -> `Tensor`.
        arrays: `Arrays` of them.
    """

    def __init__(self, file, size):
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise Refused(f"expected a header of at most {_MAX_HEADER:,} bytes inside the file, found {length:,}")
        header = _parse(file.read(length))
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            raise Refused(f"expected at most {MAX_TENSORS:,} tensors, found {len(header):,}")
        self.content, self._positions = {}, {}
        spans = []
        for name, entry in header.items():
            self.content[name], begin, end = _tensor(name, entry)
            self._positions[name] = 8 + length + begin
            spans.append((begin, end))
        end = 0
        for begin, after in sorted(spans):
            if begin != end:
                raise Refused(f"expected tensors one after the other, found a gap or an overlap at byte {begin}")
            end = after
        if 8 + length + end != size:
            raise Refused(f"expected tensors up to the file's end at {size:,} bytes, found them up to "
                          f"{8 + length + end:,}")
        self.arrays = Arrays(self._fetch)

    def _fetch(self, storage):
        data = np.empty(storage.num_bytes, np.uint8)
        self._file.seek(self._positions[storage.key])
        if self._file.readinto(data) != len(data):
            raise Refused("expected a whole file, found its end")
        return data


def _parse(text):
    def unique(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("two values of one name")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Refused(f"expected a header in JSON, found another ({shown(str(error))})") from None
    if not isinstance(header, dict):
        raise Refused("expected a header that is a JSON object, found another")
    return header


def _tensor(name, entry):
    """(Tensor, begin, end) of one entry of the header."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if len(entry) == 3:
            pass
        case _:
            raise Refused(f"{shown(name)}: expected dtype, shape and data_offsets, found others")
    if kind not in _TYPES:
        raise Refused(f"{shown(name)}: expected a type of {', '.join(_TYPES)}, found {shown(kind)}")
    if len(shape) > 8 or not all(type(n) is int and 0 < n < 2**48 for n in shape):
        raise Refused(f"{shown(name)}: expected a shape of at most 8 axes above 0, found another")
    if not 0 <= begin <= end < 2**48:
        raise Refused(f"{shown(name)}: expected data_offsets inside the file, found others")
    storage = Storage(name, _TYPES[kind], math.prod(shape))
    if end - begin != storage.num_bytes:
        raise Refused(f"{shown(name)}: expected {storage.num_bytes:,} bytes for shape {shape}, found bytes {begin} to "
                      f"{end}")
    return contiguous(storage, tuple(shape)), begin, end


def write(path, arrays):
    """Write arrays as a safetensors file, atomically.

    Args:
        path: pathlib.Path of the file; one that is there is replaced.
        arrays: dict name -> NumPy float32 array.
    """
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks writers to align the data
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
