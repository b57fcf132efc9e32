"""What launch/workers.sh runs: N workers of one training on this machine, started again after a fault."""

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time

from worker_group import Group, is_from_terminal, next_signal, signal_name, watched

from cct_tf.assembly import checks
from cct_tf.errors import FINISHED, OUTSIDE_FAULT, STOP_SIGNALS, WRONG_INPUT, UserError
from cct_tf.machine import gpus
from cct_tf.runs.run_record import list_checkpoints, step_of
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import flags

USAGE = """usage: ./launch/workers.sh [--max_restarts=R] N --flagfile=FILE --workdir=DIR [--flag=value ...]

Trains with N workers on this machine: N processes `python -m cct_tf.train`, all with the same flags (`python -m
cct_tf.train --help` lists them), on free ports of 127.0.0.1. GPUs are shared out evenly; CUDA_VISIBLE_DEVICES says
which there are, an empty one that the CPU is meant.

When a worker ends, the others have 60 s to end too (300 s if it was asked to stop, for they save) and are then killed.
  all end with 0        finished
  any ends with 2, 1    wrong input, a bug: that status, no restart
  75, or a signal       all are started again from the last checkpoint, after 1 s, then 2 s, 4 s ... 60 s
  143, 130, 129         (a worker was asked to stop) all are started again after 1 s
--max_restarts=3        restarts in a row before giving up; a new checkpoint in between begins a new row
Given up, the status is that of the first worker that failed.

SIGTERM, SIGHUP (the terminal is gone; not under nohup) and Ctrl-C (or SIGINT) go to all workers, which save; the status
is 143, 129 or 130, or 0 if they finished just then. A second Ctrl-C kills them."""

_LOOK_SECONDS = 1.0  # between two checks whether the remaining workers are stopped, which nothing else tells
COMMAND = [sys.executable, "-P", "-m", "cct_tf.train"]
_ASKED_TO_STOP = tuple(128 + number for number in STOP_SIGNALS)
_NOBODY_READS = (-signal.SIGPIPE, 128 + signal.SIGPIPE)  # the reader of our output has left: `| head`


@dataclasses.dataclass(frozen=True)
class Times:
    """How long things may take, in seconds.

    Attributes:
        grace: for the others to end once a worker has failed.
        save: for the others to end once one was asked to stop.
        first_wait, longest_wait: before a restart; it doubles from one to the other.
        second_press: a SIGINT sooner than this after another signal does not count as a second one (`timeout` sends
            two at once).
    """

    grace: float = 60
    save: float = 300
    first_wait: float = 1
    longest_wait: float = 60
    second_press: float = 0.5


def say(text):
    """Print one line for the user; without a reader the work goes on."""
    try:
        print(f"workers.sh: {text}", file=sys.stderr, flush=True)
    except OSError:  # a closed pipe, a terminal that is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def exit_status(status):
    """A subprocess' return code as a shell has it: 137 for -9."""
    return 128 - status if status < 0 else status


def is_worth_a_restart(status):
    """Whether a worker that ended so may do better next time (statuses: cct_tf.errors)."""
    if status in _NOBODY_READS:
        return False
    return status == OUTSIDE_FAULT or status < 0 or status > 128


def final_status(ends, stopped_by):
    """The supervisor's status after a start, or None if the workers are to be started again.

    Args:
        ends: list of worker_group.End of all workers, in the order in which they ended.
        stopped_by: number of the signal that the supervisor got, or None.
    """
    statuses = [end.status for end in ends if not end.killed]
    if len(statuses) == len(ends) and not any(statuses):
        return FINISHED
    if stopped_by:
        return 128 + stopped_by
    for status in (WRONG_INPUT, 1, *statuses):
        if status in statuses and status and not is_worth_a_restart(status):
            return exit_status(status)
    return None


class Supervisor:
    """Keeps N workers running until they finish, fail for good, or somebody stops it.

    Args:
        command: list of strings, of each worker.
        count: N.
        devices: CUDA_VISIBLE_DEVICES of each or None.
        max_restarts: restarts without a new checkpoint.
        newest_step: function without arguments, as `newest_step` below.
        times: Times.
    """

    def __init__(self, command, count, devices, max_restarts, newest_step, times):
        self.command, self.count, self.devices = command, count, devices
        self.max_restarts, self.newest_step, self.times = max_restarts, newest_step, times
        self.stopped_by = None
        self._stopped_at = None

    def run(self):
        """Exit status."""
        restarts, wait, reached = 0, self.times.first_wait, self.newest_step()
        while True:
            ends = self._one_start()
            status = final_status(ends, self.stopped_by)
            if status is not None:
                say("finished" if status == 0 else f"stopped, status {status}; not started again")
                return status
            first = next(end for end in ends if end.status)
            newest = self.newest_step()
            if newest > reached:
                restarts, wait = 0, self.times.first_wait
            reached = max(reached, newest)
            if restarts == self.max_restarts:
                status = exit_status(first.status)
                say(f"{first}; given up after {restarts} restarts without a new checkpoint, status {status}")
                return status
            restarts += 1
            asked = all(end.status in (0, *_ASKED_TO_STOP) for end in ends)
            pause = self.times.first_wait if asked else wait
            start = f"step {newest}" if newest >= 0 else "the beginning"
            say(f"{first}; restart {restarts} of {self.max_restarts} in {pause:g} s, from {start}")
            if not self._pause(pause):
                say(f"{signal_name(self.stopped_by)} before the restart; stopped")
                return 128 + self.stopped_by
            wait = wait if asked else min(2 * wait, self.times.longest_wait)

    def _one_start(self):
        """Start all workers and wait until none is left: list of End in the order of ending."""
        group = Group(self.command, self.count, self.devices)
        say(f"started {group}")
        ends, deadline = [], math.inf
        while group.running:
            info = next_signal(min(deadline - time.monotonic(), _LOOK_SECONDS if ends else math.inf))
            if info is not None and info.si_signo != signal.SIGCHLD:
                deadline = min(deadline, self._signalled(info, group))
            for end in group.reap():
                ends.append(end)
                # One that has finished leaves together with the others.
                seconds = self.times.save if end.status in (0, *_ASKED_TO_STOP) else self.times.grace
                deadline = min(deadline, time.monotonic() + seconds)
                if end.status:
                    rest = f"; {seconds:g} s for {group}" if group.running else ""
                    say(f"{end}{rest}")
            is_late = time.monotonic() >= deadline
            if group.running and (is_late or deadline < math.inf and group.is_stopped()):
                say(f"killing what is left{'' if is_late else ' and stands still'}: {group}")
                ends += group.kill()
        return ends

    def _signalled(self, info, group):
        """Act on SIGINT, SIGTERM or SIGHUP of our own; returns the time at which the workers are killed.

        Workers are sent SIGTERM in either case: a second SIGINT would end them unsaved, and one that was sent to the
        whole process group has reached them before us.
        """
        now = time.monotonic()
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at = info.si_signo, now
            if not is_from_terminal(info):
                group.signal(signal.SIGTERM)
            say(f"{signal_name(info.si_signo)}: {self.times.save:g} s for the workers to save and leave; Ctrl-C "
                f"{'again ' if info.si_signo == signal.SIGINT else ''}kills them")
        elif info.si_signo == signal.SIGINT and now >= self._stopped_at + self.times.second_press:
            return now
        return self._stopped_at + self.times.save

    def _pause(self, seconds):
        """Wait; False if a signal asked to stop meanwhile."""
        end = time.monotonic() + seconds
        while info := next_signal(end - time.monotonic()):
            if info.si_signo != signal.SIGCHLD:
                self.stopped_by = info.si_signo
                return False
        return True


def newest_step(workdir):
    """Step of the newest complete checkpoint; -1 without one, or while the storage is gone."""
    try:
        return max(map(step_of, list_checkpoints(Workdir(workdir).checkpoints)), default=-1)
    except OSError:
        return -1


def share_devices(count, device="auto"):
    """CUDA_VISIBLE_DEVICES of each worker, the same number for all; None where there is nothing to share out.

    Args:
        count: int, of the workers.
        device: --device, of each of them.

    Raises:
        UserError: fewer GPUs than workers, or a device that they can't share.
    """
    if device == "cpu" or count == 1:
        return None
    if device.startswith("gpu:"):
        raise UserError(f"--device: expected auto, cpu or gpu with {count} workers, who share the GPUs out, found "
                        f"{device!r}; CUDA_VISIBLE_DEVICES={device[4:]} before the command chooses them")
    ids = gpus.listed(os.environ.get("CUDA_VISIBLE_DEVICES"))
    ids = _list_gpus() if ids is None else ids
    if not ids:
        return None
    share = len(ids) // count
    if not share:
        raise UserError(f"N: expected at most {len(ids)}, one worker a GPU, found {count}; CUDA_VISIBLE_DEVICES= "
                        "before the command trains on the CPU")
    if share * count < len(ids):
        say(f"{count} workers with {share} of {len(ids)} GPUs each: {len(ids) - share * count} not used")
    return [",".join(ids[index * share:(index + 1) * share]) for index in range(count)]


def _list_gpus():
    """Numbers of this machine's NVIDIA GPUs as text, without TensorFlow."""
    if os.environ.get("CCT_CUDA") == "0" or not shutil.which("nvidia-smi"):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except subprocess.TimeoutExpired:
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def parse(argv):
    """(max_restarts, N, the trainer's flags) of a command line. Raises UserError."""
    argv, max_restarts = list(argv), "3"
    if argv and argv[0].startswith("--max_restarts"):
        name, equals, max_restarts = argv.pop(0).partition("=")
        max_restarts = max_restarts if equals or not argv else argv.pop(0)
        if name != "--max_restarts" or not max_restarts.isdecimal():
            raise UserError(f"--max_restarts: expected --max_restarts=R, 0 or more, found {max_restarts!r}")
    if not argv or not argv[0].isdecimal() or int(argv[0]) < 1:
        found = repr(argv[0]) if argv else "nothing"
        raise UserError(f"N: expected the number of workers, 1 or more, before the flags, found {found}")
    return int(max_restarts), int(argv[0]), argv[1:]


def main(argv, command=COMMAND, times=Times()):
    """Exit status of the supervisor; wrong flags of the trainer are found before a worker starts."""
    if flags.wants_help(argv):
        print(USAGE)
        return FINISHED
    try:
        max_restarts, count, given = parse(argv)
        run = flags.load_config(given).run
        workdir = run.workdir
        checks.check_workdir(workdir)
        devices = share_devices(count, run.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    signal.pthread_sigmask(signal.SIG_BLOCK, watched())
    return Supervisor([*command, *given], count, devices, max_restarts, lambda: newest_step(workdir), times).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
