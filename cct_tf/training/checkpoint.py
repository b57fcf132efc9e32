"""Checkpoints: folders that are complete or not there.

    checkpoints/step_00000500/    weights.index, weights.data-...   TensorFlow's files
                                  run.json                          what the weights belong to, and their checksums
    best/step_00000500/           the same, of the best evaluation so far

A checkpoint is written under a hidden name, flushed to the disk, then renamed; it is removed under a hidden name too.
Reading `run.json` and comparing the checksums needs no TensorFlow, so a command can choose the checkpoint to go on from
and compare configs before importing it.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import zlib

from cct_tf.errors import OutsideFault, UserError, storage_fault
from cct_tf.training.workdir import naming

_PREFIX = "weights"
_NAME = re.compile(r"step_(\d{8,})")
_HIDDEN = ".partial-"
_SET_ASIDE = ".corrupt"


@dataclasses.dataclass(frozen=True)
class Record:
    """What `run.json` says.

    Attributes:
        config: flat dict, the config as given.
        resolved: dict of what was worked out: mean, std, classes, num_examples, fingerprint, threads, jit, ...
        step: int, updates done or skipped.
        last_evaluated_step: int, 0 if never.
        best: dict {"step", "top1", "loss"} or None.
        finished: bool, the run reached its end and its last evaluation.
        versions: dict of package versions.
    """

    config: dict
    resolved: dict
    step: int
    last_evaluated_step: int
    best: dict | None
    finished: bool
    versions: dict

    def as_json(self, files):
        """The text of run.json; `files` as `_checksums` gives them."""
        return json.dumps({"format": 1, "files": files} | dataclasses.asdict(self), indent=1) + "\n"


def step_of(path):
    """The step of a checkpoint folder's name, or None if it isn't one."""
    match = _NAME.fullmatch(pathlib.Path(path).name)
    return int(match.group(1)) if match else None


def list_checkpoints(folder):
    """Complete checkpoints of a folder, lowest step first: list of pathlib.Path."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if step_of(path) is not None and path.is_dir()]
    return sorted(found, key=step_of)


def read_record(path):
    """The `Record` of a checkpoint folder, all of whose files are as they were written.

    Raises:
        Unreadable: naming the file that is missing or damaged.
    """
    name = "run.json"
    try:
        data = json.loads((pathlib.Path(path) / name).read_text(encoding="utf-8"))
        if data.pop("format") != 1:
            raise ValueError("another format")
        files = data.pop("files", {})
        record = Record(**data)
        for name, checksum in files.items():  # noqa: B007 - the errors below name it
            if _checksum(pathlib.Path(path) / name) != checksum:
                raise ValueError("not as it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = {FileNotFoundError: "missing", ValueError: str(error)}.get(type(error), "damaged")
        raise Unreadable(f"{pathlib.Path(path) / name}: {reason}") from None
    return record


def _checksum(path):
    """"BYTES CRC32" of a file."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return f"{size} {crc:08x}"


def _checksums(folder):
    """{file name: checksum} of TensorFlow's files in a checkpoint folder: as run.json has them, else from the files."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8")).get("files", {})
    except FileNotFoundError:
        return {path.name: _checksum(path) for path in sorted(folder.iterdir())}


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path, record):
    """Replace the run.json of a checkpoint folder atomically."""
    text = record.as_json(_checksums(path))
    temporary = path / ".run.json.tmp"
    with naming(path), open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / "run.json")
    _sync(path)


@contextlib.contextmanager
def storage_faults(path):
    """Turn a full or lost disk, however TensorFlow reports it, into an OutsideFault (status 75) that names `path`."""
    try:
        yield
    except Exception as error:
        fault = storage_fault(error) or (isinstance(error, OSError) and str(error.strerror))
        if not fault:
            raise
        raise OutsideFault(f"{path}: could not be saved ({fault.split(': ')[-1]}); the checkpoints before it are "
                           "whole, and the same command goes on from them") from None


def clean(folder):
    """Remove what a failed or killed save left."""
    folder = pathlib.Path(folder)
    for path in folder.glob(_HIDDEN + "*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def _by_path(variables):
    """keras.Variables as a dict path -> tf.Variable, without the model's name, which is no part of a weight's."""
    table = {variable.path.partition("/")[2]: variable.value for variable in variables}
    if len(table) != len(variables):
        raise ValueError("two variables of the same path")
    return table


def make_trackable(model, optimizer=None, state=None):
    """What a checkpoint holds: weights and optimizer variables under their paths, and the run's state.

    Named by path, not found by Keras' object graph: that numbers optimizer variables and misses layers in lists.

    Args:
        model: keras.Model, built.
        optimizer: keras optimizer, built, or None to leave it out.
        state: `state.TrainState` or None.

    Returns:
        tf.train.Checkpoint.
    """
    import tensorflow as tf
    parts = {"weights": _by_path(model.weights)}
    if optimizer is not None:
        parts["optimizer"] = _by_path(optimizer.variables)
    if state is not None:
        parts["state"] = state
    return tf.train.Checkpoint(**parts)


def save(folder, trackable, record):
    """Write a checkpoint.

    Args:
        folder: pathlib.Path, `checkpoints`.
        trackable: tf.train.Checkpoint.
        record: Record of the step.

    Returns:
        pathlib.Path of the new checkpoint.

    Raises:
        OutsideFault: the storage is full or gone.
    """
    path = folder / f"step_{record.step:08d}"
    partial = folder / f"{_HIDDEN}{path.name}"
    with storage_faults(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            trackable.write(str(partial / _PREFIX))
            for file in partial.iterdir():
                _sync(file)
            write_record(partial, record)
            _publish(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return path


def _publish(partial, path):
    if path.exists():
        _remove(path)
    os.replace(partial, path)
    _sync(path.parent)


def _remove(path):
    """Delete a checkpoint. Killed half-way, it leaves a hidden folder and never half a checkpoint."""
    hidden = path.with_name(f"{_HIDDEN}old-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def keep_best(folder, checkpoint):
    """Make `checkpoint` the only one in `folder` (best/); linked where the file system can, else copied."""
    path = folder / checkpoint.name
    partial = folder / f"{_HIDDEN}{path.name}"

    def link(source, target):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    with storage_faults(path):
        shutil.rmtree(partial, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        shutil.copytree(checkpoint, partial, copy_function=link)
        _publish(partial, path)
    for other in list_checkpoints(folder):
        if other != path:
            _remove(other)


def prune(folder, keep):
    """Remove all but the last `keep` checkpoints."""
    for path in list_checkpoints(folder)[:-keep]:
        _remove(path)


def restore(path, trackable):
    """Read a checkpoint back, strictly: everything matched, nothing left over.

    Args:
        path: pathlib.Path of the checkpoint.
        trackable: tf.train.Checkpoint of the same structure, all variables built.

    Raises:
        Unreadable: the files are damaged.
        UserError: they hold another network or optimizer.
    """
    _read(path, trackable, lambda status: status.assert_consumed())


def restore_weights(path, model):
    """Read the model's weights alone (partial by design): every variable of the model must be there.

    Raises:
        Unreadable: the files are damaged.
        UserError: they hold another network.
    """
    def check(status):
        status.expect_partial()
        status.assert_existing_objects_matched()

    _read(path, make_trackable(model), check)


class Unreadable(Exception):
    """A checkpoint's files are damaged."""


def _read(path, trackable, check):
    import tensorflow as tf
    try:
        check(trackable.read(str(path / _PREFIX)))
    except AssertionError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: expected the weights of this network and optimizer, found others "
                        f"({reason})") from None
    except (IndexError, tf.errors.OpError) as error:
        raise Unreadable(f"{path}: {type(error).__name__}") from None


def set_aside(path):
    """Rename a damaged checkpoint out of the way; returns its new path."""
    target = path.with_name(path.name + _SET_ASIDE)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(path, target)
    return target


def newest_record(folder, warn):
    """The newest checkpoint whose files are whole, with its record.

    Args:
        folder: pathlib.Path, `checkpoints`.
        warn: function of a line of text; damaged ones are set aside and said, unless none is whole: then the next
            start must not take the folder for a new one.

    Returns:
        (path, Record), or (None, None) if there is none.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    damaged = {}
    for path in reversed(list_checkpoints(folder)):
        try:
            record = read_record(path)
        except Unreadable as error:
            damaged[path] = error
            continue
        for other, error in damaged.items():
            warn(f"{error}; set aside as {set_aside(other).name}, going on from {path.name}")
        return path, record
    if damaged:
        raise UserError(f"{folder}: expected a checkpoint that can be read, found none: "
                        + "; ".join(str(error) for error in damaged.values()))
    return None, None
