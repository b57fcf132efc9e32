"""Disturb small trainings of two workers, each once, and compare what they end with: no run may need a person.

    python tests/chaos.py --runs=30 --seed=1

Every run goes through launch/workers.sh 2 and meets one event: a random worker gets SIGKILL, SIGTERM or SIGSTOP at a
random moment; a worker is killed and a file of the newest checkpoint truncated, or a bit of it flipped, before the
restart; or the disk (a small tmpfs, so this needs root) is full for some seconds. Every kind of randomness is on.
Checkpoints, best, run.json and metrics.jsonl (but timing/*) must be those of an undisturbed run to the last bit. Prints
each event, how long the other worker took to end, and the verdict; exit status 1 if anything differs.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests import exact_resume  # noqa: E402

KINDS = ("kill", "terminate", "stop", "truncate", "flip", "fill")
WORKERS = 2
FLAGS = [flag for flag in exact_resume.FLAGS if not flag.startswith(("--num_replicas", "--epochs"))] + [
    "--epochs=5", "--mixup_alpha=0.8", "--startup_timeout=180"]
_SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP}
_PATIENCE = 1800.0  # seconds of a whole run with its event


class Launched:
    """launch/workers.sh with a training, and what it says.

    Args:
        workdir: pathlib.Path.
        flags: sequence of strings, further flags of the trainer.
        options: sequence of strings, of workers.sh.
    """

    def __init__(self, workdir, flags=(), options=()):
        self.workdir = workdir
        self.lines = []  # (time.monotonic(), text)
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [exact_resume.REPO / "launch/workers.sh", *options, str(WORKERS), *FLAGS, f"--workdir={workdir}", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    def pids(self):
        """Of the workers of the last start: a list, empty while there are none."""
        for _, line in reversed(self.lines):
            if line.startswith("workers.sh: started"):
                return [int(pid) for pid in re.findall(r"pid (\d+)", line)]
        return []

    def newest(self):
        """Step of the newest complete checkpoint, 0 without one."""
        return max(exact_resume.saved_steps(self.workdir), default=0)

    def is_over(self):
        return self._process.poll() is not None

    def wait_for(self, condition):
        """Until `condition()`; False if the run ends first."""
        while not condition():
            if self.is_over():
                return False
            if time.monotonic() - self.began > _PATIENCE:
                raise TimeoutError(self.tail())
            time.sleep(0.002)
        return True

    def said(self, text, since=0.0):
        """When a line with `text` came, at or after `since`, or None."""
        return next((moment for moment, line in list(self.lines) if moment >= since and text in line), None)

    def stop(self):
        """Ask workers.sh to stop."""
        self._process.send_signal(signal.SIGTERM)

    def finish(self):
        """(exit status, seconds since the start)."""
        try:
            status = self._process.wait(timeout=max(_PATIENCE - (time.monotonic() - self.began), 1.0))
        finally:
            if not self.is_over():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(timeout=10)
        return status, time.monotonic() - self.began

    def tail(self):
        return "\n".join(line for _, line in self.lines[-30:])


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 64 MB."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _await_moment(run, kind, whole, luck):
    """Any moment of a run that takes `whole` seconds: where files don't matter, half of them before its first one."""
    if kind in _SIGNALS and luck.random() < 0.5:
        moment = run.began + luck.uniform(0.5, 0.6 * whole)
        return run.wait_for(lambda: run.pids() and time.monotonic() >= moment)
    return await_step(run, luck.randrange(10, 150), luck)


def await_step(run, step, luck):
    """A moment after the checkpoint of `step` or a later one; False if the run ended before."""
    if not run.wait_for(lambda: run.newest() >= step):
        return False
    time.sleep(luck.uniform(0.0, 0.5))
    return not run.is_over()


def _signal(run, kind, luck):
    """Returns a line on what happened, as the functions below do."""
    victim = luck.randrange(WORKERS)
    saved, pids, began = run.newest(), run.pids(), time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[victim], _SIGNALS[kind])
    other = pids[1 - victim]
    run.wait_for(lambda: run.said(f"(pid {other}) ", began) is not None)
    ended = run.said(f"(pid {other}) ", began)
    took = f"worker {1 - victim} ended {ended - began:.1f} s later" if ended else "the run finished"
    return f"worker {victim} after {began - run.began:.1f} s, last checkpoint {saved}: {took}"


def _damage(run, kind, luck):
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pids()[luck.randrange(WORKERS)], signal.SIGKILL)
    if not run.wait_for(lambda: run.said("; restart ", began) is not None):
        return "came too late, the run had ended"
    newest = max((run.workdir / "checkpoints").glob("step_*"))
    file = luck.choice(sorted(path for path in newest.iterdir() if path.is_file()))
    data = bytearray(file.read_bytes())
    place = luck.randrange(len(data))
    if kind == "truncate":
        data = data[:place]
    else:
        data[place] ^= 1 << luck.randrange(8)
    # A file of its own, as when the damage is the disk's: best/ may share the old one.
    file.unlink()
    file.write_bytes(data)
    return f"{newest.name}/{file.name} at byte {place}"


def _fill(run, luck):
    began, ballast = time.monotonic(), run.workdir.parent / "ballast"
    free = os.statvfs(run.workdir)
    with contextlib.suppress(OSError), open(ballast, "wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize))
    run.wait_for(lambda: run.said("stopped: ", began) is not None)
    noticed = run.said("stopped: ", began)
    time.sleep(luck.uniform(0.0, 4.0))
    ballast.unlink()
    return f"noticed {noticed - began:.1f} s later" if noticed else "not noticed"


def disturb(run, kind, luck):
    """One event, now; returns a line on it."""
    if kind in _SIGNALS:
        return _signal(run, kind, luck)
    return _fill(run, luck) if kind == "fill" else _damage(run, kind, luck)


def check(kinds, seed, folder, say=print):
    """Disturb a run for each kind of `kinds`; returns the list of what went wrong."""
    folder, wrong = pathlib.Path(folder), []
    undisturbed = folder / "undisturbed"
    run = Launched(undisturbed)
    status, whole = run.finish()
    if status:
        raise RuntimeError(f"the undisturbed run ended with status {status}:\n{run.tail()}")
    say(f"undisturbed: {whole:.0f} s, step {run.newest()}")
    for number, kind in enumerate(kinds, 1):
        luck, place = random.Random(f"{seed} {number}"), folder / f"{number}"
        with small_disk(place):
            run, longest = Launched(place / "run"), whole
            while not _await_moment(run, kind, longest, luck):  # the run was over: once more, and sooner
                longest /= 2
                shutil.rmtree(place / "run")
                run = Launched(place / "run")
            line = disturb(run, kind, luck)
            status, _ = run.finish()
            found = [f"status {status}:\n{run.tail()}"] if status else exact_resume.differences(undisturbed,
                                                                                                run.workdir)
        seconds = time.monotonic() - run.began
        verdict = "equal" if not found else f"DIFFERENT: {found[0]}"
        say(f"{number}. {kind}: {line}; finished after {seconds:.0f} s, {verdict}")
        wrong += [f"{number}. {kind}: {each}" for each in found]
        shutil.rmtree(place)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="cct_chaos_") as folder:
        os.environ["TMPDIR"] = folder  # what is killed leaves files behind
        kinds = [KINDS[number % len(KINDS)] for number in range(given.runs)]
        wrong = check(kinds, given.seed, folder, lambda line: print(line, flush=True))
    print("\n".join(wrong) if wrong else f"{given.runs} of {given.runs} equal")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
