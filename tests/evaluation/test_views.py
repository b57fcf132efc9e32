"""Test-time augmentation against plain NumPy: views, averaging, counts."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline
from cct_tf.evaluation import views
from cct_tf.evaluation.evaluator import Evaluator
from tests.commands import call, only_line
from tests.training import tiny


def _moved(images, down, right):
    """Images moved by whole pixels, edge pixels repeated: float [B, H, W, C]."""
    (height, width), reach = images.shape[1:3], max(abs(down), abs(right), 1)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    return padded[:, reach - down:reach - down + height, reach - right:reach - right + width]


def _views(images, kind, shift):
    both = [images, images[:, :, ::-1]]
    if kind == "flip":
        return both
    return [_moved(view, step, step) for view in both for step in (0, -shift, shift)]


def _probabilities(model, images):
    """Softmax in np.longdouble, which holds 1e-4900."""
    logits = model(images, training=False).numpy().astype(np.longdouble)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "shift"), [("flip", 1), ("shifts", 1), ("shifts", 3)])
def test_views_are_the_images_that_numpy_moves_and_mirrors(kind, shift):
    images = np.random.default_rng(0).normal(size=[2, 6, 9, 3]).astype(np.float32)
    rows, columns = views.views(kind, (6, 9), shift)
    found = [images[:, row][:, :, column] for row, column in zip(rows, columns, strict=True)]
    expected = _views(images, kind, shift)
    assert len(found) == len(expected) == {"flip": 2, "shifts": 6}[kind]
    left = list(range(len(expected)))
    for view in found:  # each is one of them, none twice
        match, = (index for index in left if np.array_equal(view, expected[index]))
        left.remove(match)


class Sharp(keras.Model):
    """A linear network with logits of some hundreds, so that probabilities underflow in float32."""

    image_size = 5

    def __init__(self):
        super().__init__()
        self.kernel = tf.constant(np.random.default_rng(1).normal(size=[75, 4]) * 100, tf.float32)

    def call(self, images, training=None):
        return tf.reshape(images, [-1, 75]) @ self.kernel


@pytest.mark.parametrize("kind", ["flip", "shifts"])
def test_the_answer_is_the_log_of_the_mean_probability_and_always_finite(kind):
    model, images = Sharp(), np.random.default_rng(2).normal(size=[7, 5, 5, 3]).astype(np.float32)
    found = tf.function(views.AveragedViews(model, kind, 1))(images)
    assert found.shape == [7, 4]
    mean = np.mean([_probabilities(model, view) for view in _views(images, kind, 1)], axis=0)
    assert mean.min() < 1e-45 and np.isfinite(found.numpy()).all()
    np.testing.assert_allclose(found, np.log(mean).astype(np.float64), rtol=2e-5, atol=2e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run, whose network gets about half of the digits right."""
    return tiny.train(tmp_path_factory.mktemp("trained"), train_steps=40, log_every_steps=40)


def _test_images(training):
    split = training.images.source.splits["test"]
    stages = training.transform.evaluation_stages(10)
    batch = next(iter(pipeline.evaluation_batches(split, stages, batch_size=split.num_examples)))
    return on_device(batch, stages).numpy(), np.argmax(batch["label"].numpy(), axis=1)


@pytest.mark.parametrize("kind", ["flip", "shifts"])
def test_evaluate_reports_what_numpy_finds_beside_the_plain_result(trained, capfd, kind):
    images, labels = _test_images(trained)
    seen = _views(images, kind, 1)
    mean = np.mean([_probabilities(trained.network.model, view) for view in seen], axis=0)
    order = np.argsort(-mean, axis=1)
    status, out, err = call(capfd, "evaluate", f"--workdir={trained.workdir.path}", "--checkpoint=last",
                            f"--tta={kind}", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["tta"]["kind"] == kind and found["tta"]["views"] == len(seen)
    assert found["tta"]["top1"] == np.mean(order[:, 0] == labels)
    assert found["tta"]["top5"] == np.mean(np.any(order[:, :5] == labels[:, None], axis=1))
    loss = -np.mean(np.log(mean[np.arange(len(labels)), labels]))
    assert found["tta"]["loss"] == pytest.approx(float(loss), rel=1e-5)
    record = tiny.records(trained.workdir.path, "eval")[-1]
    assert [found[name] for name in ("top1", "top5", "loss")] == [record[f"eval/{name}"]
                                                                  for name in ("top1", "top5", "loss")]
    assert found["tta"]["top1"] != found["top1"]  # so that one is not the other's


def test_a_person_sees_both_results(trained, capfd):
    status, out, _ = call(capfd, "evaluate", f"--workdir={trained.workdir.path}", "--tta=shifts")
    assert status == 0 and "raw weights, test split" in out
    before, after = out.split("with test-time augmentation (shifts, 6 views):")
    assert "top-1" in before and after.lstrip().startswith("top-1")


def test_counts_do_not_depend_on_batch_or_replicas(trained):
    both = tiny.assemble(trained.workdir.path, train_steps=40, num_replicas=2, log_every_steps=40)
    results = []
    for training, batch_size in ((trained, 400), (trained, 7), (both, 64)):
        averaged = views.AveragedViews(training.network.model, "shifts", 1)
        results.append(Evaluator(training.devices, {"tta": averaged}, training.images.source.splits["test"],
                                 training.transform, num_classes=10, batch_size=batch_size)()["tta"])
    for result in results[1:]:
        assert np.array_equal(result.ranks, results[0].ranks)
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)


def test_a_shift_of_the_whole_image_is_one_line(trained, capfd):
    status, _, err = call(capfd, "evaluate", f"--workdir={trained.workdir.path}", "--tta=shifts", "--tta_shift=8")
    assert status == 2 and "--tta_shift" in only_line(err) and "8" in err
