"""Epochs to steps, and when things are due."""

import math
from fractions import Fraction

import pytest

from cct_tf.errors import UserError
from cct_tf.settings import config, plan


def _plan(n=1000, **values):
    settings = config.from_dict(values)
    return plan.make_plan(settings.optim, settings.run, n)


def test_total_steps_count_the_cooldown_and_round_up():
    made = _plan(n=50_000, epochs=300.0, cooldown_epochs=10.0, batch_size=128)
    assert made.total_steps == math.ceil(310 * 50_000 / 128)


def test_train_steps_is_the_whole_run():
    made = _plan(n=1000, train_steps=100, cooldown_epochs=2.0, batch_size=100)
    assert made.total_steps == 100
    assert made.schedule_epochs == 8


def test_epochs_are_decimal_fractions_not_binary_ones():
    # 0.3 epochs of 1000 images at batch 10 are 30 steps; ceil of the binary product would be 31.
    assert _plan(n=1000, epochs=0.3, batch_size=10).total_steps == 30


def test_cooldown_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="--cooldown_epochs"):
        _plan(n=1000, train_steps=5, cooldown_epochs=2.0, batch_size=100)


@pytest.mark.parametrize(("n", "batch", "every"), [(1000, 128, 1.0), (100, 128, 1.0), (1000, 7, 0.5), (50, 50, 3.0)])
def test_evaluation_is_due_at_the_first_step_that_completes_a_multiple_of_the_epochs(n, batch, every):
    made = _plan(n=n, batch_size=batch, eval_every_epochs=every, epochs=10.0)
    due = [step for step in range(1, made.total_steps + 1) if made.evaluate.is_due(step)]
    seen, expected = 0, []
    for step in range(1, made.total_steps + 1):
        multiple = int(Fraction(step * batch) / (Fraction(str(every)) * n))
        if multiple > seen or step == made.total_steps:
            expected.append(step)
        seen = multiple
    assert due == expected


def test_next_due_is_the_next_step_that_is_due():
    made = _plan(n=1000, batch_size=128, eval_every_epochs=0.7, epochs=5.0, log_every_steps=3)
    for gate in (made.log, made.evaluate, made.checkpoint):
        for step in range(made.total_steps):
            later = [s for s in range(step + 1, made.total_steps + 1) if gate.is_due(s)]
            assert gate.next_due(step) == later[0]


def test_eval_every_steps_wins():
    assert _plan(eval_every_steps=7, eval_every_epochs=1.0).evaluate.every == 7


def test_batch_larger_than_the_data_set_works():
    made = _plan(n=10, batch_size=25, epochs=5.0)
    assert made.total_steps == 2
    assert made.epoch_of(1) == Fraction(5, 2)


@pytest.mark.parametrize(("epochs", "cooldown", "last", "start"), [
    (10.0, 0.0, 0.0, 100), (10.0, 0.0, 1.0, 90), (10.0, 2.0, 3.0, 90), (10.0, 0.0, 0.25, 97), (10.0, 0.0, 10.0, 0)])
def test_the_last_epochs_are_those_at_the_end_of_the_whole_run(epochs, cooldown, last, start):
    """10 steps an epoch; a part of a step counts as one."""
    chosen = config.from_dict({"batch_size": 100, "epochs": epochs, "cooldown_epochs": cooldown, "average_last": last})
    made = plan.make_plan(chosen.optim, chosen.run, 1000)
    assert plan.average_start(chosen.optim, made.total_steps, 1000) == start


def test_an_average_of_more_than_the_run_is_refused():
    chosen = config.from_dict({"batch_size": 100, "train_steps": 20, "average_last": 2.1})
    with pytest.raises(UserError, match="--average_last: expected at most the whole run of 20 steps .* found 2.1"):
        plan.make_plan(chosen.optim, chosen.run, 1000)
