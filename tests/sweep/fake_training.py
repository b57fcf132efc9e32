"""What stands for `cct_tf.train` and `cct_tf.evaluate` in the tests of sweeps: a work folder in a second.

Nine evaluations, a function of the flags; one that was stopped goes on from its last checkpoint. By its learning rate
a training ends otherwise: above 9 always with status 75, above 8 at its first start; between 7 and 8 with status 2.
"""

import json
import sys
import time

from cct_tf.machine.interrupts import Interrupts
from cct_tf.runs import run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.settings import flags

EVALUATIONS, SECONDS = 9, 0.05


def accuracy(rate, seed, place):
    """Of evaluation `place` (from 1): best near a rate of 3, better with time, a little different by seed."""
    return round(0.9 - 0.02 * abs(rate - 3) - 0.4 / place + 0.003 * ((seed * 7 + place * 3) % 5), 6)


def _checkpoint(workdir, settings, step, splits, finished):
    folder = workdir.checkpoints / f"step_{step:08d}"
    if folder.exists():
        return
    partial = workdir.path / f".partial-{step}"
    partial.mkdir(exist_ok=True)
    resolved = Resolved(16, (), splits, total_steps=10 * EVALUATIONS)
    run_record.write_record(partial, run_record.Record(settings.as_dict(), resolved, step, RunStatus(step), finished,
                                                       {}))
    folder.parent.mkdir(exist_ok=True)
    partial.rename(folder)


def train(settings, workdir):
    rate, seed = settings.optim.learning_rate, settings.run.seed
    with open(workdir.path / "starts.txt", "a", encoding="utf-8") as file:
        file.write("start\n")
    starts = len((workdir.path / "starts.txt").read_text(encoding="utf-8").splitlines())
    if rate > 9 or (rate > 8 and starts == 1):
        print("stopped: storage: No space left on device")
        return 75
    if 7 < rate < 8:
        print("error: --learning_rate: expected a loss that is finite, found 20 updates in a row without")
        return 2
    steps = [run_record.step_of(path) for path in run_record.list_checkpoints(workdir.checkpoints)]
    metrics, first = MetricsFile(workdir.metrics), len(steps)
    metrics.cut(10 * first, 10 * max(first - 1, 0))
    splits = {"train": 9, "validation": 9, "test": 9}
    for place in range(max(first, 1), EVALUATIONS + 1):
        time.sleep(SECONDS)
        _checkpoint(workdir, settings, 10 * place, splits, False)
        metrics.write(10 * place, {"eval/top1": accuracy(rate, seed, place), "eval/loss": 1.0})
    _checkpoint(workdir, settings, 10 * EVALUATIONS + 1, splits, True)
    return 0


def main():
    argv = sys.argv[1:]
    if "--split=test" in argv:
        print(json.dumps({"top1": 0.5, "loss": 1.0, "examples": 9}))
        return 0
    settings = flags.load_config(argv)
    workdir = Workdir(settings.run.workdir)
    interrupts = Interrupts().install()
    with workdir.locked(print):
        status = train(settings, workdir)
    interrupts.uninstall()
    return status


if __name__ == "__main__":
    sys.exit(main())
