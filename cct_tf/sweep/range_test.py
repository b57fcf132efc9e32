"""The learning-rate range test (Smith, arXiv:1506.01186): one short run whose rate rises exponentially.

The rule of the suggestion: the training loss of each step is smoothed (an exponential average, corrected for its
start), and a tenth of the rate at which it is lowest is suggested; where the loss falls to the end of the range, there
is no suggestion. The run stops when the smoothed loss is four times its lowest. The network is not kept: the folder
gets range_test.json and range_test.png, nothing that `cct_tf.train` would go on from.
"""

import dataclasses
import json
import math

from cct_tf.errors import UserError
from cct_tf.machine import gpus, memory, runtime
from cct_tf.runs.workdir import Workdir
from cct_tf.settings.config import FIELDS

_SMOOTHING = 0.95
_DIVERGED = 4.0  # times the lowest
_SHARE = 0.1  # of the rate at the lowest
_AROUND = 10.0  # the range to search is the suggestion divided and multiplied by this
_MARGIN = 0.05  # of the steps: a lowest loss so near to the end is not known to be one


def parse(text):
    """(low, high) of the flag.

    Raises:
        UserError: it is no range.
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = math.nan
    if not (0 < low < high and math.isfinite(high)):
        raise UserError(f"--lr_range_test: expected LOW:HIGH, learning rates above 0, LOW below HIGH, found {text!r}")
    return low, high


def rates(low, high, steps):
    """The learning rate of each step, a list of floats: evenly in the logarithm, both ends included."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def smoothed(losses):
    """The exponential average of the losses so far, at each of them, divided by the sum of its weights."""
    found, average = [], 0.0
    for count, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        found.append(average / (1 - _SMOOTHING ** count))
    return found


def suggest(tried, losses):
    """The learning rate by the rule above; None where the losses don't tell.

    Args:
        tried: the rate of each step; losses: the smoothed loss of each.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__) if losses else 0
    return _SHARE * tried[lowest] if _MARGIN * len(losses) < lowest < len(losses) - 1 - _MARGIN * len(losses) else None


def run(config, limits, steps, console):
    """Run the test in the config's work folder, which has to be new or that of such a test.

    Args:
        config: `config.Config`.
        limits: (low, high).
        steps: int.
        console: `console.Console`.

    Returns:
        The suggestion, a float; None without.
    """
    workdir = Workdir(config.run.workdir)
    if (workdir.path / "sweep.json").exists():
        raise UserError(f"--workdir: expected a folder of its own, found a sweep in {workdir.path} (sweep.json)")
    workdir.create()
    scale = _scale(config.optim)
    with memory.named_when_out(memory.TRAINING, config.optim.batch_size):
        losses = _losses(config, workdir, [rate * scale for rate in rates(*limits, steps)], console)
    tried, average = rates(*limits, steps)[:len(losses)], smoothed(losses)
    found = suggest(tried, average)
    settings = {name: value for name, value in config.as_dict().items() if value != FIELDS[name].default}
    workdir.write_text(workdir.path / "range_test.json", json.dumps(
        {"suggestion": found, "config": settings, "learning_rate": tried, "loss": losses, "smoothed": average}) + "\n")
    _draw(workdir.path / "range_test.png", tried, losses, average, found)
    console.say("\n".join(_lines(workdir.path, tried, average, found, steps)))
    return found


def _scale(optim):
    from cct_tf.optim import schedules
    return schedules.rate_scale(optim)


def _lines(path, tried, average, found, steps):
    lowest = min(range(len(average)), key=average.__getitem__)
    lines = [f"{len(tried)} of {steps} steps, learning rates {tried[0]:.2g} to {tried[-1]:.2g}"
             + (": the loss rose to four times its lowest" if len(tried) < steps else "")]
    if found is None:
        lines.append("no suggestion: the smoothed loss is lowest at an end of the range "
                     f"({tried[lowest]:.2g}); take another range or more --range_steps")
    else:
        lines += [f"the smoothed loss is lowest, {average[lowest]:.4f}, at {tried[lowest]:.2g}; a tenth of it:",
                  f"  --learning_rate={found:.2g}",
                  f"  --learning_rate=log:{found / _AROUND:.2g}:{found * _AROUND:.2g}   for --space"]
    return lines + [f"wrote {path / 'range_test.png'} and range_test.json; the network is not kept"]


def _losses(config, workdir, tried, console):
    """Training loss of each step, until it has diverged."""
    gpus.choose(config.run.device)
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow(config.run.compile_cache, console.warn)
        from cct_tf.training import loop, preparation, resume
    optim = dataclasses.replace(config.optim, train_steps=len(tried), cooldown_epochs=0.0)
    config = dataclasses.replace(config, optim=optim)
    prepared = preparation.prepare(config, workdir, resume.Start(None, None), console)
    training = loop.Training(prepared)
    iterator = runtime.distribute(training.devices, training.batches(0, len(tried)), optim.batch_size)
    losses, state, step = [], training.network.state, training.network.train_step
    with console.phase(f"{len(tried)} steps at most"):
        for rate in tried:
            state.start_interval()
            step.run(iterator, [rate])
            losses.append(float(state.interval()["train/loss"]))
            average = smoothed(losses)
            if not math.isfinite(losses[-1]) or average[-1] > _DIVERGED * min(average):
                del losses[-1]
                break
    if len(losses) < 2:
        raise UserError(f"--lr_range_test: expected a finite loss at the lowest rate, {tried[0]:g}, found it diverging")
    return losses


def _draw(path, tried, losses, average, found):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cct_tf.pictures import plots
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(tried, losses, color="#9ecae1", linewidth=0.8, label="each step")
    axes.plot(tried, average, color="#1f77b4", label="smoothed")
    if found is not None:
        axes.axvline(found, color="#d62728", linestyle="--", label=f"suggestion {found:.2g}")
        axes.axvline(found / _SHARE, color="gray", linestyle=":", label=f"lowest at {found / _SHARE:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.set_ylim(0.95 * min(losses), 1.35 * max(average[0], *losses[:5]))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    plots.save(plots.as_array(figure), path)
