"""What XLA has compiled, kept from one process to the next. No TensorFlow here.

TensorFlow can keep compiled programs in a folder, but it trusts what it finds there. A truncated entry ends the run,
and so does a file that is deleted between the listing and the reading; a changed one is run as machine code (all seen
with 2.21). So each process gets a folder of its own, filled with links to entries whose checksum was verified. What the
process compiles is kept under a name that holds the checksum:

    FOLDER/tensorflow-2.21.0-5f0c9a1e/        one for each build of TensorFlow and kind of machine: homes are shared
                                              on clusters, compiled code is not
        xla_compile_cache__..._JIT.pb.9c2b41d7  an entry and its CRC-32; written once, never changed
        process-k3x9/ and process-k3x9.lock     of a process that runs

A run has the same bits with and without the cache. Only programs for CPUs are kept: GPUs were not tried yet.
"""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import zlib

from cct_tf.errors import UserError
from cct_tf.machine import container

MOST_BYTES = 512 * 2**20  # of entries; a CCT-7's step is 3 MB for each replica. A second core checks 6 GB/s
_ROOM = 64 * 2**20  # bytes that must be free: TensorFlow ends the run if an entry can't be written
_STEADY = 250_000  # above what TensorFlow counts while it builds a run (CCT-7, two replicas, augmented: 24,000)

_cache = None  # of this process: TensorFlow reads its flags once


def check(value):
    """Raise UserError unless `value` is what --compile_cache takes. A folder has a slash, or `on` would be one."""
    if value not in ("auto", "off") and os.sep not in value:
        raise UserError("--compile_cache: expected auto, off, or the path of a folder with a slash (./NAME), found "
                        f"{value!r}")


def is_on():
    """Whether TensorFlow keeps, or may keep, compiled programs in this process: here, or where the user wants them."""
    flags = os.environ.get("TF_XLA_FLAGS", "")
    # A value without a dash in front is the name of a file that holds the flags: nothing can be added to that.
    return "persistent_cache" in flags or bool(flags and not flags.startswith("-"))


def start(value, warn):
    """Use the cache in this process; to be called before TensorFlow is imported, later it does nothing.

    Leaves a cache that the user has set in TF_XLA_FLAGS alone. A folder that can't be used is one warning.

    Args:
        value: "auto", "off" or a folder.
        warn: function of a line of text.
    """
    global _cache
    if value == "off" or is_on() or "tensorflow" in sys.modules:
        return
    flags = os.environ.get("TF_XLA_FLAGS", "")
    folder = value
    try:
        folder = default_folder() if value == "auto" else pathlib.Path(value).expanduser().absolute()
        _cache = Cache(folder / f"tensorflow-{_build()}")
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
        warn(f"--compile_cache: {folder} can't be used ({getattr(error, 'strerror', None) or error}); going on without")
        return
    if not _cache.has_room:
        warn(f"--compile_cache: {folder} has less than {_ROOM >> 20} MiB of room; nothing is added to it")
    os.environ["TF_XLA_FLAGS"] = f"{flags} {_cache.flags}".strip()
    atexit.register(_cache.close)


def keep():
    """Keep what this process has compiled so far, in case it is killed later."""
    if _cache is not None:
        _cache.keep()


def close():
    """Close the cache, as the normal end of a process does; for a process that ends by os._exit."""
    if _cache is not None:
        _cache.close()


def steady_names():
    """Give the functions that are traced next names that do not depend on what was traced before.

    TensorFlow numbers functions with a counter of the process and looks entries up by these names. After a resume,
    which draws no pictures and so traces less, it would find nothing. So the counter is moved on to a round number
    (0.03 s at most).
    """
    if _cache is None:
        return
    from tensorflow.python.framework import ops
    while ops.uid() % _STEADY:
        pass


def user_folder():
    """Where this program may keep what it can do without: pathlib.Path."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home).absolute() / "cct_tf"


def default_folder():
    """The folder of `auto`: pathlib.Path."""
    return user_folder() / "xla"


def make_private(folder):
    """Make a pathlib.Path a folder for programs. Raises OSError: it can't be made, or others may write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(None, "it holds programs, so it must be yours and closed to others")


class Cache:
    """The cache as one process uses it.

    Args:
        folder: pathlib.Path of the entries, made if it isn't there.

    Attributes:
        private: pathlib.Path of this process's own folder, TensorFlow's cache directory.
        has_room: bool, whether entries can be added.

    Raises:
        OSError: the folder can't be used.
    """

    def __init__(self, folder):
        self.folder = folder
        if {"'", '"'} <= set(str(folder)):
            raise OSError(None, "a path with quotes of both kinds can't be told to TensorFlow")
        make_private(folder)
        self._lock = tempfile.NamedTemporaryFile(prefix="process-", suffix=".lock", dir=folder, delete=False)
        with contextlib.suppress(OSError):  # no locks on this file system: `_is_left_over` then spares the folder
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._owner = os.getpid()
        self.private = pathlib.Path(self._lock.name).with_suffix("")
        self.private.mkdir(mode=0o700)
        self._linked = {}
        _remove_left_over(folder)
        prune(folder)
        for path in entries(folder):
            self._link(path)
        self.has_room = self._find_room()

    @property
    def flags(self):
        """What TF_XLA_FLAGS must say."""
        quote = '"' if "'" in str(self.private) else "'"
        return (f"--tf_xla_persistent_cache_directory={quote}{self.private}{quote} "
                "--tf_xla_persistent_cache_device_types=CPU"
                + ("" if self.has_room else " --tf_xla_persistent_cache_read_only=true"))

    def _link(self, path):
        """Link an entry into the private folder, if it is whole."""
        try:
            data, used = path.read_bytes(), path.stat().st_mtime_ns
            if f"{zlib.crc32(data):08x}" != path.suffix[1:]:
                path.unlink()
                return
            own = self.private / path.stem
            _link_or_copy(path, own)
            # Most systems note a read only if it is the first since the last write: after this they note the next.
            os.utime(own, ns=(used, used))
            self._linked[own.name] = used
        except OSError:
            return  # another process has pruned it, or it is not ours to read

    def _find_room(self):
        """Whether entries can be added. A quota shows only in writing, so this writes."""
        probe = self.private / "room"
        try:
            with open(probe, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, _ROOM)
            return True
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def keep(self):
        """Add what was compiled since the last call, and note which entries were used."""
        for own in self.private.glob("*.pb"):
            with contextlib.suppress(OSError):  # what can't be kept is compiled again
                if own.name in self._linked:
                    if own.stat().st_atime_ns > self._linked[own.name]:
                        os.utime(own)
                    continue
                _link_or_copy(own, self.folder / f"{own.name}.{zlib.crc32(own.read_bytes()):08x}")
                self._linked[own.name] = own.stat().st_mtime_ns

    def close(self):
        """Keep, and remove this process's folder."""
        if os.getpid() != self._owner:
            return
        self.keep()
        shutil.rmtree(self.private, ignore_errors=True)
        pathlib.Path(self._lock.name).unlink(missing_ok=True)
        self._lock.close()


def entries(folder):
    """Entries in a folder: list of pathlib.Path."""
    return sorted(folder.glob("*.pb.????????"))


def prune(folder, most_bytes=MOST_BYTES):
    """Delete the entries that were not used for longest until the rest has at most `most_bytes`."""
    states = []
    for path in entries(folder):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            states.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in states)
    for _, size, path in sorted(states):
        if total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _link_or_copy(source, target):
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _remove_left_over(folder):
    """Remove the folders of processes that were killed. Their lock went with them."""
    for path in folder.glob("process-*.lock"):
        with contextlib.suppress(OSError), open(path, "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()


def _build():
    """`2.21.0-5f0c9a1e`: TensorFlow's version, and a hash of what compiled code depends on.

    That is the installed files of TensorFlow, the processor and how many of them may be used, and the flags that XLA
    takes from the environment.
    """
    tensorflow = importlib.metadata.distribution("tensorflow")
    parts = [tensorflow.read_text("RECORD"), platform.machine(), _processor(), container.num_cores(),
             *(os.environ.get(name) for name in ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_NUM_INTRAOP_THREADS"))]
    return f"{tensorflow.version}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def _processor():
    """Model and features of the first processor, as Linux tells them; elsewhere what Python knows."""
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU part")
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    lines = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    return [(name.strip(), value.strip()) for name, _, value in lines if name.strip() in names]
