"""The metric that chooses the best checkpoint."""

import math

import pytest

from cct_tf.settings import config
from cct_tf.settings.measure import Measure, measure_of


def test_a_run_without_task_is_chosen_by_top_1():
    assert measure_of({}) == measure_of({"task": "single", "best_metric": None}) == Measure("top1", "top1")
    several = {"task": "multilabel"}
    assert measure_of(several) == config.from_dict(several).measure == Measure("map", "map")
    assert config.from_dict({"best_metric": "macro_f1"}).measure == Measure("macro_f1", "top1")


def test_the_task_and_the_metric_define_the_result_and_runs_before_them_had_the_defaults():
    now = config.from_dict({}).as_dict()
    old = {name: value for name, value in now.items() if name not in ("task", "best_metric")}
    assert config.differences(old, now) == ([], [])
    other = config.from_dict({"task": "multilabel", "best_metric": "loss"}).as_dict()
    assert config.differences(now, other) == ([("task", "single", "multilabel"), ("best_metric", None, "loss")], [])


@pytest.mark.parametrize(("name", "new", "old", "is_better"), [
    ("top1", 0.8, 0.7, True), ("top1", 0.7, 0.7, False), ("top1", 0.6, 0.7, False),
    ("loss", 0.6, 0.7, True), ("loss", 0.7, 0.7, False), ("loss", 0.8, 0.7, False),
    ("loss", 0.8, math.nan, True), ("loss", math.nan, 0.8, False), ("loss", math.nan, math.nan, False)])
def test_higher_is_better_but_of_the_loss_and_ties_are_not(name, new, old, is_better):
    assert Measure(name, "top1").is_better({name: new}, {name: old}) is is_better
    assert Measure(name, "top1").is_better({name: new}, None)


def test_words_of_an_evaluation():
    values = {"step": 3, "top1": 0.5, "loss": 0.25, "balanced_accuracy": 0.75}
    assert Measure("top1", "top1").words(values) == Measure("loss", "top1").words(values) == "top-1 50.00%, loss 0.2500"
    assert Measure("balanced_accuracy", "top1").words(values) == (
        "top-1 50.00%, balanced accuracy 75.00%, loss 0.2500")
    assert Measure("f1", "map").words({"map": 1.0, "loss": 0.0, "f1": 0.5}) == "mAP 100.00%, F1 50.00%, loss 0.0000"
