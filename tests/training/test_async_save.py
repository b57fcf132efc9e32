"""Checkpoints that a thread writes while training goes on (--async_save)."""

import errno
import os
import threading

import numpy as np
import pytest

from cct_tf.errors import Interrupted, OutsideFault
from cct_tf.runs import background, checkpoint, run_record
from cct_tf.training import loop
from tests.training import tiny

RUN = {"train_steps": 12, "log_every_steps": 1, "checkpoint_every_steps": 4, "ema_decay": 0.9, "precision": "float16",
       "async_save": True}
_PATIENCE = 60.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **RUN)


@pytest.fixture(autouse=True)
def _steps_one_by_one(monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)


def _files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_are_those_of_the_moment_of_the_copy(trainer, tmp_path):
    """To the last byte, object graph, average and loss scale included, though steps were done before they were written.
    """
    training = trainer.assemble(tmp_path / "run")
    trackable, variables = training.network.trackable, training.network.model.weights
    (tmp_path / "at_once").mkdir()
    (tmp_path / "later").mkdir()
    trackable.write(str(tmp_path / "at_once/weights"))
    copy = checkpoint.HostCopy(trackable)
    copy.take()
    before = [variable.numpy() for variable in variables]
    training.network.train_step.run(training._iterator(0), [1e-3] * 3)
    assert not all(np.array_equal(old, new.numpy()) for old, new in zip(before, variables, strict=True))
    copy.trackable.write(str(tmp_path / "later/weights"))
    assert _files(tmp_path / "later") == _files(tmp_path / "at_once")


def test_training_goes_on_meanwhile_and_the_next_save_waits(trainer, tmp_path, monkeypatch):
    training = trainer.assemble(tmp_path)
    save, log, steps, happened = checkpoint.save, training._log, threading.Condition(), []

    def slow_save(folder, trackable, record):
        happened.append(("begins", record.step, threading.current_thread() is threading.main_thread()))
        with steps:  # until three more steps are done
            last = min(record.step + 3, RUN["train_steps"])
            assert steps.wait_for(lambda: ("logged", last) in happened, _PATIENCE)
        save(folder, trackable, record)
        happened.append(("saved", record.step))

    def watched_log(step, *rest):
        log(step, *rest)
        with steps:
            happened.append(("logged", step))
            steps.notify_all()

    monkeypatch.setattr(checkpoint, "save", slow_save)
    training._log = watched_log
    training.run(tiny.NoInterrupts())
    assert [each for each in happened if each[0] != "logged"] == [
        entry for step in (4, 8, 12) for entry in (("begins", step, False), ("saved", step))]
    assert happened.index(("saved", 4)) > happened.index(("logged", 7))
    assert run_record.read_record(tmp_path / "checkpoints/step_00000012").finished


def test_a_full_disk_ends_the_run_before_the_next_save(trainer, tmp_path, monkeypatch):
    training = trainer.assemble(tmp_path)

    def full(path):
        if "step_00000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "sync", full)
    chunk = training._chunk

    def next_chunk(step, *rest):
        if step == 8:
            training._save._writing._thread.join()
        return chunk(step, *rest)

    training._chunk = next_chunk
    with pytest.raises(OutsideFault, match="step_00000008: could not be saved .No space left on device"):
        training.run(tiny.NoInterrupts())
    assert int(training.network.state.step.numpy()) == 9
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]


def test_what_fails_while_the_run_ends_otherwise_is_said(trainer, tmp_path, monkeypatch):
    """A signal comes while the checkpoint is written, and the disk is full: the status is that of the disk."""
    training = trainer.assemble(tmp_path)

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(OutsideFault, match="step_00000004"):
        training.run(tiny.StopAt(training, 4))


def test_it_says_how_and_may_change_at_a_resume(trainer, tmp_path):
    trainer.train(tmp_path / "beside")
    training = trainer.assemble(tmp_path / "both")
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 6))
    assert run_record.list_checkpoints(tmp_path / "both/checkpoints")[-1].name == "step_00000006"
    trainer.train(tmp_path / "both", async_save=False)
    assert tiny.records(tmp_path / "both") == tiny.records(tmp_path / "beside")
    found, expected = (tmp_path / name / "checkpoints/step_00000012" for name in ("both", "beside"))
    for name in ("weights.index", "weights.data-00000-of-00001"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()


def test_an_error_of_the_thread_is_raised_once():
    work = background.Background("test")
    work.check()
    work.wait()

    def fail():
        raise OSError("full")

    work.start(fail)
    work._thread.join()
    with pytest.raises(OSError, match="full"):
        work.check()
    work.check()
    done = []
    work.start(lambda: done.append(1))
    work.wait()
    assert done == [1]
