"""How much of the bare step's speed real training keeps: data, logging and checkpoints, in a temporary work folder.

The loop and the bare step take turns in one process, on the same compiled step. Both have some time first that doesn't
count: the pipeline's buffers fill while the bare step runs, and that must neither slow the one nor help the other. No
evaluation falls into it.
"""

import contextlib
import dataclasses
import pathlib
import signal
import statistics
import tempfile
import time

from cct_tf.benchmark import machine, measuring
from cct_tf.benchmark.step import Steps, describe, model_gflops
from cct_tf.errors import Interrupted
from cct_tf.machine.console import Console
from cct_tf.machine.interrupts import Interrupts
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.training import loop
from cct_tf.training.preparation import prepare
from cct_tf.training.resume import find_start

_ENDLESS = 10**9  # steps
_WARM_UP = 3  # calls: the first before the chunk that compiles, the next two after a chunk of one step each


class Turns:
    """What a run does between its chunks of steps, see `Training.run`: that is when the bare step has its turn. After
    the last one it asks the run to stop.

    Args:
        training: `training.loop.Training`.
        interrupts: `interrupts.Interrupts` of the run, not installed.
        repeats: int; seconds: float, of a turn.

    Attributes:
        loop, step: images/s of each turn.
        measured: set of the steps completed in the loop's turns.
    """

    def __init__(self, training, interrupts, repeats, seconds):
        self._training, self._interrupts, self._repeats, self._seconds = training, interrupts, repeats, seconds
        self._calls, self._bare, self._first, self._began = 0, None, None, 0.0
        self.loop, self.step, self.measured = [], [], set()

    def __call__(self):
        self._calls += 1
        if self._calls == _WARM_UP:
            self._bare = self._bare_step()
            self._began = time.perf_counter()
        elif self._calls > _WARM_UP and time.perf_counter() - self._began >= self._seconds:
            self._next_part()
        if len(self.step) == self._repeats:
            self._interrupts.requested = signal.SIGTERM

    def _next_part(self):
        """What comes after a part of at least the wanted length: the turn that counts, or the bare step's."""
        step = int(self._training.network.state.step.numpy())
        if self._first is None:
            self._first = step
        else:
            taken = time.perf_counter() - self._began
            self.loop.append((step - self._first) * self._training.config.optim.batch_size / taken)
            self.measured.update(range(self._first + 1, step + 1))
            self._first = None
            with self._counters_kept():
                self._bare.measure(self._seconds / 2)
                self.step.append(self._bare.measure(self._seconds))
        self._began = time.perf_counter()

    def _bare_step(self):
        training = self._training
        network, batch = training.network, next(iter(training.batches(0, 1)))
        steps = Steps(training.devices, network.train_step, network.state, batch)
        with self._counters_kept():
            steps.warm_up(self._seconds)
        return steps

    @contextlib.contextmanager
    def _counters_kept(self):
        """The bare step trains the loop's network, but its steps are not the loop's."""
        variables = [*self._training.network.state.variables, self._training.network.train_step.wait_seconds]
        values = [variable.numpy() for variable in variables]
        yield
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _in_folder(config, folder):
    """The config of a run in a temporary folder that never ends and never evaluates."""
    run = dataclasses.replace(config.run, workdir=folder, eval_every_steps=_ENDLESS)
    return dataclasses.replace(config, run=run, optim=dataclasses.replace(config.optim, train_steps=_ENDLESS))


def measure(config, console, repeats, seconds):
    """Measure real training of a config in turn with its bare step.

    Args: as `benchmark.step.measure`.

    Returns:
        dict: "images_per_second", "lowest", "highest" of the loop; "step_images_per_second"; "percent_of_step", the
        median of the rounds, and their "ratios"; "steps" of the loop's turns, "records" and "checkpoints" that fell
        into them; "timing", the means of what the loop logged of itself; "model_gflops", "peak_memory_gib", and what
        `step.describe` tells.
    """
    with tempfile.TemporaryDirectory(prefix="cct_benchmark_") as folder:
        chosen, workdir, quiet = _in_folder(config, folder), Workdir(pathlib.Path(folder)), Console(quiet=True)
        with console.phase(f"opening {config.data.dataset}, building {config.model.model}"):
            training = loop.Training(prepare(chosen, workdir, find_start(chosen, workdir, quiet), quiet))
        interrupts = Interrupts()
        turns = Turns(training, interrupts, repeats, seconds)
        with console.phase("measuring the loop and the bare step in turn"), contextlib.suppress(Interrupted):
            training.run(interrupts, between_chunks=turns)
        records = MetricsFile(workdir.metrics).read()
    return _result(training, turns, [record for record in records if record["step"] in turns.measured])


def _result(training, turns, records):
    shares = measuring.pairs(turns.loop, turns.step)
    found = measuring.spread(turns.loop)
    model, plan = training.network.model, training.plan
    return found | {
        "step_images_per_second": statistics.median(turns.step), "percent_of_step": 100 * shares["ratio"],
        "ratios": shares["ratios"], "steps": len(turns.measured), "records": len(records),
        "checkpoints": sum(plan.checkpoint.is_due(step) for step in turns.measured),
        "timing": {name: statistics.fmean(record[f"timing/{name}"] for record in records)
                   for name in ("images_per_second", "step_ms", "input_wait_fraction") if records},
        "model_gflops": model_gflops(model.variant, model.num_classes, found["images_per_second"]),
        "peak_memory_gib": machine.peak_memory_gib(training.devices)} | describe(
            training.config, training.devices, model, training.network.tuning)
