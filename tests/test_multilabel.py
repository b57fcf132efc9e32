"""Commands on a run whose images have several labels, and the page about them."""

import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import cct_tf
from cct_tf.runs import run_record
from tests import commands, digit_pairs
from tests.training import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(work folder, the arrays of its set, files of the test images, its Training)."""
    folder = tmp_path_factory.mktemp("pairs")
    path = digit_pairs.write(folder)
    training = tiny.train(folder / "run", dataset="npz", data_dir=str(path), task="multilabel", model="cct_2_3x1_16",
                          image_size=16, train_steps=40, eval_every_steps=20, learning_rate=3e-3, crop_padding=0,
                          flip="none", label_smoothing=0.0)
    arrays = dict(np.load(path))
    (folder / "images").mkdir()
    for number, image in enumerate(arrays["x_test"][:20]):
        Image.fromarray(image).save(folder / f"images/{number:02d}.png")
    return folder / "run", arrays, folder / "images", training


def _json(capfd, command, *argv):
    status, out, err = commands.call(capfd, command, *argv, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def scores(run):
    """Probabilities of the test images by the best weights, by NumPy from the network's logits: float [90, 10]."""
    workdir, arrays, _, training = run
    model = cct_tf.load(workdir).model()
    images = np.repeat(arrays["x_test"][..., None], 3, axis=3) / 255
    logits = model((images - training.images.mean) / training.images.std, training=False).numpy()
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def test_evaluate_finds_scikit_learns_values(run, scores, capfd, tmp_path):
    workdir, labels = run[0], run[1]["y_test"]
    found = _json(capfd, "evaluate", f"--workdir={workdir}", f"--output_dir={tmp_path}")
    assert found["map"] == pytest.approx(metrics.average_precision_score(labels, scores), abs=1e-6)
    micro = metrics.average_precision_score(labels, scores, average="micro")
    assert found["map_micro"] == pytest.approx(micro, abs=1e-6)
    np.testing.assert_allclose([each["auc"] for each in found["classes"]],
                               metrics.roc_auc_score(labels, scores, average=None), atol=1e-6)
    record = run_record.read_record(run_record.list_checkpoints(workdir / "best")[-1])
    said = scores >= np.array(record.status.thresholds)
    fitted = metrics.f1_score(labels, said, average="macro", zero_division=0)
    assert found["f1_fitted"] == pytest.approx(fitted, abs=1e-6)
    assert [each["threshold"] for each in found["classes"]] == list(record.status.thresholds)
    assert found["thresholds_fitted_on"] == "the validation split"
    tested, = tiny.records(workdir, "test/")
    assert {name: found[name] for name in ("map", "f1", "f1_fitted", "loss")} == {
        name: pytest.approx(tested[f"test/{name}"], rel=1e-6) for name in ("map", "f1", "f1_fitted", "loss")}
    assert {path.name.partition(f"{record.step:08d}_")[2] for path in tmp_path.iterdir()} == {
        "classes.png", "worst_mistakes.png"}


def test_predict_tells_the_classes_above_their_thresholds(run, scores, capfd):
    workdir, _, images, _ = run
    thresholds = run_record.read_record(run_record.list_checkpoints(workdir / "best")[-1]).status.thresholds
    found = _json(capfd, "predict", f"--workdir={workdir}", images)
    assert list(found["thresholds"].values()) == list(thresholds)
    for row, expected in zip(found["images"], scores, strict=False):
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)
        assert {each["class"] for each in row["predictions"]} == {
            str(k) for k in range(10) if row["probabilities"][str(k)] >= thresholds[k]}
    _, out, _ = commands.call(capfd, "predict", f"--workdir={workdir}", images, "--csv")
    head, first, *_ = out.splitlines()
    assert head.startswith("image,classes,probability_0,") and first.split(",")[1] == ";".join(
        each["class"] for each in found["images"][0]["predictions"])
    predictions = cct_tf.load(workdir).predict(images)
    assert [set(names) for names in predictions.labels] == [{each["class"] for each in row["predictions"]}
                                                            for row in found["images"]]


def test_weights_that_were_not_evaluated_have_thresholds_of_one_half(run, capfd):
    found = _json(capfd, "predict", f"--workdir={run[0]}", run[2])
    record = run_record.read_record(run_record.list_checkpoints(run[0] / "checkpoints")[-1])
    assert record.thresholds_of("raw") is not None and "validation split" in found["thresholds_are"]
    later = dataclasses.replace(record, step=record.step + 1)
    assert later.thresholds_of("raw") is None


def test_an_export_gives_sigmoids_and_its_description_has_the_thresholds(run, capfd, tmp_path):
    """In the cheapest format: all are written from one function, `export.network`."""
    workdir, _, images, _ = run
    written = _json(capfd, "export", f"--workdir={workdir}", "--format=onnx", f"--output={tmp_path / 'x.onnx'}")
    assert written["largest_difference"] < 1e-5 and written["same_prediction"] > 0.999
    ours = _json(capfd, "predict", f"--workdir={workdir}", images)
    theirs = _json(capfd, "predict", f"--exported={tmp_path / 'x.onnx'}", images)
    assert theirs["thresholds"] == ours["thresholds"]
    for row, expected in zip(theirs["images"], ours["images"], strict=True):
        assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_runs_are_compared_by_map(run, capfd):
    workdir = run[0]
    found = _json(capfd, "compare", workdir)
    assert found["groups"][0]["best_map"]["mean"] == found["runs"][0]["best"]["map"]
    assert found["notes"] == ["best, last and test are mAP"]
    status, out, _ = commands.call(capfd, "checkpoints", f"--workdir={workdir}")
    assert status == 0 and f"mAP {100 * found['runs'][0]['best']['map']:.2f}%" in out


@pytest.mark.slow
def test_the_command_of_the_page_reaches_95_percent(capfd, tmp_path, monkeypatch):
    """In six of its eight epochs."""
    monkeypatch.chdir(tmp_path)
    exec(digit_pairs.code(), {})
    command = re.search(r"^```sh\n(python -m cct_tf\.train .*?)^```", digit_pairs.PAGE.read_text(encoding="utf-8"),
                        re.M | re.S).group(1)
    _, _, module, *argv = shlex.split(command.replace("\\\n", ""))
    status, _, err = commands.call(capfd, module.removeprefix("cct_tf."), *argv, "--epochs=6")
    assert (status, err) == (0, "")
    tested, = tiny.records("runs/pairs", "test/")
    assert tested["test/map"] >= 0.95
