"""Files that are read or written by their paths, here or elsewhere. No TensorFlow is imported before one needs it.

    photos/1.jpg         no `://`: the operating system's own calls, as if this module were not there
    gs://bucket/1.jpg    gs and ram: TensorFlow's file systems
    s3://bucket/1.jpg    all others: fsspec's, each by its package, such as s3fs

Whatever is wrong with a remote file is an OSError with an errno, as of a local one.
"""

import atexit
import builtins
import concurrent.futures
import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
import threading

from cct_tf.errors import OutsideFault, UserError, storage_fault
from cct_tf.machine import remote_systems
from cct_tf.machine.remote_systems import failure

PATIENCE = 60.0  # seconds that the first answer of a file system may take
_BLOCK = 16 * 2**20  # bytes copied at a time
_THREADS = 16  # that fetch files: they mostly wait

_copies = {}  # {path: (what it was like, the path of its copy)}, see `local`
_folder = None  # of the copies
_remembered = None  # {path: bytes}, see `remembering`


def is_remote(path):
    """Whether a path (str, bytes or pathlib's) is the address of something elsewhere, such as `gs://bucket/run`."""
    return "://" in os.fsdecode(path)


def scheme(path):
    """`gs` of `gs://bucket/run`, which is remote."""
    return os.fsdecode(path).partition("://")[0]


def by_tensorflow(path):
    """Whether TensorFlow has to start to read a path, which may be None."""
    return bool(path) and is_remote(path) and scheme(path) in remote_systems.OF_TENSORFLOW


def check(flag, path):
    """Find out whether a remote path can be asked for; a local one, or None, passes.

    Args:
        flag: what names it, such as `--data_dir`.
        path: text. It need not be there.

    Raises:
        UserError: no file system has its scheme, a package is missing, or these credentials may not read it.
        OutsideFault: it can't be reached, or gives no answer for `PATIENCE` seconds.
    """
    if path and is_remote(path):
        _ask(flag, path, "read", lambda: _kind(path))


def check_folder(flag, path):
    """As `check`, of a remote folder, made if need be, in which files can be written."""
    def probe():
        system, name = remote_systems.system(path), os.path.join(path, f".writable-{os.getpid()}")
        with failure(path):
            system.makedirs(path)
            with system.opened(name, "wb") as file:
                file.write(b"1")
            system.remove(name)

    _ask(flag, path, "written", probe)


def _ask(flag, path, done, function):
    """Call a function in a thread, for `PATIENCE` seconds at most, and name the flag in what it raises."""
    raised = []

    def ask():
        try:
            function()
        except OSError as error:
            raised.append(error)

    with _naming(flag):
        remote_systems.system(path)  # which imports what it needs: that is not the server's time
    asking = threading.Thread(target=ask, daemon=True, name="check")
    asking.start()
    asking.join(PATIENCE)
    if asking.is_alive():
        raise OutsideFault(f"{flag}: expected an answer from {path} within {PATIENCE:g} s, found none; the same "
                           "command tries again")
    if not raised:
        return
    text = raised[0].strerror.removeprefix(f"{os.strerror(errno.EIO)}: ")
    if raised[0].errno != errno.EIO:
        by = " with the credentials given here" if raised[0].errno in (errno.EACCES, errno.EPERM) else ""
        raise UserError(f"{flag}: expected a place that can be {done}{by}, found {path} ({text})")
    raise OutsideFault(f"{flag}: {path} can't be reached ({text}); the same command tries again")


@contextlib.contextmanager
def _naming(flag):
    try:
        yield
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


# Reading.


def read(path, most=None):
    """The bytes of a file, or the first `most` of them."""
    if not is_remote(path):
        with builtins.open(path, "rb") as file:
            return file.read() if most is None else file.read(most)
    name, remembered = os.fsdecode(path), _remembered
    if remembered is None:
        with failure(path):
            return remote_systems.system(path).read(name, most)
    if name not in remembered:
        with failure(path):
            remembered[name] = remote_systems.system(path).read(name, None)
    return remembered[name] if most is None else remembered[name][:most]


@contextlib.contextmanager
def remembering():
    """While the block lasts, `read` keeps what it reads of remote files."""
    global _remembered
    _remembered = {}
    try:
        yield
    finally:
        _remembered = None


def fetch(paths, advance):
    """Read remote files, many at a time, to be remembered. What can't be read is found by who reads it then.

    Args:
        paths: list of paths.
        advance: function of a number of files, called as they are read.

    Raises:
        OSError: they can't be reached.
    """
    def one(path):
        try:
            read(path)
        except OSError as error:
            if storage_fault(error):
                raise

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(one, paths):
                advance(1)
        finally:
            pool.shutdown(cancel_futures=True)


def open(path, mode="r", **options):
    """As the function of Python, to read; a remote file is held in memory."""
    if not is_remote(path):
        return builtins.open(path, mode, **options)
    contents = io.BytesIO(read(path))
    return contents if "b" in mode else io.TextIOWrapper(contents, **options)


def stat(path):
    """As `os.stat`: of a remote path `Found`, which has its st_size, st_mtime_ns and st_mode."""
    if not is_remote(path):
        return os.stat(path)
    with failure(path):
        return remote_systems.system(path).stat(os.fsdecode(path))


def exists(path):
    return os.path.exists(path) if not is_remote(path) else _kind(path) is not None


def is_dir(path):
    return os.path.isdir(path) if not is_remote(path) else _kind(path) == "folder"


def is_file(path):
    return os.path.isfile(path) if not is_remote(path) else _kind(path) == "file"


def _kind(path):
    try:
        return "folder" if stat(path).is_dir() else "file"
    except (FileNotFoundError, NotADirectoryError):
        return None


def scandir(path):
    """As `os.scandir`, a context manager of what is in a folder."""
    if not is_remote(path):
        return os.scandir(path)
    with failure(path):
        return contextlib.nullcontext(remote_systems.system(path).scan(path))


def names(path):
    """Names of what is in a remote folder: list of text."""
    with failure(path):
        return remote_systems.system(path).names(path)


def glob(pattern):
    """Remote paths that match a pattern, in which `*` never stands for a slash: list of text."""
    with failure(pattern):
        return remote_systems.system(pattern).glob(pattern)


def dirname(path):
    """As `os.path.dirname`; `gs://bucket` is of the folder `gs://`."""
    if not is_remote(path):
        return os.path.dirname(path)
    start, rest = re.fullmatch(r"(.*?://)(.*)", path, re.DOTALL).groups()
    return start + os.path.dirname(rest)


def realpath(path):
    """As `os.path.realpath`; of a remote path itself."""
    return path.rstrip("/") if is_remote(path) else os.path.realpath(path)


# Copies, where a library reads or writes files of this machine alone.


def local(path):
    """The path of a file or folder on this machine: itself, or a copy of a remote one, kept until the process ends.

    A second call gives the same copy, unless something has changed since.
    """
    if not is_remote(path):
        return path
    path = path.rstrip("/")
    found = {name: (each.st_size, each.st_mtime_ns) for name, each in _below(path)}
    if path in _copies and _copies[path][0] == found:
        return _copies[path][1]
    target = os.path.join(tempfile.mkdtemp(dir=_copies_folder()), os.path.basename(path))
    for name in found:
        _fetch(path + name, target + name)
    _copies[path] = found, target
    return target


def _copies_folder():
    global _folder
    if _folder is None:
        _folder = tempfile.mkdtemp(prefix="cct_tf-")
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    return _folder


def _below(path, name=""):
    """Yield ("/" and the path below it, Found) of each file of a remote folder; of a file ("", its own)."""
    if not name and not stat(path).is_dir():
        yield "", stat(path)
        return
    with scandir(path + name) as entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.is_dir():
                yield from _below(path, inner)
            else:
                yield inner, entry.stat()


def _fetch(path, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with failure(path), remote_systems.system(path).opened(path, "rb") as source, builtins.open(target, "wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


@contextlib.contextmanager
def named(path, copy):
    """Have a UserError speak of a remote path and not of its copy."""
    try:
        yield
    except UserError as error:
        if path == copy or copy not in str(error):
            raise
        raise UserError(str(error).replace(copy, path)) from None


def send(source, path, last=""):
    """Copy a file, or a folder, to a remote path where there is none, or a file that is replaced.

    A file is seen whole or not at all, under its name. Of a folder the file `last` comes last.
    """
    system = remote_systems.system(path)
    with failure(path):
        if not os.path.isdir(source):
            system.makedirs(dirname(path))
            hidden = os.path.join(dirname(path), f".{os.getpid()}-{os.path.basename(path)}")
            try:
                _put(system, source, hidden)
                system.move(hidden, path)
            except BaseException:
                with contextlib.suppress(Exception):  # what was raised counts
                    system.remove(hidden)
                raise
            return
        names = [os.path.relpath(os.path.join(folder, name), source) for folder, _, names in os.walk(source)
                 for name in names]
        for name in sorted(names, key=lambda name: (name == last, name)):
            target = os.path.join(path, name)
            system.makedirs(dirname(target))
            _put(system, os.path.join(source, name), target)


def _put(system, source, target):
    with builtins.open(source, "rb") as file, system.opened(target, "wb") as sink:
        shutil.copyfileobj(file, sink, _BLOCK)
