"""`cct_tf.evaluate`: confidences, mistakes, pictures, and two runs compared; against plain NumPy."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline
from cct_tf.data.source import Split
from cct_tf.evaluation import mistakes
from cct_tf.evaluation.calibration import calibrate
from cct_tf.evaluation.metrics import Evaluation
from cct_tf.pictures import plots
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.held import Held
from cct_tf.readers.windowed import Windowed
from tests.commands import call
from tests.training import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run."""
    return tiny.train(tmp_path_factory.mktemp("trained"), train_steps=40, checkpoint_every_steps=30)


def _answers(training):
    """(images before normalising, labels, probabilities float64 [n, K]) of the test split."""
    split = training.images.source.splits["test"]
    stages = training.transform.evaluation_stages(10)
    batch = next(iter(pipeline.evaluation_batches(split, stages, batch_size=split.num_examples)))
    logits = training.network.model(on_device(batch, stages), training=False).numpy().astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return batch["image"].numpy() / 255.0, np.argmax(batch["label"], axis=1), probabilities


def _evaluate(capfd, *argv):
    status, out, err = call(capfd, "evaluate", *argv, "--checkpoint=last", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


def test_confidences_and_mistakes_are_what_numpy_finds(trained, capfd):
    _, labels, shares = _answers(trained)
    found = _evaluate(capfd, f"--workdir={trained.workdir.path}", "--mistakes=5")
    predictions = shares.argmax(axis=1)
    assert found["calibration"]["mean_confidence"] == pytest.approx(shares.max(axis=1).mean(), rel=1e-5)
    assert found["calibration"]["ece"] == pytest.approx(calibrate(shares.max(axis=1), predictions == labels).ece,
                                                        abs=1e-4)
    assert sum(part["images"] for part in found["calibration"]["bins"]) == found["examples"] == 359
    losses = np.where(predictions == labels, -np.inf, -np.log(shares[np.arange(len(labels)), labels]))
    worst = np.argsort(-losses)[:5]
    assert [one["image"] for one in found["worst_mistakes"]] == worst.tolist()
    for one, place in zip(found["worst_mistakes"], worst, strict=True):
        assert (one["label"], one["prediction"], one["origin"]) == (str(labels[place]), str(predictions[place]), None)
        assert one["confidence"] == pytest.approx(shares[place].max(), rel=1e-4)
        assert one["loss"] == pytest.approx(losses[place], rel=1e-4)
    assert [one["recall"] for one in found["classes"]] == list(found["per_class"].values())
    assert found["pictures"] == []


def test_pictures_go_where_they_are_asked_to(trained, capfd, tmp_path):
    images, labels, shares = _answers(trained)
    found = _evaluate(capfd, f"--workdir={trained.workdir.path}", f"--output_dir={tmp_path / 'new'}")
    names = [f"test_step_00000040_{name}.png" for name in ("confusion_matrix", "reliability", "worst_mistakes")]
    assert found["pictures"] == [str(tmp_path / "new" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    for path in found["pictures"]:
        pixels = np.asarray(Image.open(path))
        assert min(pixels.shape[:2]) > 300 and pixels.std() > 10
    sheet, first = np.asarray(Image.open(found["pictures"][-1])), found["worst_mistakes"][0]["image"]
    expected = np.rint(images[first] * 255).repeat(12, axis=0).repeat(12, axis=1)  # 8 pixels, enlarged to 96
    tops = [top for top in range(100) if np.abs(sheet[top:top + 96, 8:104] - expected).max() <= 1]
    assert len(tops) == 1  # the worst mistake comes first, whole, pixel by pixel


def test_two_runs_are_compared_image_by_image(trained, capfd, tmp_path):
    """The second is the first without its last ten steps."""
    shutil.copytree(trained.workdir.path, tmp_path / "short")
    shutil.rmtree(tmp_path / "short/checkpoints/step_00000040")
    earlier = tiny.assemble(tmp_path / "short", train_steps=40, checkpoint_every_steps=30)
    right = []
    for training in (trained, earlier):
        _, labels, shares = _answers(training)
        right.append(shares.argmax(axis=1) == labels)
    flag = f"--compare={trained.workdir.path},{tmp_path / 'short'}"
    found = _evaluate(capfd, flag)
    a, b = right
    assert [found[name] for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")] == [
        int(np.sum(both)) for both in (a & b, a & ~b, ~a & b, ~a & ~b)]
    assert (found["a"]["step"], found["b"]["step"]) == (40, 30)
    assert (found["a"]["top1"], found["b"]["top1"]) == (a.mean(), b.mean()) and a.mean() != b.mean()
    status, out, _ = call(capfd, "evaluate", flag, "--checkpoint=last")
    assert status == 0 and f"p = {found['p_value']:.2g}" in out and f"McNemar's test ({found['method']}" in out


def test_the_worst_come_first_and_what_is_not_finite_before_them():
    result = Evaluation(np.zeros(6, np.int32), np.ones(6, np.int32), np.array([1, 0, 1, 2, 2, 1]),
                        np.array([1.0, 9.0, 3.0, np.nan, 3.0, 0.5], np.float32), 3)
    assert mistakes.worst(result, 4).tolist() == [3, 2, 4, 0]
    assert mistakes.worst(result, 400).tolist() == [3, 2, 4, 0, 5]


class _AsTheyAre:
    def resize(self, images):
        return images

    shown = resize


def test_images_of_mistakes_come_from_every_kind_of_reader(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [6, 8, 8, 3]).astype(np.uint8)
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for image in pixels:
            writer.write(image.tobytes())

    def decode(record):
        return tf.reshape(tf.io.decode_raw(record, tf.uint8), [8, 8, 3]), tf.constant(0, tf.int64)

    order = np.array([5, 3, 1, 0], np.int64)  # the images of this split; of records, those from the second on
    readers = {"held": Held(tf.constant(pixels), order, names=paths), "nameless": Held(tf.constant(pixels), order),
               "files": Encoded(tf.constant(paths), paths, order, True),
               "records": Windowed([str(tmp_path / "records")], [4], [1], decode, 2)}
    for name, reader in readers.items():
        split = Split("test", reader, 4, None if name == "records" else np.zeros(4, np.int32))
        found = mistakes._images(split, _AsTheyAre(), np.array([2, 0]))
        expected = pixels[[3, 1]] if name == "records" else pixels[[1, 5]]
        assert np.array_equal(found, expected), name
        assert reader.origin(2) == {"nameless": None, "records": f"{tmp_path}/records (record 3)"}.get(name, paths[1])


def _ink(figure):
    """(pixels, whether what is drawn stays within the picture: its border is white)."""
    pixels = plots.as_array(figure)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return pixels, border.min() == 255


@pytest.mark.parametrize(("classes", "side"), [(2, 500), (10, 750), (30, 1400), (100, 1400), (1000, 1400)])
def test_a_confusion_matrix_fits_its_picture_also_with_long_names(classes, side):
    names = ["$" + "long_name" * 8] * classes
    pixels, is_within = _ink(plots.confusion_figure(np.eye(classes, dtype=int) * 9, names, "runs/" + "x" * 200))
    assert pixels.shape == (side, side, 3) and is_within
    blue = (pixels[..., 2].astype(int) - pixels[..., 0] > 60).any(axis=0)
    assert blue.sum() > 0.3 * side  # the names leave room for the matrix


def test_a_reliability_plot_shows_gaps_on_both_sides():
    confidences = np.array([0.35] * 10 + [0.95] * 10)
    right = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)  # too modest, and too sure
    for calibration in (calibrate(confidences, right), calibrate(np.array([0.5]), np.array([False]))):
        pixels, is_within = _ink(plots.reliability_figure(calibration, "$x" + "y/" * 90))
        red = (pixels[..., 0].astype(int) - pixels[..., 1] > 100).sum()
        assert is_within and red > 200
    changed = dataclasses.replace(calibrate(confidences, right), accuracy=calibration.confidence)
    assert not np.array_equal(_ink(plots.reliability_figure(changed, ""))[0], pixels)


def test_a_run_without_a_test_split_is_evaluated_on_its_validation_split(capfd, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), np.uint8)
    for index, image in enumerate(pixels):
        path = tmp_path / f"photos/{'cat' if index % 2 else 'dog'}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    argv = tiny.EVERYTHING_RANDOM | {"dataset": "folder", "data_dir": tmp_path / "photos", "validation_fraction": 0.3,
                                     "batch_size": 4, "train_steps": 2, "workdir": tmp_path / "a"}
    assert call(capfd, "train", *(f"--{name}={value}" for name, value in argv.items()))[0] == 0
    status, out, err = call(capfd, "evaluate", f"--workdir={tmp_path / 'a'}")
    assert (status, err) == (0, "")
    assert "no test split in this run: on its validation split" in out and "validation split: 6 images" in out
    asked = call(capfd, "evaluate", f"--workdir={tmp_path / 'a'}", "--split=validation")[1]
    assert "no test split" not in asked and "validation split: 6 images" in asked
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for flag in (f"--workdir={tmp_path / 'a'}", f"--compare={tmp_path / 'a'},{tmp_path / 'b'}"):
        found = _evaluate(capfd, flag)
        assert (found["split"], found["examples"]) == ("validation", 6)
    status, _, err = call(capfd, "evaluate", f"--workdir={tmp_path / 'a'}", "--split=test")
    assert status == 2 and "--split: expected one of train, validation (those of this run), found 'test'" in err
