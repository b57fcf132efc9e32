"""PyTorch's zip format (1.6 and later): NAME/data.pkl and NAME/data/KEY for each storage, all stored uncompressed."""

import errno
import io
import struct
import zipfile
import zlib

import numpy as np

from cct_tf.convert import pickled
from cct_tf.convert.entries import Arrays, Refused, shown

_MAX_DIRECTORY = 2**20  # bytes of the list of entries; each entry becomes an object
_BLOCK = 2**18
_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, KeyError, IndexError, RuntimeError,
           NotImplementedError, OverflowError)


class _Bounded:
    """A file whose `read` is bounded: zipfile would read as many bytes as the archive claims to have."""

    def __init__(self, file):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def seekable(self):
        return True

    def read(self, count=-1):
        data = self._file.read(min(count, _MAX_DIRECTORY + 1) if count >= 0 else _MAX_DIRECTORY + 1)
        if len(data) > _MAX_DIRECTORY:
            raise Refused(f"expected an archive whose directory takes at most {_MAX_DIRECTORY:,} bytes, found more")
        return data


class ZipFormat:
    """A file in the zip format.

    Args:
        file: binary file.
        size: int, its bytes.

    Attributes:
        content: the pickle's value, see `pickled.read`.
        arrays: `Arrays` of its tensors.
    """

    def __init__(self, file, size):
        try:
            self._archive = zipfile.ZipFile(_Bounded(file))
        except (*_FAULTS, OSError) as error:
            raise _damaged(error) from None
        entries = self._archive.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        _check(entries, size)
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"expected an archive with one data.pkl, found {len(pickles)}")
        self._top = pickles[0].removesuffix("data.pkl")
        if self._entries[pickles[0]].file_size > pickled.MAX_BYTES:
            raise Refused(f"expected a data.pkl of at most {pickled.MAX_BYTES:,} bytes, found more")
        self.content, self._storages = pickled.read(io.BytesIO(self._read(pickles[0]).tobytes()))
        self.arrays = Arrays(self._fetch, self._order())

    def _order(self):
        name = f"{self._top}byteorder"
        written = b"little"
        if name in self._entries:
            written = self._read(name).tobytes() if self._entries[name].file_size <= 8 else b""
        if written not in (b"little", b"big"):
            raise Refused("byteorder: expected little or big, found another")
        return "<" if written == b"little" else ">"

    def _fetch(self, storage):
        name = f"{self._top}data/{storage.key}"
        if name not in self._entries:
            raise Refused(f"expected the storage {shown(name)}, found none")
        found = self._entries[name].file_size
        if found != storage.num_bytes:
            raise Refused(f"{shown(name)}: expected {storage.num_bytes:,} bytes, found {found:,}")
        return self._read(name)

    def _read(self, name):
        """The bytes of an entry, uint8, its CRC checked by zipfile at the end."""
        data = np.empty(self._entries[name].file_size, np.uint8)
        position = 0
        try:
            with self._archive.open(name) as entry:
                while block := entry.read(_BLOCK):
                    data[position:position + len(block)] = np.frombuffer(block, np.uint8)
                    position += len(block)
        except (*_FAULTS, OSError) as error:
            raise _damaged(error) from None
        if position != len(data):
            raise Refused(f"{shown(name)}: expected {len(data):,} bytes, found {position:,}")
        return data


def _check(entries, size):
    """Refuse archives whose entries would take more memory than the file."""
    if len({entry.filename for entry in entries}) != len(entries):
        raise Refused("expected entries of different names, found two of one name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Refused(f"{shown(entry.filename)}: expected an entry stored uncompressed, as PyTorch writes them, "
                          "found another")
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise Refused(f"expected entries of at most the file's {size:,} bytes, found {total:,}")


def _damaged(error):
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return error
    return Refused(f"expected a whole archive, found a damaged one ({shown(str(error))})")
