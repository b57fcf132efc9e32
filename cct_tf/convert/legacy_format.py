"""PyTorch's format before 1.6: five pickles (magic, protocol, machine, content, keys), then the storages' bytes."""

import io

import numpy as np

from cct_tf.convert import pickled
from cct_tf.convert.entries import Arrays, Refused, shown

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class LegacyFormat:
    """A file in the legacy format.

    Args:
        file: binary file, at its beginning.
        size: int, its bytes.

    Attributes:
        content: the fourth pickle's value, see `pickled.read`.
        arrays: `Arrays` of its tensors.
    """

    def __init__(self, file, size):
        self._file = file
        head = io.BytesIO(file.read(pickled.MAX_BYTES))
        if pickled.read(head)[0] != _MAGIC or pickled.read(head)[0] != _PROTOCOL:
            raise Refused("expected PyTorch's magic number and protocol 1001, found others")
        machine = pickled.read(head)[0]
        self.content, storages = pickled.read(head)
        keys = pickled.read(head)[0]
        if not isinstance(machine, dict) or not isinstance(keys, list):
            raise Refused("expected a description of the machine and a list of storages, found others")
        self._order = "<" if machine.get("little_endian", True) is True else ">"
        self._positions = self._find(keys, storages, head.tell(), size)
        self.arrays = Arrays(self._fetch, self._order)

    def _find(self, keys, storages, position, size):
        """{key: position of its bytes}. The storages must follow one another up to the file's end."""
        if not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
            raise Refused("expected the list of exactly the storages that are used, found another")
        positions = {}
        for key in keys:
            self._file.seek(position)
            count = int.from_bytes(self._file.read(8), "little" if self._order == "<" else "big")
            if count != storages[key].size:
                raise Refused(f"storage {shown(key)}: expected {storages[key].size:,} elements, found {count:,}")
            positions[key] = position + 8
            position += 8 + storages[key].num_bytes
            if position > size:
                break
        if position != size:
            raise Refused(f"expected storages up to the file's end at {size:,} bytes, found them up to {position:,}")
        return positions

    def _fetch(self, storage):
        data = np.empty(storage.num_bytes, np.uint8)
        self._file.seek(self._positions[storage.key])
        if self._file.readinto(data) != len(data):
            raise Refused("expected a whole file, found its end")
        return data
