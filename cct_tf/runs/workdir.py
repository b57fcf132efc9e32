"""The work folder: its lock, its small text files, and `metrics.jsonl`. No TensorFlow here.

    config.cfg            a flagfile that gives the run again
    classes.txt           class names, a line each
    files.txt             the files of an image folder, see `file_list`
    broken_images.txt     what --on_bad_image=skip left out, and found broken since: path, tab, reason
    found_broken_0.jsonl  what worker 0 found broken, see `found_broken_file`
    checkpoints/          step_00000500/ ...
    best/                 step_00000500/
    metrics.jsonl         one record a line
    train/ eval/ test/    TensorBoard event files; eval_ema/ or eval_average/ of their average
    plots/                curves.png, confusion_matrix.png
    before_restart_1/     what --restart_if_unreadable set aside of the run before
    .lock                 held by the run
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import time

from cct_tf.errors import OutsideFault, UserError, storage_fault

_RESULTS = ("metrics.jsonl", "plots", "best", "train", "eval", "eval_ema", "eval_average", "test")


@contextlib.contextmanager
def naming(path):
    """Give a file's name to the errors that have none: those of writing tell only what went wrong."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def readable():
    """Turn what keeps a folder from being read into the UserError that names it; faults of the storage stay such."""
    try:
        yield
    except OSError as error:
        if storage_fault(error):
            raise
        raise UserError(f"{error.filename}: expected a folder that can be read, found it can't be "
                        f"({error.strerror})") from None


class Workdir:
    """Paths of one work folder.

    Args:
        path: the folder, text. Created by `create`, not here.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.cfg"
        self.classes = self.path / "classes.txt"
        self.files = self.path / "files.txt"
        self.broken_images = self.path / "broken_images.txt"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.metrics = self.path / "metrics.jsonl"
        self.plots = self.path / "plots"

    def check(self):
        """Raise UserError if a file stands where the folder, or one above it, has to be, or nobody can tell."""
        with readable():
            existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            where = "" if existing == self.path else " on the way to " + str(self.path)
            raise UserError(f"--workdir: expected a folder, found the file {existing}{where}")

    def create(self):
        """Make the folder, or say in one line why it can't be one."""
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutsideFault(f"--workdir: {self.path}: {error.strerror}") from None
            raise UserError(f"--workdir: expected a folder that can be written, found {self.path} "
                            f"({error.strerror})") from None

    @contextlib.contextmanager
    def locked(self, warn, patience=0.0):
        """Hold the folder for one run. The lock goes with the process, however it ends; children don't inherit it.

        Args:
            warn: function of a line of text, told where the file system has no locks.
            patience: float, seconds to wait for the lock of another machine: of one that is gone, a file server frees
                it only after a while.

        Raises:
            UserError: another process holds it. OutsideFault: it is of another machine, and `patience` is at an end.
        """
        path = self.path / ".lock"
        with open(path, "a+", encoding="utf-8") as file:
            try:
                self._lock(file, patience)
            except OSError as error:
                warn(f"{path}: this file system has no file locks ({error.strerror}); see to it that one run at a "
                     "time uses the folder")
            file.truncate(0)
            file.write(f"{os.getpid()} {_machine()}")
            file.flush()
            yield

    def _lock(self, file, patience):
        deadline = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                process, _, machine = file.read().strip().partition(" ")
            is_elsewhere = bool(machine) and machine != _machine()
            if not is_elsewhere or time.monotonic() >= deadline:
                holder = f" by process {process}" * bool(process) + " of another machine" * is_elsewhere
                raise (OutsideFault if is_elsewhere and patience else UserError)(
                    f"--workdir: expected a folder no other run is using, found {self.path} in use{holder}")
            time.sleep(1.0)

    def is_in_use(self):
        """Whether a process of this machine holds the lock, as far as the system tells. Takes no lock to find out: a
        run that starts at that moment would be refused."""
        try:
            inode = (self.path / ".lock").stat().st_ino
            held = pathlib.Path("/proc/locks").read_text(encoding="ascii").splitlines()
        except OSError:
            return False
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:16040470 0 EOF
        return any(" FLOCK " in line and line.split()[5].endswith(f":{inode}") for line in held if "->" not in line)

    def set_aside_results(self):
        """Move what a run wrote, less its checkpoints, into a folder of its own; returns that."""
        number = 1
        while (target := self.path / f"before_restart_{number}").exists():
            number += 1
        target.mkdir()
        for name in _RESULTS:
            if (self.path / name).exists():
                os.replace(self.path / name, target / name)
        return target

    def describe_data(self, source, found=()):
        """Write the class names of a `source.Source`, and its broken images where it has some.

        Args:
            found: (path, reason) of those that were found broken since the run began.
        """
        self.write_text(self.classes, "".join(f"{name}\n" for name in source.class_names))
        broken = [*source.broken, *found]
        if broken:
            self.write_text(self.broken_images, "".join(f"{name}\t{reason}\n" for name, reason in broken))
        else:
            self.broken_images.unlink(missing_ok=True)  # mended since

    def write_text(self, path, text):
        """Replace a small text file so that a reader sees the old or the new one, never half."""
        temporary = path.with_name(f".{path.name}.tmp")
        with naming(path), open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _machine():
    """A name of this machine since it was started; "" where the system gives none."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _finite(value):
    """Non-finite numbers become null: JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsFile:
    """`metrics.jsonl`: one flushed write per record.

    Args:
        path: pathlib.Path of the file.
    """

    def __init__(self, path):
        self.path = path
        self._file = None

    def cut(self, step, last_evaluated_step, rollback_count=0):
        """Drop what a run resumed at `step` will write again.

        Records after `step` go, evaluation records after `last_evaluated_step` (that evaluation is owed and comes
        first), rollbacks after the first `rollback_count` (their checkpoint was never saved), and the test at the end,
        which an unfinished run has yet to do; a torn last line goes too.
        """
        self.close()
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if any(key.startswith("test/") for key in record) or record.get("rollback/count", 0) > rollback_count:
                continue
            evaluated = any(key.startswith("eval") for key in record)
            if record["step"] <= (last_evaluated_step if evaluated else step):
                kept.append(line + b"\n")
        temporary = self.path.with_name(".metrics.tmp")
        with naming(self.path), open(temporary, "wb") as file:
            file.write(b"".join(kept))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)

    def _open(self):
        return open(self.path, "ab", buffering=0)

    def write(self, step, values):
        """Append one record: {"step": step, **values}."""
        if self._file is None:
            self._file = self._open()
        record = {"step": int(step)} | {name: _finite(value) for name, value in values.items()}
        line = (json.dumps(record) + "\n").encode()
        with naming(self.path):
            if self._file.write(line) != len(line):  # what fits on a full disk is written without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self):
        """All records, a list of dicts."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None
