"""A run on a table: the same bits as on its folder, stopped and going on, with another table, and for the commands."""

import contextlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from cct_tf import tabulate
from cct_tf.errors import Interrupted, UserError
from cct_tf.runs import run_record
from tests.commands import call
from tests.exact_resume import differences
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")
RUN = {"batch_size": 4, "train_steps": 8, "eval_every_steps": 3, "checkpoint_every_steps": 2, "crop_padding": 1,
       "validation_fraction": 0.25, "split_seed": 2}


def _write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, [12, 12, 3], np.uint8)).save(path)


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """{"images", "table.csv", "folder": a whole run on the folder, "run": one on the table, killed and gone on}."""
    root = tmp_path_factory.mktemp("began")
    for index in range(24):
        _write(root / "images" / ("train", "test")[index >= 16] / "ab"[index % 2] / f"{index}.png", index)
    with open(root / "table.csv", "w") as file, contextlib.redirect_stdout(file):
        tabulate.main({"folder": [str(root / "images")]})
    header, *rows = (root / "table.csv").read_text().splitlines()
    (root / "table.csv").write_text("\n".join([header, *rows[::-1]]))
    tiny.train(root / "folder", dataset="folder", data_dir=str(root / "images"), **RUN)
    training = tiny.assemble(root / "run", **_on_table(root))
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 5))
    tiny.train(root / "run", **_on_table(root))
    return root


def _on_table(root, **changes):
    return RUN | {"dataset": "table", "data_dir": str(root / "table.csv"), "image_root": str(root / "images")} | changes


def _last(folder):
    return run_record.list_checkpoints(folder / "checkpoints")[-1]


def test_a_folder_and_its_table_give_the_same_run_though_one_was_stopped(began):
    found = differences(began / "folder", began / "run")  # of weights, optimizer, records; the config tells them apart
    assert [line for line in found if not line.startswith("run.json: ")] == []
    records = tiny.records(began / "run")
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 9))
    assert sum("eval/top1" in record for record in records) == 3 and "test/top1" in records[-1]
    first, second = (run_record.read_record(_last(began / name)) for name in ("folder", "run"))
    assert (first.resolved, first.status, first.finished) == (second.resolved, second.status, second.finished)
    changed = {name for name, value in first.config.items() if value != second.config[name]}
    assert changed == {"dataset", "data_dir", "image_root", "workdir"}


def test_places_may_change_at_a_resume_and_columns_may_not(began):
    os.rename(began / "table.csv", began / "images/moved.csv")
    moved = {"data_dir": str(began / "images/moved.csv"), "image_root": None}
    try:
        assert tiny.assemble(began / "run", **_on_table(began, **moved)).start.step == 8
        with pytest.raises(UserError, match="--columns"):
            tiny.assemble(began / "run", **_on_table(began, **moved, columns="weight:heavy"))
        names = began / "names.txt"
        names.write_text("b\na\n")
        with pytest.raises(UserError, match="expected the classes of this run, a, b, found b, a"):
            tiny.assemble(began / "run", **_on_table(began, **moved, class_names=str(names)))
        names.write_text("a\nb\n")
        assert tiny.assemble(began / "run", **_on_table(began, **moved, class_names=str(names))).start.step == 8
    finally:
        os.rename(began / "images/moved.csv", began / "table.csv")


def test_other_rows_are_named_and_accepted(began):
    text = (began / "table.csv").read_text()
    (began / "other.csv").write_text(text.replace("train/a/0.png,a", "train/a/0.png,b"))
    changed = _on_table(began, data_dir=str(began / "other.csv"))
    with pytest.raises(UserError, match=r"1 of another class \(train/a/0.png\); --accept_config_change goes on"):
        tiny.assemble(began / "run", **changed)
    assert tiny.assemble(began / "run", **changed, accept_config_change=True).start.step == 8


def test_commands_take_the_table_of_the_run_and_say_where_it_is_now(began, capfd):
    run = f"--workdir={began}/run"
    by_folder = json.loads(call(capfd, "evaluate", f"--workdir={began}/folder", "--json")[1])
    os.rename(began / "images", began / "elsewhere")
    try:
        status, _, err = call(capfd, "evaluate", run)
        assert status == 2 and f"--image_root: expected a folder of images, found nothing at {began}/images" in err
        status, out, err = call(capfd, "evaluate", run, f"--image_root={began}/elsewhere", "--json")
        found = json.loads(out)
        assert (status, err, found["loss"], found["examples"]) == (0, "", by_folder["loss"], 8)
        origins = [row["origin"] for row in found["worst_mistakes"]]
        assert all(os.path.exists(origin) for origin in origins)
        status, out, err = call(capfd, "export", run, f"--image_root={began}/elsewhere", "--format=keras",
                                f"--output={began}/x.keras")
        assert (status, err) == (0, "") and "8 test images compared" in out
        status, out, err = call(capfd, "preview", "--dataset=table", f"--data_dir={began}/table.csv",
                                f"--image_root={began}/elsewhere", "--model=cct_2_3x1_8", "--rows=2", "--draws=2",
                                f"--output={began}/x.png")
        assert (status, err) == (0, "") and (began / "x.png").exists()
    finally:
        os.rename(began / "elsewhere", began / "images")
