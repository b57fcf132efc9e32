"""Which files of a folder were looked at before and need not be again. No TensorFlow here.

Looking at a million headers takes minutes, so what was found good is noted in a file of the user's cache folder:

    FOLDER/3f0c...    one for each image folder and kind of look: a line that says what it is, a checksum, and 8 bytes
                      for each good file, a hash of its path, size, time of last modification and the kind

It is a note, nothing depends on it: where it is missing, damaged or can't be written, files are looked at again.
"""

import contextlib
import hashlib
import os
import tempfile
import zlib

import numpy as np

from cct_tf.machine import files as remote_files

MOST_BYTES = 256 * 2**20  # of all notes: 32 million files
_HEAD = b"cct_tf: image files found good, 1\n"


class Checked:
    """The files of one image folder that are known to be good.

    Args:
        cache: pathlib.Path of the folder of notes, or None: nothing is known, nothing is noted.
        root: str, the image folder.
        kind: str, what was looked at, and whatever else the answer depends on.
        files: `files.Files` to ask for.
        are_all: whether these are all files of the folder: what was noted of others is forgotten then.
    """

    def __init__(self, cache, root, kind, files, are_all):
        self._path, self._good, self._others = None, np.zeros(len(files), bool), np.zeros(0, np.uint64)
        if cache is None:
            return
        root = os.fsencode(remote_files.realpath(root))
        name = hashlib.blake2b(root + b"\0" + kind.encode(), digest_size=16).hexdigest()
        self._path, self._keys = cache / name, _keys(files, kind)
        before = _read(self._path)
        self._good = np.isin(self._keys, before)
        if not are_all:
            self._others = before

    def unknown(self):
        """Places of the files that are not known to be good: int64 [k], ascending."""
        return np.flatnonzero(~self._good)

    def add(self, places):
        """Note files as good, by their places."""
        if not len(places):
            return
        self._good[places] = True
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # not ours to write, or no room: looked at again the next time
            _write(self._path, np.union1d(self._keys[self._good], self._others))
            _prune(self._path)


def _keys(files, kind):
    """uint64 [n] hashes of path, size and time."""
    begun, keys = hashlib.blake2b(kind.encode() + b"\0", digest_size=8), bytearray()
    for row in files.rows():
        digest = begun.copy()
        digest.update(b"%b\0%d %d" % row)
        keys += digest.digest()
    return np.frombuffer(bytes(keys), "<u8")


def _read(path):
    """uint64 keys of a note; none where there is no whole one."""
    nothing = np.zeros(0, np.uint64)
    try:
        contents = path.read_bytes()
    except OSError:
        return nothing
    head, body = contents[:len(_HEAD) + 4], contents[len(_HEAD) + 4:]
    if head != _head(body) or len(body) % 8:
        return nothing
    with contextlib.suppress(OSError):
        os.utime(path)  # it is in use
    return np.frombuffer(body, "<u8")


def _head(body):
    return _HEAD + zlib.crc32(body).to_bytes(4, "little")


def _write(path, keys):
    """Replace a note at once, for other processes may read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = keys.astype("<u8").tobytes()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="new-", delete=False) as file:
        try:
            file.write(_head(body) + body)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def _prune(newest, most_bytes=MOST_BYTES):
    """Delete the notes that were not used for longest until the rest has at most `most_bytes`; never `newest`."""
    states = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            states.append((path != newest, -state.st_mtime_ns, state.st_size, path))
    total = 0
    for _, _, size, path in sorted(states):
        total += size
        if total > most_bytes and path != newest:
            path.unlink(missing_ok=True)
