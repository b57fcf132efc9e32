"""Which average of the weights a run keeps, and what it is called. No TensorFlow here.

    kind               the flag that asks for it                  evaluation, beside `eval` of the weights
    "ema"              --ema_decay                                eval_ema
    "last"             --average_last                             eval_average
    "schedule_free"    --optimizer=schedule_free_adamw            eval, in their place

A checkpoint holds the averages of every kind in the same place. For `--weights` the exponential one is "ema", others
are "average".
"""

SCHEDULE_FREE = "schedule_free_adamw"  # the optimizer
FLAGS = {"ema": "--ema_decay", "last": "--average_last", "schedule_free": f"--optimizer={SCHEDULE_FREE}"}
WEIGHTS = {"raw": "raw", "ema": "EMA", "average": "averaged"}  # what --weights chooses, for people


def kind(values):
    """The kind of average of a flat dict of a config, of any version; None without one."""
    if values.get("ema_decay"):
        return "ema"
    if values.get("average_last"):
        return "last"
    return "schedule_free" if values.get("optimizer") == SCHEDULE_FREE else None


def weights(kind):
    """What `--weights=auto` is with an average of this kind, or None: a key of `WEIGHTS`."""
    return {None: "raw", "ema": "ema"}.get(kind, "average")


def judged(kind):
    """The name of the evaluation that chooses the best."""
    return {"ema": "eval_ema", "last": "eval_average"}.get(kind, "eval")
