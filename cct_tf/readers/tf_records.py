"""Single records of a TFRecord shard that is damaged. No TensorFlow here.

TensorFlow reads a shard from its start, and nothing behind the first damaged record. The format allows more. A record
is

    its length (8 bytes, little-endian), the checksum of the length (4), the data, the checksum of the data (4)

so that records behind a damaged one are found as long as the lengths are sound.

Checksums are computed in Python, at about 10 ms for 100 kB: this is for the rest of a damaged shard alone.
"""

import functools
import os
import struct

from cct_tf.errors import storage_fault

_HEAD, _TAIL = struct.Struct("<Q4s"), 4
_MOST_SHARDS = 64  # whose places of records are kept


def read(path, number):
    """A record of a shard.

    Args:
        path: str.
        number: int, of the record in the file.

    Returns:
        bytes.

    Raises:
        ValueError: it is damaged, or the shard before it, or the shard is not there.
        OSError: the storage is at fault; the text is as `errors.storage_fault` takes it from TensorFlow's errors.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            starts, end = _starts(path, status.st_size, status.st_mtime_ns)
            if number >= len(starts):
                raise ValueError(f"expected a record, found that {end}")
            file.seek(starts[number])
            length, _ = _HEAD.unpack(file.read(_HEAD.size))
            contents, checksum = file.read(length), file.read(_TAIL)
    except OSError as error:
        if storage_fault(error):
            raise OSError(error.errno, f"{path}; {error.strerror}") from None
        raise ValueError(f"expected a shard that can be read, found: {error.strerror}") from error
    if _masked_crc(contents) != checksum:
        raise ValueError("expected a record with the right checksum, found a damaged one")
    return contents


@functools.lru_cache(_MOST_SHARDS)
def _starts(path, size, changed):
    """(Where the records begin that can be found: list of offsets, in words why there are no more).

    Args:
        path: str.
        size, changed: bytes and time of modification of the file; of another one the answer is another.
    """
    del changed
    starts, start = [], 0
    with open(path, "rb") as file:
        while start + _HEAD.size <= size:
            file.seek(start)
            head = file.read(_HEAD.size)
            length, checksum = _HEAD.unpack(head)
            if _masked_crc(head[:8]) != checksum:
                return starts, f"the length of record {len(starts)} is damaged, so nothing behind it can be found"
            if start + _HEAD.size + length + _TAIL > size:
                break
            starts.append(start)
            start += _HEAD.size + length + _TAIL
    return starts, f"the shard is cut off at record {len(starts)}"


def _table():
    """CRC-32C (Castagnoli) of each byte."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def _masked_crc(contents):
    """The checksum of some bytes as TFRecord stores it: 4 bytes."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in contents:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
