"""A run whose output is closed while it trains: `python -m cct_tf.train ... | head`."""

import os
import sys
import threading

import pytest

from tests import commands
from tests.training import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_network")]


def test_a_run_that_nobody_reads_saves_and_the_same_command_goes_on(tmp_path, monkeypatch, capfd):
    settings = tiny.EVERYTHING_RANDOM | {"workdir": tmp_path, "train_steps": 100, "eval_every_steps": 20}
    argv = [f"--{name}={value}" for name, value in settings.items()]
    reading, writing = os.pipe()

    def read_the_beginning():
        with os.fdopen(reading) as lines:
            next(line for line in lines if "evaluation at step" in line)

    reader = threading.Thread(target=read_the_beginning)
    reader.start()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        status = commands.run("train", *argv)
    reader.join()
    said = capfd.readouterr().err.splitlines()
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1]
    step = int(saved.removeprefix("step_"))
    assert status == 141 and 20 <= step < 100
    assert said == ["closed output: finishing the step and saving",
                    f"stopped: closed output: saved step {step} of 100; the same command goes on from it"]
    status, out, _ = commands.call(capfd, "train", *argv)
    assert status == 0 and f"step {step}" in out
