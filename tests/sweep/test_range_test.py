import json

import pytest
from PIL import Image

from tests import commands
from tests.training import tiny

FLAGS = ["--dataset=digits", "--image_size=8", "--model=cct_2_3x1_8", "--batch_size=16", "--dropout_rate=0.1",
         "--warmup_epochs=5", "--jit=off", "--range_steps=20"]


def test_a_range_test_trains_as_a_run_and_leaves_none(tmp_path, capfd):
    status, out, err = commands.call(capfd, "sweep", "--lr_range_test=1e-5:1e-2", f"--workdir={tmp_path}/range", *FLAGS)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "range").iterdir()) == ["range_test.json", "range_test.png"]
    found = json.loads((tmp_path / "range/range_test.json").read_text())
    assert found["learning_rate"][0] == 1e-5 and found["learning_rate"][-1] == pytest.approx(1e-2)
    assert len(found["loss"]) == len(found["smoothed"]) == 20 and found["config"]["batch_size"] == 16
    assert Image.open(tmp_path / "range/range_test.png").width == 880
    assert ("no suggestion" in out) == (found["suggestion"] is None)
    # The images, masks and weights of a run: at a rate of next to nothing the losses are those of a run without one.
    run = tiny.train(tmp_path / "run", train_steps=3, learning_rate=0.0, **{
        "crop_padding": 0, "flip": "none", "attention_dropout_rate": None, "drop_path_rate": None, "clip_norm": None,
        "label_smoothing": 0.0, "warmup_epochs": 0.0})
    losses = [record["train/loss"] for record in tiny.records(tmp_path / "run") if "train/loss" in record]
    assert run.status.best and found["loss"][0] == losses[0]
    assert found["loss"][1:3] == pytest.approx(losses[1:], rel=1e-2)
    status, _, err = commands.call(capfd, "compare", f"{tmp_path}/range")
    assert status == 2 and "none of these" in commands.only_line(err)
