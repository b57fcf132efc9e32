"""docs/own_code.md: its command, and a run with code of a user's own that is stopped."""

import pathlib
import re
import shlex

import numpy as np
import pytest

from cct_tf.errors import Interrupted, UserError
from cct_tf.training import loop
from tests.commands import run
from tests.training import tiny

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/own_code.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.usefixtures("one_network")
CODE, = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
RUN = tiny.NO_MASKS | {"dataset": "./mine.py:load", "augment": "./mine.py:Invert", "image_size": 8, "batch_size": 16,
                       "train_steps": 6, "test_at_end": False}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_reader_of_the_page_trains_on_code_of_their_own(here, capfd):
    command, = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    name, *flags = shlex.split(command.replace("\\\n", " "))[2:]
    assert len(PAGE.splitlines()) <= 60 and name == "cct_tf.train"
    assert run("train", *flags, "--train_steps=3", "--jit=off") == 0, capfd.readouterr().err
    said = capfd.readouterr().out
    assert "1,438 train" in said and "augmentation  invert\n" in said


def test_a_stopped_run_with_a_stage_of_its_own_goes_on_to_the_same_bits(here, monkeypatch, capsys):
    tiny.train(here / "whole", **RUN)
    inverted, plain = (next(iter(tiny.assemble(here / name, **RUN | {"augment": augment}).batches(0, 1)))["image"]
                       for name, augment in (("inverted", RUN["augment"]), ("plain", None)))
    assert not np.array_equal(inverted, plain)
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = tiny.assemble(here / "stopped", **RUN)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    with pytest.raises(UserError, match="augment"):
        tiny.assemble(here / "stopped", **RUN | {"augment": None})
    (here / "mine.py").write_text(CODE + "\n")
    tiny.train(here / "stopped", **RUN)
    assert tiny.records(here / "stopped") == tiny.records(here / "whole")


def test_a_stage_on_the_device_gets_its_parameters_there(here):
    (here / "mine.py").write_text(CODE.replace("BATCH, Stage", "BATCH, DEVICE, Stage").replace(
        "where = BATCH", "where = DEVICE").replace("255 - batch", "-batch"))
    for name, more in (("one", {}), ("two", {"num_replicas": 2, "accumulate_steps": 2})):
        tiny.train(here / name, **RUN | more)
    losses = [[record["train/loss"] for record in tiny.records(here / name) if "train/loss" in record]
              for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
