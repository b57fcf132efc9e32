"""Images that break while a run uses them: with --on_bad_image=skip it goes on, and is the run that knew them."""

import dataclasses
import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.errors import Interrupted, UserError
from cct_tf.runs import found_broken_file, run_record
from cct_tf.training.saver import Saver
from tests.commands import call, only_line
from tests.exact_resume import differences
from tests.training import tiny

RUN = {"dataset": "folder", "in_memory_gib": 0.0, "batch_size": 4, "train_steps": 8, "eval_every_steps": 3,
       "checkpoint_every_steps": 2, "keep_checkpoints": 9, "crop_padding": 0, "on_bad_image": "skip",
       "validation_fraction": 0.25}


def _jpeg(seed, side=24):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, [side, side, 3], np.uint8)).save(file, "JPEG")
    return file.getvalue()


def _write(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_jpeg(seed, **options))


def _cut(path):
    path.write_bytes(path.read_bytes()[:900])


def _stop_at(training, step):
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, step))


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """{"images": folder, "run": stopped at step 3, when 12 of its 12 training images were seen}."""
    root = tmp_path_factory.mktemp("began")
    for index in range(16):
        _write(root / "images" / "ab"[index % 2] / f"{index // 2}.jpg", index)
    _stop_at(tiny.assemble(root / "run", data_dir=str(root / "images"), **RUN), 3)
    return root


def _listed(root, split="train"):
    rows = [line.split("\t") for line in (root / "run/files.txt").read_text().splitlines()[1:]]
    return [path for where, _, _, path in rows if where == split]


@pytest.fixture
def copy(began, tmp_path):
    """The same to change at will."""
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _assemble(root, run="run", **changes):
    return tiny.assemble(root / run, data_dir=str(root / "images"), **RUN | changes)


def _train(root, run="run", **changes):
    training = _assemble(root, run, **changes)
    training.run(tiny.NoInterrupts())
    return training


def _record(root, run="run", step=None):
    checkpoints = run_record.list_checkpoints(root / run / "checkpoints")
    return run_record.read_record(checkpoints[-1] if step is None else root / run / f"checkpoints/step_{step:08d}")


def test_try(copy, capsys):
    path = copy / "images" / _listed(copy)[5]
    training = _assemble(copy)
    _cut(path)
    training.run(tiny.NoInterrupts())
    print(_record(copy).resolved.found_broken, (copy/"run/metrics.jsonl").read_text())
    for p in (copy/"run").glob("*"): print(p)
    print((copy/"run/broken_images.txt").read_text())
    out = capsys.readouterr()
    print(out.out, out.err)
    assert 0
