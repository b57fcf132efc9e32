"""How long a run takes to its first completed step, seen from outside: `python -m cct_tf.train`, again and again.

No TensorFlow here: the process that watches leaves the machine to the one that is watched.
"""

import contextlib
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from cct_tf.benchmark import machine, measuring
from cct_tf.errors import WRONG_INPUT, UserError

_PHASE = re.compile(r"(.+?) \.\.\. +([0-9.]+) s")  # as `console.Console.phase` ends a line
_LAST = "compiling the training step"  # whose first chunk is one step
_LEAVING_SECONDS = 60


def parse_phase(line):
    """(name, seconds) of a line that ends a phase of the console, or None."""
    match = _PHASE.fullmatch(line.strip())
    return (match[1], float(match[2])) if match else None


def time_one(arguments):
    """Start a training and end it after its first step.

    Args:
        arguments: list of flags for `cct_tf.train`.

    Returns:
        (seconds from the process's start to the end of the first step, {phase: seconds}).

    Raises:
        UserError: what the training says if it refuses its input.
    """
    began, phases = time.perf_counter(), {}
    alone = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}  # else it waits for the others
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
            [sys.executable, "-m", "cct_tf.train", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=errors, text=True, env=alone) as process:
        try:
            for line in process.stdout:
                if phase := parse_phase(line):
                    phases[phase[0]] = phase[1]
                if _LAST in phases:
                    return time.perf_counter() - began, phases
            process.wait()
            errors.seek(0)
            said = errors.read().strip()
            if process.returncode == WRONG_INPUT:
                raise UserError(said.removeprefix("error: "))
            raise RuntimeError(f"cct_tf.train ended with status {process.returncode} before its first step: {said}")
        finally:
            _end(process)


def _end(process):
    """As a person would, so that compiled code is kept; by force if that takes too long."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LEAVING_SECONDS)
    process.kill()


def measure(flagfile, console, repeats, cached=False):
    """Measure the start of a training.

    Args:
        flagfile: text of a flagfile, the config; its work folder is left alone.
        console: `console.Console`.
        repeats: int.
        cached: whether compiled code is kept, in a temporary folder: then the first starts and later ones are told
            apart.

    Returns:
        dict: "seconds", "lowest", "highest", "phases" {name: median} of a usual start, with compiled code at hand where
        it is kept; "cold", the same of starts with an empty cache, or None; and the machine.
    """
    with tempfile.TemporaryDirectory(prefix="cct_benchmark_") as folder:
        folder = pathlib.Path(folder)
        (folder / "config.cfg").write_text(flagfile, encoding="utf-8")

        def start(kind, number, cache):
            with console.phase(f"starting a training{f', {kind} cache' if cached else ''}"):
                return time_one([f"--flagfile={folder / 'config.cfg'}", f"--workdir={folder / f'{kind}_{number}'}",
                                 f"--compile_cache={cache}"])

        if not cached:
            usual = [start("usual", number, "off") for number in range(repeats)]
            return _summary(usual) | {"cold": None} | machine.describe()
        cold, warm = [], []
        for number in range(repeats):
            for kind, starts in (("cold", cold), ("warm", warm)):
                starts.append(start(kind, number, folder / f"cache_{number}"))
    return _summary(warm) | {"cold": _summary(cold)} | machine.describe()


def _summary(starts):
    """Of (seconds, phases) of several starts."""
    names = dict.fromkeys(name for _, phases in starts for name in phases)
    return measuring.spread([seconds for seconds, _ in starts], "seconds") | {
        "phases": {name: statistics.median(phases.get(name, 0.0) for _, phases in starts) for name in names}}
