"""What a run writes down: records, event files, pictures."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cct_tf.evaluation.metrics import Evaluation
from cct_tf.pictures import plots
from cct_tf.runs.workdir import MetricsFile
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")


def _tags(folder, kind):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {tag for tag in events.Tags()["tensors"] if kind in str(events.SummaryMetadata(tag))}


def test_a_run_writes_every_tag_of_the_design(pictures, tmp_path):
    tiny.train(tmp_path, train_steps=4, eval_every_steps=2, validation_fraction=0.2, ema_decay=0.9)
    scalars = {"train/loss", "train/accuracy", "train/learning_rate", "train/grad_norm", "train/skipped_updates",
               "timing/images_per_second", "timing/step_ms", "timing/input_wait_fraction"}
    assert scalars <= _tags(tmp_path / "train", "scalars")
    assert {"train/batch", "train/preview"} <= set(_tags(tmp_path / "train", "images"))
    assert "config" in _tags(tmp_path / "train", "text")
    assert "_hparams_/session_start_info" in _tags(tmp_path / "train", "hparams")
    for folder, name in (("eval", "eval"), ("eval_ema", "eval"), ("test", "test")):
        assert {f"{name}/top1", f"{name}/top5", f"{name}/loss"} <= _tags(tmp_path / folder, "scalars")
        assert f"{name}/confusion_matrix" in _tags(tmp_path / folder, "images")
    for folder in ("eval", "eval_ema"):
        assert "eval/pooling_attention" in _tags(tmp_path / folder, "images")
    assert (tmp_path / "eval_ema/projector_config.pbtxt").exists()  # of the network that is judged
    for name in ("curves.png", "confusion_matrix.png"):
        pixels = np.asarray(Image.open(tmp_path / "plots" / name))
        assert pixels.std() > 10  # something is drawn on it
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4]
    assert [record["step"] for record in records if "eval/loss" in record] == [2, 4]
    images = json.loads(next(tmp_path.glob("checkpoints/*/run.json")).read_text())["resolved"]["num_examples"]["train"]
    assert {record["step"]: record["epoch"] for record in records} == {
        step: round(16 * step / images, 6) for step in (1, 2, 3, 4)}


def test_a_run_whose_records_have_no_epoch_goes_on_with_it_in_new_ones(tmp_path):
    tiny.train(tmp_path, train_steps=4, checkpoint_every_steps=2)
    path = tmp_path / "metrics.jsonl"
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{name: value for name, value in record.items() if name != "epoch"} for record in whole if record["step"] < 3]
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    shutil.rmtree(tmp_path / "checkpoints/step_00000004")
    tiny.train(tmp_path, train_steps=4, checkpoint_every_steps=2)
    without_timing = [{name: value for name, value in record.items() if not name.startswith("timing/")}
                      for record in old + whole[len(old):]]
    assert tiny.records(tmp_path) == without_timing


def test_the_wait_for_input_is_measured(tmp_path):
    """A source that needs 200 ms a batch, behind a network that needs far less."""
    import tensorflow as tf

    training = tiny.assemble(tmp_path, train_steps=12, log_every_steps=6)
    clean = training.batches

    def slow(start, count):
        def sleep(batch):
            tf.py_function(lambda: __import__("time").sleep(0.2), [], [])
            return batch
        return clean(start, count).map(sleep)

    training.batches = slow
    training.run(tiny.NoInterrupts())
    *_, record = tiny.records(tmp_path, "train/", without_timing=False)  # without the tracing of the first step
    assert record["timing/input_wait_fraction"] > 0.2


def test_non_finite_values_become_null_and_a_cut_keeps_what_was_before(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file.write(step, {"train/loss": math.nan if step == 2 else 0.5})
        file.write(step, {"eval/loss": 1.0})
    file.write(3, {"test/loss": 1.0})
    file.cut(2, 1)
    assert file.read() == [{"step": 1, "train/loss": 0.5}, {"step": 1, "eval/loss": 1.0},
                           {"step": 2, "train/loss": None}]


def test_confusion_matrix_of_awkward_class_names_is_drawn():
    names = ["$5_$10", "猫", "a" * 40]
    figure = plots.confusion_figure(np.diag([3, 0, 2]), names)
    assert plots.as_array(figure).std() > 10
    assert figure.axes[0].get_ylabel() == "label (no images of 1 of 3 classes)"
    assert plots.confusion_figure(np.diag([3, 1, 2]), names).axes[0].get_ylabel() == "label"


def test_evaluation_by_hand():
    found = Evaluation(labels=np.array([0, 0, 1, 2, 2, 2], np.int32),
                       predictions=np.array([0, 1, 1, 2, 2, 0], np.int32), ranks=np.array([0, 1, 0, 0, 0, 6]),
                       losses=np.arange(6, dtype=np.float32), num_classes=7)
    assert (found.examples, found.top1, found.top5, found.loss) == (6, 4 / 6, 5 / 6, 2.5)
    assert found.confusion[:3, :3].tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    np.testing.assert_allclose(found.per_class, [0.5, 1.0, 2 / 3] + [np.nan] * 4)
    assert math.isclose(found.balanced_accuracy, (0.5 + 1.0 + 2 / 3) / 3)
