import math

import numpy as np
import pytest
from scipy import stats

from cct_tf.runs.workdir import MetricsFile
from cct_tf.sweep import range_test, results, table, training


def test_the_best_is_the_first_of_equals():
    assert results.best_of([0.1, 0.4, math.nan, 0.4], maximize=True) == (2, 0.4)
    assert results.best_of([0.3, 0.1, 0.1], maximize=False) == (2, 0.1)
    assert results.best_of([math.nan], maximize=True)[0] == 0


@pytest.mark.parametrize(("flags", "tag"), [
    ({}, "eval/top1"), ({"ema_decay": 0.9}, "eval_ema/top1"), ({"average_last": 0.5}, "eval_average/top1"),
    ({"best_metric": "loss"}, "eval/loss"), ({"task": "multilabel"}, "eval/map")])
def test_a_trial_is_judged_by_what_chooses_its_best(flags, tag, tmp_path):
    names = [f"{kind}/{metric}" for kind in ("eval", "eval_ema", "eval_average") for metric in ("top1", "loss", "map")]
    metrics, found = MetricsFile(tmp_path / "metrics.jsonl"), training.Evaluations(tmp_path, {"ema_decay": 0.0} | flags)
    assert found.read() == []
    metrics.write(3, {"train/loss": 1.0})
    metrics.write(4, {name: place / 100 for place, name in enumerate(names)})
    assert found.read() == [(4, names.index(tag) / 100)]
    metrics.write(8, dict.fromkeys(names, math.nan))
    step, value = found.read()[1]
    assert step == 8 and math.isnan(value)


def test_finalists_are_ranked_by_mean_and_those_with_failures_last():
    ranking = results.rank({4: (0.8, 0.9), 1: (0.9, 0.9), 7: (0.99, math.nan)}, maximize=True)
    assert [each.number for each in ranking] == [1, 4, 7]
    assert ranking[1].difference == pytest.approx(-0.05) and ranking[2].difference == pytest.approx(0.09)
    assert ranking[2].p_value is None and ranking[0].difference is None  # one pair has no spread
    assert [each.number for each in results.rank({0: (0.2,), 1: (0.1,)}, maximize=False)] == [1, 0]


def test_the_paired_test_is_scipys():
    a, b = np.array([0.91, 0.93, 0.90, 0.95]), np.array([0.90, 0.905, 0.91, 0.93])
    assert results.paired_t(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert results.paired_t([0.5, 0.5]) is None and results.paired_t([0.5]) is None


def test_the_table_of_finalists_says_what_the_difference_is():
    lines = table.finalist_lines(results.rank({4: (0.8, 0.91), 1: (0.9, 0.9)}, maximize=True), "top1")
    assert lines[1].split()[:5] == ["trial", "1", "2", "90.00%", "0.00"] and lines[2].split()[3] == "85.50%"
    assert "-4.50 points, p = " in lines[2]


def test_rates_rise_by_one_factor():
    found = range_test.rates(1e-6, 1.0, 7)
    np.testing.assert_allclose(found, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_smoothed_loss_is_a_weighted_mean():
    losses = [3.0, 1.0, 2.0]
    weights = [0.95**2, 0.95, 1.0]
    assert range_test.smoothed(losses)[2] == pytest.approx(np.average(losses, weights=weights))
    assert range_test.smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss():
    tried = range_test.rates(1e-6, 1.0, 100)
    lowest = [abs(place - 60) / 60 + 1 for place in range(100)]
    assert range_test.suggest(tried, lowest) == pytest.approx(tried[60] / 10)
    assert range_test.suggest(tried, sorted(lowest)) is None  # lowest at the start
    assert range_test.suggest(tried, sorted(lowest, reverse=True)) is None  # still falling at the end
