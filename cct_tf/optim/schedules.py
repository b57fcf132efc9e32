"""Learning rate as a pure function of the step. No TensorFlow here.

The cosine (arXiv:1608.03983 Eq. 5, one period) counts from step 0 and the warm-up covers its start, as in timm's
`CosineLRScheduler` with `warmup_prefix=False`. With `warmup_prefix` it counts from the end of the warm-up and still
ends at `epochs`, as in the authors' AutoAugment runs (SHI-Labs/Compact-Transformers, examples/main.py,
`adjust_learning_rate`). With timm's own `warmup_prefix` the cosine would end later, by the length of the warm-up.
The linear schedule follows the same rules.

wsd (warm-up, stable, decay: MiniCPM, arXiv:2404.06395) stays at the peak until the last `decay_share` of
`epochs`. The shape 1-sqrt is that of arXiv:2405.18392, where it was better than the linear one.
"""

import math


def rate_scale(optim):
    """What `learning_rate_scaling` multiplies the learning rates by: batch_size / 256 (arXiv:1706.02677), or 1."""
    return optim.batch_size / 256 if optim.learning_rate_scaling == "linear" else 1.0


def learning_rate(optim, plan, step):
    """The learning rate of update `step`.

    Args:
        optim: `config.OptimConfig`.
        plan: `plan.Plan`.
        step: int, from 0: updates done or skipped before this one.

    Returns:
        float.
    """
    whole_epoch = math.floor(plan.epoch_of(step))
    epoch = whole_epoch if optim.schedule_unit == "epoch" else float(plan.epoch_of(step))
    if epoch >= optim.warmup_epochs:
        rate = _after_warmup(optim, plan, epoch)
    elif optim.warmup_shape == "reciprocal":
        rate = optim.learning_rate / (optim.warmup_epochs - whole_epoch)
    else:
        share = epoch / optim.warmup_epochs
        rate = optim.warmup_learning_rate + share * (optim.learning_rate - optim.warmup_learning_rate)
    return rate_scale(optim) * rate  # scales all three: learning rate, warm-up rate, minimum


def _after_warmup(optim, plan, epoch):
    if optim.schedule == "constant":
        return optim.learning_rate
    length = float(plan.schedule_epochs)
    if epoch >= length:
        return optim.min_learning_rate
    return optim.min_learning_rate + _left(optim, epoch, length) * (optim.learning_rate - optim.min_learning_rate)


def _left(optim, epoch, length):
    """How much of the way from the lowest rate to the peak is left, in [0, 1], before the end of the schedule."""
    start = optim.warmup_epochs if optim.warmup_prefix else 0.0
    if optim.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (epoch - start) / (length - start)))
    if optim.schedule == "linear":
        return (length - epoch) / (length - start)
    if optim.schedule != "wsd":
        raise ValueError(f"schedule: expected one that is computed here, found {optim.schedule!r}")
    left = min((length - epoch) / (optim.decay_share * length), 1.0)
    return left if optim.decay_shape == "linear" else 1.0 - math.sqrt(1.0 - left)
