"""Learning rate as a pure function of the step. No TensorFlow here.

Warm-up is linear and covers the start of the schedule: the cosine counts from step 0, as in timm's `CosineLRScheduler`
with `warmup_prefix=False`. Cosine: arXiv:1608.03983 Eq. 5, one period.
"""

import math


def learning_rate(optim, plan, step):
    """The learning rate of update `step`.

    Args:
        optim: `config.OptimConfig`.
        plan: `plan.Plan`.
        step: int, from 0: updates done or skipped before this one.

    Returns:
        float.
    """
    epoch = float(plan.epoch_of(step))
    if optim.schedule_unit == "epoch":
        epoch = math.floor(plan.epoch_of(step))
    if epoch < optim.warmup_epochs:
        share = epoch / optim.warmup_epochs
        return optim.warmup_learning_rate + share * (optim.learning_rate - optim.warmup_learning_rate)
    if optim.schedule == "constant":
        return optim.learning_rate
    length = float(plan.schedule_epochs)
    if epoch >= length:
        return optim.min_learning_rate
    cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / length))
    return optim.min_learning_rate + cosine * (optim.learning_rate - optim.min_learning_rate)
