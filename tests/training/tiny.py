"""The smallest run that has everything random in it, shared by the tests of training."""

import dataclasses
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.errors import Interrupted
from cct_tf.machine.console import Console
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import config
from cct_tf.training import loop, resume
from cct_tf.training.preparation import prepare
from cct_tf.training.resume import find_start

EVERYTHING_RANDOM = {
    "dataset": "digits", "image_size": 8, "model": "cct_2_3x1_8", "dropout_rate": 0.1, "attention_dropout_rate": 0.1,
    "drop_path_rate": 0.2, "crop_padding": 1, "flip": "random", "label_smoothing": 0.1, "batch_size": 16,
    "learning_rate": 1e-3, "warmup_epochs": 0.05, "clip_norm": 1.0, "train_steps": 20, "log_every_steps": 1,
    "eval_every_steps": 1000, "checkpoint_every_steps": 1000, "eval_batch_size": 400, "jit": "off"}
# For tests that are not about masks: these are about a third of the operations that are traced, on each replica.
NO_MASKS = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "drop_path_rate": 0.0}


class NoInterrupts:
    """Stands in for `interrupts.Interrupts`; asks to stop at a step if told to."""

    requested = None
    can_save = False

    def check(self, message):
        if self.requested is not None:
            raise Interrupted(self.requested, message)


class StopAt(NoInterrupts):
    """Asks to stop once `step` is reached, as a signal would."""

    def __init__(self, training, step):
        self._training, self._step = training, step

    @property
    def requested(self):
        return signal.SIGTERM if int(self._training.network.state.step.numpy()) >= self._step else None


def settings(workdir, **changes):
    """Config of a tiny run."""
    return config.from_dict(EVERYTHING_RANDOM | {"workdir": str(workdir)} | changes)


def prepared(chosen):
    """`preparation.Prepared` of a config, of a new run or one that goes on."""
    folder = Workdir(pathlib.Path(chosen.run.workdir))
    folder.create()
    console = Console(quiet=True)
    return prepare(chosen, folder, find_start(chosen, folder, console), console)


def start(chosen):
    """`loop.Training` of a config, new or going on."""
    return loop.Training(prepared(chosen))


def assemble(workdir, **changes):
    """`loop.Training` of a tiny run, new or going on."""
    return start(settings(workdir, **changes))


def tensors(workdir):
    """Everything the last checkpoint holds, name -> array."""
    path = run_record.list_checkpoints(workdir / "checkpoints")[-1]
    reader = tf.train.load_checkpoint(str(path / "weights"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if not name.startswith("_CHECKPOINTABLE")}


def train(workdir, interrupts=None, **changes):
    """Train a tiny run to its end; returns its `loop.Training`."""
    training = assemble(workdir, **changes)
    training.run(interrupts or NoInterrupts())
    return training


class Trainer:
    """One compiled step for many runs of the same settings: what a start reads or makes is renewed for each.

    It stands in for the process that a test kills or stops; what goes on from there is a network of its own (`train`).

    Args:
        folder: pathlib.Path, its own.
        run: changes of the settings.
    """

    def __init__(self, folder, **run):
        self._run, self._evaluators = run, {}
        self._prepared = prepared(settings(folder / "first", **run))
        self.first = loop.Training(self._prepared)
        self._make_evaluator = self.first.evaluator
        self._initial = self._prepared.network.trackable.write(str(folder / "initial"))

    def _evaluator(self, split, models):
        return self._evaluators.setdefault(split, self._make_evaluator(split, models))

    def assemble(self, workdir, **changes):
        """The `loop.Training` of a start on `workdir`, new or going on."""
        chosen, folder, console = settings(workdir, **self._run | changes), Workdir(workdir), self._prepared.console
        folder.create()
        start, trackable = find_start(chosen, folder, console), self._prepared.network.trackable
        trackable.read(self._initial).assert_consumed()
        start = resume.restore(start, trackable, chosen, folder, console)
        training = loop.Training(dataclasses.replace(
            self._prepared, config=chosen, workdir=folder, start=start,
            status=resume.status_at(start, chosen, folder, console)))
        training.evaluator = self._evaluator
        return training

    def require_equal_after_stop(self, folder, step):
        """Train `folder / "whole"`, and `folder / "stopped"`, which stops at a step and goes on to the same bits.

        Returns:
            (`loop.Training` that was stopped, `tensors` of both).
        """
        self.train(folder / "whole")
        training = self.assemble(folder / "stopped")
        with pytest.raises(Interrupted):
            training.run(StopAt(training, step))
        self.train(folder / "stopped")
        found, expected = tensors(folder / "stopped"), tensors(folder / "whole")
        assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)
        return training, found

    def train(self, workdir, **changes):
        """A whole run, from where it stands; returns its `loop.Training`."""
        training = self.assemble(workdir, **changes)
        training.run(NoInterrupts())
        return training


def records(workdir, prefix="", without_timing=True):
    """The records of metrics.jsonl that have a value under `prefix`."""
    from cct_tf.runs.workdir import MetricsFile
    found = []
    for record in MetricsFile(pathlib.Path(workdir) / "metrics.jsonl").read():
        if any(name.startswith(prefix) for name in record):
            found.append({name: value for name, value in record.items()
                          if not (without_timing and name.startswith("timing/"))})
    return found
