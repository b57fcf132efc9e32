"""TFRecord shards with damage in them."""

import struct

HEAD, TAIL = 12, 4  # bytes of a record before and behind its data


def starts(path):
    """Where the records of a sound shard begin, and its end: list of offsets."""
    with open(path, "rb") as file:
        contents, found = file.read(), [0]
    while found[-1] < len(contents):
        found.append(found[-1] + HEAD + struct.unpack_from("<Q", contents, found[-1])[0] + TAIL)
    return found


def flip(path, number, at=HEAD):
    """Flip the bits of one byte of a record, by default of the first one of its data."""
    with open(path, "r+b") as file:
        place = starts(path)[number] + at
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 255]))


def cut(path, number, further=0):
    """Cut a shard off before a record, or so many bytes later."""
    end = starts(path)[number] + further
    with open(path, "r+b") as file:
        file.truncate(end)
