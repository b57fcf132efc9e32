"""What the plan says, in words."""

import numpy as np
import pytest

from cct_tf.augment import image_ops
from cct_tf.settings import config
from cct_tf.settings.plan import make_plan
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


@pytest.mark.parametrize(("images", "flags", "expected"), [
    (99, {"epochs": 1, "batch_size": 16}, "7 of 16 images (6.2 an epoch, 1.13 epochs)"),
    (200, {}, "200 of 10 images (20.0 an epoch, 10 epochs)"),
    (50_000, {"epochs": 5000, "batch_size": 128}, "1,953,125 of 128 images (390.6 an epoch, 5000 epochs)"),
    (200, {"epochs": 1}, "20 of 10 images (20.0 an epoch, 1 epoch)")])
def test_the_plan_counts_steps_and_epochs(images, flags, expected):
    _, plan = _planned(images, **flags)
    assert report._steps(plan) == expected


def test_a_batch_larger_than_the_data_set_is_noted():
    assert report._batch(*_planned(75, batch_size=76)) == [
        "--batch_size=76 is more than the 75 training images: a step takes some of them more than once, and is more "
        "than an epoch"]
    assert report._batch(*_planned(75, batch_size=75)) == []


@pytest.mark.parametrize(("sizes", "crop_pct", "expected"), [
    ([[375, 500], [500, 375], [375, 375]], 1.0, "75%"), ([[100, 300]], 0.875, "26%"), ([[224, 240]], 1.0, None),
    (np.zeros([0, 2]), 1.0, None)])
def test_the_plan_says_how_much_of_the_images_is_evaluated(sizes, crop_pct, expected):
    sizes = np.array(sizes, np.float64)
    notes = report._kept(image_ops.kept_area(sizes, 224, crop_pct))
    assert [f"{expected} of its area (median)" in note for note in notes] == [True] * (expected is not None)
    if expected:  # by the pixels that survive
        height, width = map(int, sizes[0])
        mask = image_ops.center_fit(np.ones([1, 4 * height, 4 * width, 3], np.uint8), 224, crop_pct)
        side = min(height, width) * 224 / int(224 / crop_pct)
        assert mask.shape[1] == 224 and abs(side**2 / (height * width) - float(expected[:-1]) / 100) < 0.01
