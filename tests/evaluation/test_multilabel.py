"""Metrics of several labels are scikit-learn's, thresholds are those of the highest F1, and nothing counts twice."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as sklearn_metrics

from cct_tf.augment.transform import Transform
from cct_tf.data.source import Split
from cct_tf.evaluation import report
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.evaluation.multilabel import MultilabelEvaluation, fit_threshold
from cct_tf.evaluation.views import AveragedViews
from cct_tf.machine import runtime
from cct_tf.readers.held import Held

N, K = 300, 5


def _evaluation(labels, scores, **fields):
    labels, scores = np.array(labels, np.uint8), np.array(scores, np.float32)
    fields = {"losses": np.ones(len(labels), np.float32), "num_classes": labels.shape[1]} | fields
    return MultilabelEvaluation(labels, scores, **fields)


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(2)
    labels = rng.random([N, K]) < [0.5, 0.3, 0.2, 0.1, 0.02]
    scores = np.round(np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1), 2)  # with ties
    return _evaluation(labels, scores)


def test_metrics_are_those_of_scikit_learn(found):
    labels, scores = found.labels, found.scores
    said = scores >= 0.5
    average = sklearn_metrics.average_precision_score
    assert found.map == pytest.approx(average(labels, scores, average="macro"), abs=1e-6)
    assert found.map_micro == pytest.approx(average(labels, scores, average="micro"), abs=1e-6)
    assert found.f1 == pytest.approx(sklearn_metrics.f1_score(labels, said, average="macro"), abs=1e-6)
    assert found.f1_micro == pytest.approx(sklearn_metrics.f1_score(labels, said, average="micro"), abs=1e-6)
    np.testing.assert_allclose(found.auc, sklearn_metrics.roc_auc_score(labels, scores, average=None), atol=1e-6)
    fitted = scores >= np.array(found.fitted_thresholds)
    assert found.f1_fitted == pytest.approx(sklearn_metrics.f1_score(labels, fitted, average="macro"), abs=1e-6)
    assert np.mean(found.is_right) == sklearn_metrics.accuracy_score(labels, said)
    report = sklearn_metrics.classification_report(labels, said, output_dict=True, zero_division=0)
    scores = found.class_scores()
    np.testing.assert_allclose(np.nan_to_num([scores.precision, scores.recall, scores.f1, scores.support]).T, [
        [report[str(k)][name] for name in ("precision", "recall", "f1-score", "support")] for k in range(K)], atol=1e-6)


def test_average_precision_and_auc_by_hand():
    """Ranks of the images of the class: 1, 3 of 4; pairs in order: 3 of 4."""
    found = _evaluation([[1, 1], [0, 1], [1, 0], [0, 1]], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]])
    assert found.average_precision[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.auc[0] == pytest.approx(3 / 4)


def test_the_threshold_has_the_highest_f1_of_all(found):
    for labels, scores in zip(found.labels.T, found.scores.T, strict=True):
        every = [sklearn_metrics.f1_score(labels, scores >= at) for at in np.unique(scores)]
        at = fit_threshold(labels, scores)
        assert sklearn_metrics.f1_score(labels, scores >= at) == max(every)
        assert np.abs(scores - at).min() > 1e-3  # between two scores, which are hundredths


def test_thresholds_at_their_ends():
    scores = np.array([0.2, 0.6, 0.8], np.float32)
    assert fit_threshold(np.array([0, 1, 1]), scores) == pytest.approx(0.4)
    assert fit_threshold(np.array([1, 1, 1]), scores) == pytest.approx(0.1)
    assert fit_threshold(np.array([0, 0, 0]), scores) == 0.5


def test_thresholds_fitted_elsewhere_are_used(found):
    other = found.at((0.4,) * K)
    assert other.f1_fitted == pytest.approx(sklearn_metrics.f1_score(found.labels, found.scores >= 0.4,
                                                                     average="macro"), abs=1e-6)
    assert (other.map, other.f1) == (found.map, found.f1) and other.fitted_thresholds == found.fitted_thresholds


def test_what_is_undefined_counts_in_no_mean():
    """The second class has no images, the third no others; the second is never said."""
    found = _evaluation([[1, 0, 1], [0, 0, 1]], [[0.9, 0.4, 0.8], [0.2, 0.1, 0.2]])
    assert np.isnan(found.average_precision).tolist() == [False, True, False] and found.map == 1.0
    assert np.isnan(found.auc).tolist() == [False, True, True]
    assert found.f1 == pytest.approx((1 + 2 / 3) / 2)
    nothing = _evaluation([[0, 0]], [[0.1, 0.2]])
    assert np.isnan([nothing.map, nothing.map_micro, nothing.f1]).all() and nothing.fitted_thresholds == (0.5, 0.5)


def test_answers_that_are_not_finite_are_wrong_for_every_class():
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    found = _evaluation(labels, [[np.nan, 0.1], [0.1, 0.9], [0.8, 0.2]])
    wrong = np.array([[0, 1], [0.1, 0.9], [0.8, 0.2]], np.float32)
    assert found.map == pytest.approx(sklearn_metrics.average_precision_score(labels, wrong, average="macro"))
    assert found.is_right.tolist() == [False, True, True]


def _evaluated(result, names, **fields):
    record = types.SimpleNamespace(step=7, resolved=types.SimpleNamespace(evaluated_split="validation"))
    loaded = types.SimpleNamespace(path="runs/x/best/step_00000007", weights="raw", record=record)
    return types.SimpleNamespace(plain=result, averaged=None, num_views=1, class_names=names, loaded=loaded, **fields)


def test_the_report_of_a_small_evaluation():
    result = _evaluation([[1, 0], [1, 1], [0, 0]], [[0.9, 0.2], [0.4, 0.7], [0.3, 0.1]],
                         losses=np.array([0.1, 0.6, 0.2], np.float32), thresholds=(0.35, 0.5))
    evaluated = _evaluated(result, ("cat", "a dog"))
    assert report.lines(evaluated, "test", "none") == [
        "runs/x/best/step_00000007, raw weights, test split: 3 images",
        "  mAP 100.00%   micro 100.00%   F1 at 0.5 83.33%   micro 80.00%   loss 0.3000",
        "  all labels of an image right at 0.5 66.67%   F1 at fitted thresholds 100.00% (of the validation split)",
        "              AP      AUC  precision   recall       F1  threshold  F1 there   images",
        "  cat    100.00%  100.00%    100.00%   50.00%   66.67%     0.3500   100.00%        2",
        "  a dog  100.00%  100.00%    100.00%  100.00%  100.00%     0.5000   100.00%        1"]
    found = report.as_dict(evaluated, "test", "none", [(1, None)])
    assert found["f1_fitted"] == 1.0 and found["classes"][0]["recall"] == 0.5 and found["loss"] == pytest.approx(0.3)
    assert found["worst_mistakes"] == [{"image": 1, "origin": None, "labels": ["cat", "a dog"],
                                        "predictions": ["a dog"], "loss": pytest.approx(0.6)}]


def test_two_networks_are_compared_by_the_images_of_which_all_labels_are_right():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    pair = [_evaluation(labels, scores) for scores in ([[0.9, 0], [0.9, 0.9], [0, 0], [0, 0.1]],
                                                       [[0.9, 0], [0.9, 0.4], [0, 0.6], [0, 0.9]])]
    loaded = types.SimpleNamespace(path="x", weights="raw", record=types.SimpleNamespace(step=1))
    found = report.compared([(name, loaded, each) for name, each in zip("ab", pair, strict=True)], "test")
    assert [found[name] for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")] == [1, 2, 1, 0]
    assert found["a"]["map"] == pair[0].map and "mAP" in report.compared_lines(found)[1]


class _Shares:
    """Logits whose first K values are the first K pixels of an image."""

    image_size = 4

    def __call__(self, images, training=False):
        return tf.reshape(images, [images.shape[0], -1])[:, :K] * 3.0


@pytest.fixture(scope="module")
def split():
    """A source made in Python: 23 random images with labels of their own; three can't be decoded."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [23, 4, 4, 3], np.uint8)
    masked = np.zeros(23, bool)
    masked[[2, 9, 22]] = True
    return images, Split("test", Held(tf.constant(images), np.arange(23), at_network_size=True), 23,
                         (rng.random([23, K]) < 0.4).astype(np.uint8), masked=masked)


@pytest.mark.parametrize(("batch_size", "replicas"), [(8, 1), (8, 2), (23, 1)])
def test_each_image_counts_once_but_for_broken_ones(split, batch_size, replicas):
    images, split = split
    transform = Transform(4, (0.5,), (0.25,), multilabel=True)
    found = Evaluator(runtime.make_devices(replicas), {"eval": _Shares()}, split, transform, num_classes=K,
                      batch_size=batch_size, task="multilabel")()["eval"]
    good = ~split.masked
    logits = 3 * ((images.reshape(23, -1)[good, :K] / 255 - 0.5) / 0.25)
    np.testing.assert_array_equal(found.labels, split.labels[good])
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    losses = np.where(split.labels[good] > 0, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    np.testing.assert_allclose(found.losses, losses.mean(axis=1), rtol=1e-4)
    assert (found.broken, found.place_of([0, 2, 19]).tolist()) == (3, [0, 3, 21])
    assert dataclasses.replace(found).only([3, 21]).labels.tolist() == split.labels[[3, 21]].tolist()


class _Peers:
    """The other worker's part is said by `blobs`, where this one leaves its own."""

    num_workers = 2

    def __init__(self, blobs, index):
        self._blobs, self._index = blobs, index

    def exchange_bytes(self, blob):
        self._blobs[self._index] = blob
        return list(self._blobs)


def test_two_workers_put_their_parts_together(split):
    _, split = split
    transform, blobs, devices = Transform(4, (0.5,), (0.25,), multilabel=True), [b"", b""], runtime.make_devices(1)
    settings = {"num_classes": K, "batch_size": 8, "task": "multilabel"}
    whole = Evaluator(devices, {"eval": _Shares()}, split, transform, **settings)()["eval"]
    found = []
    for worker in (0, 1, 0):  # the first knows the other's part the second time
        share = dataclasses.replace(devices, num_replicas=2, worker=worker, num_workers=2)
        found.append(Evaluator(share, {"eval": _Shares()}, split, transform, peers=_Peers(blobs, worker), **settings)())
    assert found[0] is None
    for each in found[1:]:
        for name in ("labels", "scores", "losses"):
            np.testing.assert_allclose(getattr(each["eval"], name), getattr(whole, name), rtol=1e-6)


def test_views_are_averaged_by_class():
    images = tf.constant(np.random.default_rng(1).normal(size=[3, 4, 4, 3]), tf.float32)
    model, chances = _Shares(), lambda images: tf.sigmoid(_Shares()(images))
    expected = (chances(images) + chances(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(tf.sigmoid(AveragedViews(model, "flip", multilabel=True)(images)), expected, rtol=1e-5)
