"""What the plan says, in words."""

import pytest

from cct_tf import config
from cct_tf.plan import make_plan
from cct_tf.training import report


def _planned(images, **flags):
    settings = config.from_dict({"workdir": "x", "epochs": 10, "batch_size": 10} | flags)
    return settings, make_plan(settings.optim, settings.run, images)


@pytest.mark.parametrize(("images", "flags", "expected"), [
    (200, {}, "every epoch (20 steps)"), (205, {}, "every epoch (about 20 steps)"),
    (200, {"eval_every_epochs": 2}, "every 2 epochs (40 steps)"),
    (200, {"eval_every_epochs": 0.5}, "every 0.5 epochs (10 steps)"),
    (200, {"eval_every_steps": 7}, "every 7 steps"), (200, {"eval_every_steps": 1}, "after every step"),
    (75, {"batch_size": 128}, "after every step"), (200, {"eval_every_epochs": 10}, "after the last step")])
def test_the_plan_says_how_often_it_evaluates(images, flags, expected):
    settings, plan = _planned(images, **flags)
    assert report._how_often(settings.run, plan) == expected


def test_a_batch_larger_than_the_data_set_is_noted():
    assert report._batch(*_planned(75, batch_size=76)) == [
        "--batch_size=76 is more than the 75 training images: a step takes some of them more than once, and is more "
        "than an epoch"]
    assert report._batch(*_planned(75, batch_size=75)) == []
