"""The learning rate at every step against independent formulas."""

import math

import pytest

from cct_tf import config, plan
from cct_tf.optim.schedules import learning_rate

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
