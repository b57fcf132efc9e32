"""What an evaluation is judged by: calibration, scores of classes, McNemar's test, and how they are written."""

import itertools
import math
import types

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from cct_tf.evaluation import report
from cct_tf.evaluation.calibration import calibrate
from cct_tf.evaluation.metrics import Evaluation
from cct_tf.evaluation.significance import mcnemar
from cct_tf.machine.console import shortened


def test_calibration_error_by_hand():
    """Ten bins: two images in (0.9, 1], one of them right; a right one in (0.5, 0.6]; a wrong one in (0.2, 0.3]."""
    found = calibrate(np.array([0.95, 0.93, 0.55, 0.25]), np.array([True, False, True, False]), num_bins=10)
    assert found.counts.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 2]
    assert found.ece == pytest.approx(2 / 4 * (0.94 - 0.5) + 1 / 4 * (1 - 0.55) + 1 / 4 * 0.25)
    assert found.mean_confidence == pytest.approx(0.67)
    assert found.accuracy[[2, 5, 9]].tolist() == [0.0, 1.0, 0.5] and np.isnan(found.accuracy[0])
    assert found.confidence[[2, 5, 9]].tolist() == pytest.approx([0.25, 0.55, 0.94])


def test_a_bin_holds_its_upper_edge():
    found = calibrate(np.array([0.25, 0.5, 0.5000001, 1.0]), np.ones(4, bool), num_bins=4)
    assert found.counts.tolist() == [1, 1, 1, 1]


def test_calibration_error_by_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    confidences = rng.random(1000) ** 0.5
    right = rng.random(1000) < confidences**2
    expected = 0.0
    for m in range(1, 16):
        members = [i for i in range(1000) if (m - 1) / 15 < confidences[i] <= m / 15]
        if members:
            accuracy = sum(bool(right[i]) for i in members) / len(members)
            confidence = sum(float(confidences[i]) for i in members) / len(members)
            expected += len(members) / 1000 * abs(accuracy - confidence)
    assert calibrate(confidences, right).ece == pytest.approx(expected, rel=1e-12)


def test_calibration_error_at_its_ends():
    assert calibrate(np.ones(5), np.ones(5, bool)).ece == 0.0
    assert calibrate(np.ones(5), np.zeros(5, bool)).ece == 1.0
    assert math.isnan(calibrate(np.array([0.5, np.nan]), np.ones(2, bool)).ece)


@pytest.mark.parametrize(("only_a", "only_b", "p_value"), [
    (0, 0, 1.0), (3, 3, 1.0), (5, 1, 2 * (1 + 6) / 64), (0, 10, 2 / 1024), (8, 2, 2 * (1 + 10 + 45) / 1024)])
def test_mcnemar_is_exact_for_few_images(only_a, only_b, p_value):
    found = mcnemar(only_a, only_b)
    assert (found.method, found.statistic) == ("exact binomial", None)
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_counts_what_coins_would_do():
    """All 2^12 ways in which twelve images fall: those at least as far apart as 10 to 2."""
    falls = [sum(coins) for coins in itertools.product((0, 1), repeat=12)]
    assert mcnemar(2, 10).p_value == sum(abs(heads - 6) >= 4 for heads in falls) / len(falls)


@pytest.mark.parametrize(("only_a", "only_b", "statistic"), [(15, 10, 16 / 25), (10, 40, 29**2 / 50), (30, 30, 0.0)])
def test_mcnemar_is_chi_squared_from_25_images_on(only_a, only_b, statistic):
    found = mcnemar(only_a, only_b)
    assert found.method == "chi-squared with continuity correction"
    assert found.statistic == pytest.approx(statistic)
    # The density of chi-squared with one degree of freedom, as that of the normal distribution it is the square of.
    points = np.linspace(math.sqrt(statistic), 12.0, 200001)
    tail = 2 * np.trapezoid(np.exp(-points**2 / 2), points) / math.sqrt(2 * math.pi)
    assert found.p_value == pytest.approx(tail, rel=1e-6)


def test_mcnemar_changes_its_way_between_24_and_25_images():
    assert mcnemar(16, 8).statistic is None and mcnemar(17, 8).statistic is not None
    assert mcnemar(16, 8).p_value == pytest.approx(mcnemar(8, 16).p_value)
    exact = sum(math.comb(25, k) for k in range(9)) / 2**24
    assert mcnemar(17, 8).p_value == pytest.approx(exact, abs=0.01)


def _evaluation(labels, predictions, classes, **columns):
    labels, predictions = np.array(labels, np.int32), np.array(predictions, np.int32)
    columns = {"losses": np.ones(len(labels), np.float32), "confidences": np.full(len(labels), 0.5)} | columns
    return Evaluation(labels, predictions, np.where(labels == predictions, 0, 1), num_classes=classes, **columns)


def test_scores_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    labels[labels == 4], predictions[predictions == 3] = 0, 0  # one never occurs, one is never predicted
    both = rng.random(300) < 0.5
    predictions[both & (labels != 3)] = labels[both & (labels != 3)]
    scores = _evaluation(labels, predictions, 7).class_scores  # of class 6 there is nothing at all
    expected = precision_recall_fscore_support(labels, predictions, labels=range(7), zero_division=np.nan)
    np.testing.assert_allclose([scores.precision, scores.recall], expected[:2], rtol=1e-12)
    assert scores.support.tolist() == expected[3].tolist()
    assert np.isnan(scores.precision).tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    assert np.isnan(scores.f1).tolist() == [False] * 6 + [True]
    for kind, means in scores.means().items():
        found = precision_recall_fscore_support(labels, predictions, average=kind, zero_division=0)
        assert means == pytest.approx(found[:3], rel=1e-12)


def test_metrics_that_may_choose_the_best_are_those_of_scikit_learn():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 200)
    predictions = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    found = _evaluation(labels, predictions, 4)
    assert found.macro_f1 == pytest.approx(f1_score(labels, predictions, average="macro"), abs=1e-6)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predictions), abs=1e-6)
    assert found.scalars("eval").keys() == {"eval/top1", "eval/top5", "eval/loss"}
    assert found.scalars("eval", ("macro_f1",))["eval/macro_f1"] == found.macro_f1


def _evaluated(result, names):
    record = types.SimpleNamespace(step=7)
    loaded = types.SimpleNamespace(path="runs/x/best/step_00000007", weights="raw", record=record)
    return types.SimpleNamespace(plain=result, averaged=None, num_views=1, class_names=names, loaded=loaded)


def test_the_report_of_a_small_evaluation():
    result = _evaluation([0, 0, 0, 1], [0, 0, 1, 1], 3, confidences=np.array([0.9, 0.9, 0.7, 0.6]),
                         losses=np.array([0.1, 0.1, 1.2, 0.5], np.float32))
    assert report.lines(_evaluated(result, ("cat", "a dog", "x")), "test", "none") == [
        "runs/x/best/step_00000007, raw weights, test split: 4 images",
        "  top-1 75.00%   top-3 100.00%   loss 0.4750   balanced 83.33%",
        "  no images of 1 of 3 classes: x",
        "  balanced accuracy is over the 2 with images, the macro mean over the 2 that occur or are predicted",
        "  expected calibration error 32.50%   mean confidence 77.50%",
        "                precision   recall       F1   images",
        "  cat             100.00%   66.67%   80.00%        3",
        "  a dog            50.00%  100.00%   66.67%        1",
        "  x                     -        -        -        0",
        "  macro mean       75.00%   83.33%   73.33%        4",
        "  weighted mean    87.50%   75.00%   76.67%        4"]


def test_classes_without_images_are_named_and_the_means_say_what_they_are_over():
    names = ("cat", "dog", "owl", "ape", "bee", "yak")
    evaluated = _evaluated(_evaluation([0, 0, 1], [0, 2, 1], 6), names)
    lines = report.lines(evaluated, "test", "none")
    assert lines[2:4] == [
        "  no images of 4 of 6 classes: owl, ape, bee and 1 more",
        "  balanced accuracy is over the 2 with images, the macro mean over the 3 that occur or are predicted"]
    found = report.as_dict(evaluated, "test", "none", [])
    assert found["classes_without_images"] == ["owl", "ape", "bee", "yak"]
    assert (found["classes_in_balanced_accuracy"], found["classes_in_macro_mean"]) == (2, 3)
    assert found["balanced_accuracy"] == (0.5 + 1.0) / 2
    whole = _evaluated(_evaluation([0, 1], [0, 0], 2), ("cat", "dog"))
    assert not any("no images" in line for line in report.lines(whole, "test", "none"))
    assert report.as_dict(whole, "test", "none", [])["classes_without_images"] == []


def test_of_many_classes_the_worst_are_shown_and_long_names_are_cut():
    labels = np.repeat(np.arange(60), 4)
    predictions = np.where(np.arange(240) % 4 < np.repeat(np.arange(60) % 5, 4), labels, 0)
    shown = report.lines(_evaluated(_evaluation(labels, predictions, 60), ("n" * 90,) * 60), "test", "none")
    assert any("the 40 worst of 60 classes" in line for line in shown)
    table = [line for line in shown if "nnn" in line]
    assert len(table) == 40 and max(map(len, shown)) < 120
    recalls = [float(line.split()[2].rstrip("%")) for line in table]
    assert recalls == sorted(recalls) and recalls[0] == 0.0


def test_a_shortened_name_keeps_both_ends():
    assert shortened("class_name_17", 9) == "clas…e_17" and shortened("class", 5) == "class"
    assert [len(shortened("x" * 99, letters)) for letters in (2, 3, 24)] == [2, 3, 24]


@pytest.mark.parametrize(("pairs", "sentence"), [
    ({(1, 1): 5, (0, 0): 2}, "Both are right on the same images"),
    ({(1, 1): 5, (1, 0): 3, (0, 1): 1}, "No difference is shown: were both equally good, one as large as 3 to 1 would "
     "come by chance in 62.5% of the cases."),
    ({(1, 0): 1, (0, 1): 11}, "B is better than A: were both equally good, a difference as large as 11 to 1 would come "
     "by chance in 0.635% of the cases only."),
    ({(1, 0): 40, (0, 1): 10, (0, 0): 1}, "A is better than B"),
])
def test_two_networks_on_the_same_images(pairs, sentence):
    right = np.array([pair for pair, count in pairs.items() for _ in range(count)])  # [n, 2]
    zeros = np.zeros(len(right), int)
    results = [(name, _evaluated(None, ()).loaded, _evaluation(zeros, 1 - right[:, column], 2))
               for column, name in enumerate("ab")]
    found = report.compared(results, "test")
    assert [found[name] for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")] == [
        pairs.get(pair, 0) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert found["a"]["top1"] == right[:, 0].mean() and found["b"]["top1"] == right[:, 1].mean()
    assert any(sentence in line for line in report.compared_lines(found))
