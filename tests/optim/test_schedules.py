"""The learning rate at every step against independent formulas."""

import math

import pytest

from cct_tf.optim.schedules import learning_rate
from cct_tf.settings import config, plan

PAPER = {"batch_size": 128, "epochs": 30.0, "cooldown_epochs": 3.0, "warmup_epochs": 4.0, "learning_rate": 5.5e-4,
         "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-6}


def _rates(n, **values):
    settings = config.from_dict(values)
    made = plan.make_plan(settings.optim, settings.run, n)
    return [learning_rate(settings.optim, made, step) for step in range(made.total_steps)]


def test_per_epoch_rates_are_those_of_timms_cosine_scheduler():
    """timm's CosineLRScheduler(t_initial=30, lr_min=1e-5, warmup_t=4, warmup_lr_init=1e-6), stepped once an epoch."""
    rates = _rates(1000, **PAPER, schedule_unit="epoch")
    for step, rate in enumerate(rates):
        t = step * 128 // 1000
        if t < 4:
            expected = 1e-6 + t * (5.5e-4 - 1e-6) / 4
        elif t < 30:
            expected = 1e-5 + 0.5 * (5.5e-4 - 1e-5) * (1 + math.cos(math.pi * t / 30))
        else:
            expected = 1e-5
        assert rate == pytest.approx(expected, rel=1e-12)


def test_per_step_rates_follow_the_same_curves():
    for step, rate in enumerate(_rates(1000, **PAPER)):
        t = step * 128 / 1000
        warm = 1e-6 + t * (5.5e-4 - 1e-6) / 4
        cosine = 1e-5 + (5.5e-4 - 1e-5) * math.cos(math.pi * min(t, 30) / 60) ** 2
        assert rate == pytest.approx(warm if t < 4 else cosine, rel=1e-9)


def test_constant_stays_after_the_warmup():
    rates = _rates(1000, batch_size=100, epochs=5.0, schedule="constant", learning_rate=1e-3, warmup_epochs=1.0)
    assert rates[:10] == pytest.approx([1e-4 * step for step in range(10)])
    assert set(rates[10:]) == {1e-3}


def test_warmup_longer_than_the_run_is_all_there_is():
    rates = _rates(1000, batch_size=100, epochs=1.0, learning_rate=1e-3, warmup_epochs=10.0)
    assert rates == pytest.approx([1e-5 * step for step in range(10)])


AUTOAUGMENT = {"batch_size": 128, "epochs": 200.0, "learning_rate": 5e-4, "warmup_epochs": 5.0,
               "warmup_shape": "reciprocal", "warmup_prefix": True}


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_autoaugment_recipe_is_the_authors(unit):
    """examples/main.py, adjust_learning_rate(epoch), 50,000 images; per step the cosine alone moves within epochs."""
    rates = _rates(50_000, **AUTOAUGMENT, schedule_unit=unit)
    assert len(rates) == 78_125
    for step, rate in enumerate(rates):
        whole = step * 128 // 50_000
        epoch = whole if unit == "epoch" else step * 128 / 50_000
        expected = 5e-4 / (5 - whole) if whole < 5 else 5e-4 * math.cos(math.pi * (epoch - 5) / 390) ** 2
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_prefixed_cosine_starts_at_the_peak_and_ends_where_the_other_does():
    """Linear warm-up over 4 of 30 epochs, then half a period over 26, at 8 steps an epoch; 3 epochs of cool-down."""
    rates = _rates(1024, **PAPER, warmup_prefix=True)
    for step, rate in enumerate(rates):
        t = step / 8
        cosine = 1e-5 + (5.5e-4 - 1e-5) * math.cos(math.pi * (min(t, 30) - 4) / 52) ** 2
        assert rate == pytest.approx(1e-6 + t * 5.49e-4 / 4 if t < 4 else cosine, rel=1e-9)
    assert rates[32] == 5.5e-4 and set(rates[240:]) == {1e-5}


def test_a_prefix_that_fills_the_schedule_leaves_the_lowest_rate():
    rates = _rates(1000, batch_size=100, epochs=1.0, cooldown_epochs=2.0, warmup_epochs=2.0, warmup_prefix=True,
                   learning_rate=1e-3, min_learning_rate=1e-5)
    assert rates[:20] == pytest.approx([5e-5 * step for step in range(20)]) and set(rates[20:]) == {1e-5}


@pytest.mark.parametrize(("batch_size", "factor"), [(64, 0.25), (256, 1.0), (1024, 4.0)])
def test_linear_scaling_multiplies_all_three_rates(batch_size, factor):
    """arXiv:1706.02677: as if the flags had been the scaled rates."""
    names = ("learning_rate", "min_learning_rate", "warmup_learning_rate")
    given = PAPER | {"batch_size": batch_size}
    scaled = given | {name: factor * given[name] for name in names}
    assert (_rates(4096, **given, learning_rate_scaling="linear")
            == pytest.approx(_rates(4096, **scaled), rel=1e-12))


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_linear_falls_by_the_same_amount_each_time(unit, prefix):
    """From 5.5e-4 at epoch 0, or at the end of the warm-up, to 1e-5 at epoch 30; 8 steps an epoch."""
    rates = _rates(1024, **PAPER, schedule="linear", schedule_unit=unit, warmup_prefix=prefix)
    begin = 4 if prefix else 0
    for step, rate in enumerate(rates):
        t = step // 8 if unit == "epoch" else step / 8
        line = 5.5e-4 - 5.4e-4 * (t - begin) / (30 - begin)
        expected = 1e-6 + t * 5.49e-4 / 4 if t < 4 else line if t < 30 else 1e-5
        assert rate == pytest.approx(expected, rel=1e-9)
    if prefix:
        assert rates[32] == 5.5e-4


@pytest.mark.parametrize(("shape", "share"), [("linear", 0.2), ("1-sqrt", 0.2), ("linear", 1.0), ("1-sqrt", 0.5)])
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_wsd_is_constant_until_its_decay(unit, shape, share):
    """MiniCPM's (arXiv:2404.06395), with the shapes of arXiv:2405.18392."""
    rates = _rates(1024, **PAPER, schedule="wsd", schedule_unit=unit, decay_share=share, decay_shape=shape)
    begin = 30 * (1 - share)
    for step, rate in enumerate(rates):
        t = step // 8 if unit == "epoch" else step / 8
        if t < 4:
            expected = 1e-6 + t * 5.49e-4 / 4
        elif t <= begin:
            expected = 5.5e-4
        else:
            done = min((t - begin) / (30 - begin), 1)
            expected = 1e-5 + 5.4e-4 * (1 - (done if shape == "linear" else math.sqrt(done)))
        # Of the root near 0 and 1 half of the digits are left.
        assert rate == pytest.approx(expected, rel=1e-9 if shape == "linear" else 1e-6)
    assert set(rates[240:]) == {1e-5}


def test_wsd_of_a_whole_share_is_linear():
    wsd, linear = ({"schedule": "wsd", "decay_share": 1.0}, {"schedule": "linear"})
    assert _rates(1024, **PAPER, **wsd) == pytest.approx(_rates(1024, **PAPER, **linear), rel=1e-12)
