"""Checkpoints: folders that are complete or not there.

    checkpoints/step_00000500/    weights.index, weights.data-...   TensorFlow's files
                                  run.json                          what the weights belong to, and their checksums
    best/step_00000500/           the same, of the best evaluation so far

A checkpoint is written under a hidden name, flushed to the disk, then renamed; it is removed under a hidden name too.
`run_record` is the half of this that needs no TensorFlow.
"""

import contextlib
import os
import pathlib
import shutil

from cct_tf.errors import OutsideFault, UserError, storage_fault
from cct_tf.runs.run_record import Unreadable, list_checkpoints, step_of, sync, write_record

_PREFIX = "weights"
_HIDDEN = ".partial-"


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


def make_trackable(model, optimizer=None, state=None, averaged=None, kept=None):
    """What a checkpoint holds: weights, averages and optimizer variables under their paths, and the run's state.

    Named by path, not found by Keras' object graph: that numbers optimizer variables and misses layers in lists.

    Args:
        model: keras.Model, built.
        optimizer: keras optimizer, built, or None to leave it out.
        state: `state.TrainState` or None.
        averaged: keras.Model whose trainable variables are the weights' averages, or None.
        kept: dict of tf.Variable, `ema.Average.kept`, or None.

    Returns:
        tf.train.Checkpoint.
    """
    import tensorflow as tf
    parts = {"weights": _by_path(model.weights)}
    if optimizer is not None:
        parts["optimizer"] = _by_path(optimizer.variables)
    if state is not None:
        parts["state"] = state
    if averaged is not None:
        parts["ema"] = _by_path(averaged.trainable_variables)
    if kept:
        parts["average"] = kept
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
                sync(file)
            write_record(partial, record)
            _publish(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return path


def _publish(partial, path):
    if path.exists():
        remove(path)
    os.replace(partial, path)
    sync(path.parent)


def remove(path):
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
            remove(other)


def prune(folder, keep, spared=()):
    """Remove all but the last `keep` checkpoints and those of the paths `spared`."""
    for path in list_checkpoints(folder)[:-keep]:
        if path not in spared:
            remove(path)


def remove_after(folder, step):
    """Remove the checkpoints of later steps, the newest first: killed half-way, what is left is an earlier run."""
    for path in reversed(list_checkpoints(folder)):
        if step_of(path) > step:
            remove(path)


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


def restore_weights(path, model, weights="raw"):
    """Read the model's weights alone (partial by design): every variable of the model must be there.

    Args:
        path: pathlib.Path of the checkpoint.
        model: keras.Model, built.
        weights: "raw", or another for their averages (see `run_record.choose_weights`); what is not trained has none.

    Raises:
        Unreadable: the files are damaged.
        UserError: they hold another network.
    """
    def check(status):
        status.expect_partial()
        status.assert_existing_objects_matched()

    import tensorflow as tf
    parts = {"weights": _by_path(model.weights)}
    if weights != "raw":
        parts = {"ema": _by_path(model.trainable_variables), "weights": _by_path(model.non_trainable_weights)}
    _read(path, tf.train.Checkpoint(**parts), check)


def _read(path, trackable, check):
    import tensorflow as tf
    try:
        check(trackable.read(str(path / _PREFIX)))
    except (AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: expected the weights of this network and optimizer, found others "
                        f"({reason})") from None
    except (IndexError, tf.errors.OpError) as error:
        fault = storage_fault(error)
        if fault:
            raise OutsideFault(f"{fault}, while reading {path}") from None
        raise Unreadable(f"{path}: {type(error).__name__}") from None
