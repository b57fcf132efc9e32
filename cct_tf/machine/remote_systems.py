"""The file systems behind `files`: TensorFlow's and fsspec's, with the same few methods. See `files`."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import errno
import os
import re
import stat
import sys

from cct_tf.errors import UserError

OF_TENSORFLOW = ("gs", "ram")  # what TensorFlow 2.21 knows by itself
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "abfs": "adlfs", "az": "adlfs", "http": "aiohttp", "https": "aiohttp",
             "sftp": "paramiko", "hf": "huggingface_hub"}
_WITHOUT_FOLDERS = ("s3", "s3a", "abfs", "az")  # s3fs would make a bucket
_THREADS = 16  # that ask for what is in a folder
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")  # what fsspec's systems call it
# By the names of errors: TensorFlow's and those of fsspec's packages may not be imported, and Python's may come without
# a number.
_NUMBERS = {"NotFoundError": errno.ENOENT, "FileNotFoundError": errno.ENOENT, "NotADirectoryError": errno.ENOTDIR,
            "PermissionDeniedError": errno.EACCES, "UnauthenticatedError": errno.EACCES,
            "PermissionError": errno.EACCES, "NoCredentialsError": errno.EACCES, "InvalidArgumentError": errno.EINVAL,
            "NotImplementedError": errno.EOPNOTSUPP}
# Of the numbers that errors have; others, such as of a refused connection, are EIO: worth another try.
_TOLD = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EEXIST,
         errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is at a remote path; stands in for what `os.stat` gives."""

    st_size: int
    st_mtime_ns: int
    st_mode: int

    def is_dir(self):
        return stat.S_ISDIR(self.st_mode)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Stands in for what `os.scandir` gives."""

    name: str
    path: str
    found: Found

    def is_dir(self):
        return self.found.is_dir()

    def stat(self):
        return self.found


def _found(is_dir, size, time):
    return Found(0, 0, stat.S_IFDIR) if is_dir else Found(int(size or 0), time, stat.S_IFREG)


@contextlib.contextmanager
def failure(path):
    """Turn whatever a file system raises into an OSError that names the path and has an errno; EIO if it says none."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own
        names = [each.__name__ for each in type(error).__mro__]
        number = next((_NUMBERS[name] for name in names if name in _NUMBERS), errno.EIO)
        number = error.errno if getattr(error, "errno", None) in _TOLD else number
        text, said = os.strerror(number), " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        if number != errno.ENOENT:  # of EIO `errors.storage_fault` knows the text, wherever it stands
            text = said if said.startswith(text) else f"{text}: {said or names[0]}"
        raise OSError(number, text, os.fsdecode(path)) from None


def system(path):
    """The file system of a path: `_TensorFlow`, also of one of this machine, or `_Fsspec`.

    Raises:
        UserError: there is none, or its package is missing.
    """
    name, mark, _ = os.fsdecode(path).partition("://")
    if not mark or name in OF_TENSORFLOW:
        return _TensorFlow()
    try:
        import fsspec
        found, _ = fsspec.url_to_fs(os.fsdecode(path))
    except ImportError as error:
        package = _PACKAGES.get(name, name) if "fsspec" in sys.modules else "fsspec"
        raise UserError(f"expected the package {package}, which reads {name}://, found none ({error}); pip install "
                        f"{package}, or copy the files to this machine") from None
    except ValueError as error:
        raise UserError("expected a file system that TensorFlow or fsspec knows, such as gs:// or s3://, found "
                        f"{os.fsdecode(path)!r} ({str(error)[:100]})") from None
    return _Fsspec(found)


class _TensorFlow:
    """`tf.io.gfile`."""

    def __init__(self):
        if "tensorflow" not in sys.modules:
            from cct_tf.machine import runtime
            runtime.start_tensorflow()
        import tensorflow as tf
        self._gfile = tf.io.gfile

    def stat(self, path):
        found = self._gfile.stat(path)
        return _found(found.is_directory, found.length, found.mtime_nsec)

    def exists(self, path):
        return self._gfile.exists(path)

    def names(self, path):
        return sorted({name.rstrip("/") for name in self._gfile.listdir(path)} - {""})

    def scan(self, path):
        names = self.names(path)
        paths = [os.path.join(path, name) for name in names]
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:  # gs:// answers one question a file
            return list(map(Entry, names, paths, pool.map(self.stat, paths)))

    def glob(self, pattern):
        return self._gfile.glob(pattern)

    def opened(self, path, mode):
        return self._gfile.GFile(path, mode)

    def read(self, path, most):
        with self.opened(path, "rb") as file:
            return file.read(-1 if most is None else most)

    def makedirs(self, path):
        self._gfile.makedirs(path)

    def move(self, path, target):
        self._gfile.rename(path, target, overwrite=True)

    def remove(self, path):
        self._gfile.remove(path)


class _Fsspec:
    """A file system of fsspec."""

    def __init__(self, found):
        self._system = found

    def stat(self, path):
        self._system.invalidate_cache()  # it may have changed since
        return self._of(self._system.info(path))

    def _of(self, info):
        return _found(info["type"] == "directory", info.get("size"), _time(info))

    def exists(self, path):
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True  # its own `exists` says no, too, where the server does not answer

    def names(self, path):
        return [entry.name for entry in self.scan(path)]

    def scan(self, path):
        self._system.invalidate_cache()
        own = self._system._strip_protocol(path).rstrip("/")
        rows = {info["name"].rstrip("/"): info for info in self._system.ls(path, detail=True)}
        names = {name.rpartition("/")[2]: info for name, info in sorted(rows.items()) if name != own}
        return [Entry(name, os.path.join(path, name), self._of(info)) for name, info in names.items()]

    def glob(self, pattern):
        folder = re.match(r"[^*?\[]*/", pattern).group().rstrip("/")
        inside = self._system._strip_protocol(folder)  # as the system writes it
        return [folder + path.removeprefix(inside) for path in self._system.glob(pattern)]

    def opened(self, path, mode):
        return self._system.open(path, mode)

    def read(self, path, most):
        return self._system.cat_file(path) if most is None else self._system.cat_file(path, 0, most)

    def makedirs(self, path):
        if path.partition("://")[0] not in _WITHOUT_FOLDERS:
            self._system.makedirs(path, exist_ok=True)

    def move(self, path, target):
        self._system.mv(path, target)

    def remove(self, path):
        self._system.rm(path)


def _time(info):
    """Nanoseconds since 1970 of when a file was last modified; 0 where it is not told."""
    value = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        value = value.timestamp()
    return int(value * 1e9) if isinstance(value, (int, float)) else 0
