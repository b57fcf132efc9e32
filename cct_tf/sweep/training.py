"""One training of a sweep: `cct_tf.train` in a process of its own, watched from outside. No TensorFlow here.

Exact resume is the trainer's: the same command on the same work folder goes on. So a training that stops for a reason
outside of it is started again, and one that a killed sweep left behind is, too, by the next start of the sweep.
"""

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

from cct_tf.errors import OUTSIDE_FAULT, OutsideFault, UserError
from cct_tf.runs import run_record
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.settings import averages
from cct_tf.settings.measure import measure_of

_POLL_SECONDS = 0.2
_LEAVING_SECONDS = 120.0  # to finish a step and save
_TRIES, _PAUSE_SECONDS = 3, 5.0
_PR_SET_PDEATHSIG = 1
TRAIN, EVALUATE = ("-m", "cct_tf.train"), ("-m", "cct_tf.evaluate")  # what Python is given


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        status: its exit status; negative, the number of the signal that ended it; None where the watcher stopped it.
        said: its last line, or the line of its error.
    """

    status: int | None
    said: str

    @property
    def reason(self):
        """Why it failed, in words."""
        how = f"ended by {signal.Signals(-self.status).name}" if self.status < 0 else f"exit status {self.status}"
        return f"{how}: {self.said}" if self.said else how


class Evaluations:
    """The evaluations of a run, read from its work folder while it goes on.

    Args:
        workdir: pathlib.Path.
        config: flat dict of the run.
    """

    def __init__(self, workdir, config):
        self._workdir = Workdir(workdir)
        self._measure = measure_of(config)
        self._prefix = averages.judged(averages.kind(config))
        self._plan = self._seen = None
        self._read = []

    def read(self):
        """[(completed steps, value)] so far, in order; the value is NaN where it is not finite."""
        tag = f"{self._prefix}/{self._measure.name}"
        try:
            found = self._workdir.metrics.stat()
        except FileNotFoundError:
            return []
        if self._seen != (found.st_size, found.st_mtime_ns):  # a long file is not read again and again
            self._seen = found.st_size, found.st_mtime_ns
            self._read = [(record["step"], math.nan if record[tag] is None else record[tag])
                          for record in MetricsFile(self._workdir.metrics).read()
                          if isinstance(record, dict) and tag in record]
        return self._read

    @property
    def plan(self):
        """`resolved.Resolved` of the run, or None before it has a checkpoint."""
        if self._plan is None:
            for path in reversed(run_record.list_checkpoints(self._workdir.checkpoints)):
                with contextlib.suppress(run_record.Unreadable, OSError):
                    self._plan = run_record.read_record(path, contents=False).resolved
                    break
        return self._plan

    @property
    def is_finished(self):
        """Whether the run has reached its end."""
        for path in reversed(run_record.list_checkpoints(self._workdir.checkpoints)):
            with contextlib.suppress(run_record.Unreadable, OSError):
                return run_record.read_record(path, contents=False).finished
        return False


def train(argv, workdir, look=lambda: False):
    """Train until the end, trying again what an outside fault has stopped.

    Args:
        argv: list of flags of `cct_tf.train`, without --workdir.
        workdir: pathlib.Path, which no other process trains in, or one that is about to end.
        look: function without arguments, called now and then, and at the end; True stops the training.

    Returns:
        Ended.

    Raises:
        OutsideFault: the fault came again at each try.
    """
    _wait_until_free(workdir)
    if look():  # decided by what is there already
        return Ended(None, "")
    for left in reversed(range(_TRIES)):
        ended = _run([f"--workdir={workdir}", *argv], workdir / "output.txt", look)
        is_outside = ended.status is not None and (
            ended.status < 0 or ended.status in (OUTSIDE_FAULT, 129, 130, 143))
        if not is_outside:
            return ended
        if left:
            time.sleep(_PAUSE_SECONDS)
    if ended.status == OUTSIDE_FAULT:
        raise OutsideFault(f"{workdir}: {ended.reason}; the same command goes on")
    return ended


def _wait_until_free(workdir):
    """Until a training that its sweep has left behind has seen that, saved and ended."""
    while Workdir(workdir).is_in_use():
        time.sleep(_POLL_SECONDS)


def _run(argv, output, look):
    """One start of the training: Ended."""
    safe = ["-P"] if sys.flags.safe_path else []
    parent = os.getpid()
    with open(output, "ab") as file:
        began = file.tell()
        process = subprocess.Popen([sys.executable, *safe, *TRAIN, *argv], stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=lambda: _end_with(parent))
    try:
        while process.poll() is None:
            if look():
                _stop(process)
                return Ended(None, "")
            time.sleep(_POLL_SECONDS)
        return Ended(None, "") if look() else Ended(process.returncode, _last_line(output, began))
    finally:
        _stop(process)


def _end_with(parent):
    """In a child: be asked to stop when the parent dies, however it does (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _stop(process):
    """As a person would, so that the state is saved; by force if that takes too long."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_LEAVING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(output, began):
    with open(output, "rb") as file:
        file.seek(began)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("error: ", "stopped: "))]
    return (named or lines or [""])[-1][:500]


def evaluate(workdir, argv):
    """What `cct_tf.evaluate --json` finds of the best checkpoint on the test split: a dict.

    Raises:
        OutsideFault: it ended with another status than 0.
    """
    safe = ["-P"] if sys.flags.safe_path else []
    done = subprocess.run([sys.executable, *safe, *EVALUATE, f"--workdir={workdir}", "--split=test", "--json", *argv],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise OutsideFault(f"{workdir}: cct_tf.evaluate ended with status {done.returncode}: {said}")
    return json.loads(done.stdout.splitlines()[-1])


def require_validation(plan, workdir):
    """Raise UserError if a run chooses its best on test images; `plan`: its `resolved.Resolved`."""
    if "validation" not in plan.num_examples:
        raise UserError(f"--validation_fraction: expected above 0, or --fold, for a search chooses on a validation "
                        f"split, found none in the data set ({workdir})")
