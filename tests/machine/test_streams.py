"""Outputs that nobody reads. No TensorFlow."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cct_tf.machine import streams

REPO = Path(__file__).resolve().parents[2]


def _closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _lost_terminal():
    main, terminal = pty.openpty()
    os.close(main)
    return terminal


@pytest.mark.parametrize(("lose", "calls"), [(_closed_pipe, 1), (_lost_terminal, 0)])
def test_a_stream_without_a_reader_goes_silent(lose, calls):
    called = []
    with os.fdopen(lose(), "w") as stream:
        watched = streams.Watched(stream, lambda: called.append(1))
        for _ in range(2):
            print("nobody reads this", file=watched, flush=True)
        assert len(called) == calls
        assert os.path.samefile(f"/proc/self/fd/{stream.fileno()}", os.devnull)


def test_other_faults_of_a_stream_are_raised():
    with open("/dev/full", "w") as stream, pytest.raises(OSError, match="No space"):
        try:
            print("x", file=streams.Watched(stream, None), flush=True)
        finally:
            streams.silence(stream)


@pytest.mark.parametrize(("redirection", "status"), [(">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), ("| true", 141)])
def test_a_command_needs_no_output(redirection, status, tmp_path):
    command = f"sleep 0.1; '{sys.executable}' -m cct_tf.models {redirection}"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=60)
    assert (done.returncode, done.stderr) == (status, "")


def test_an_error_that_nobody_reads_keeps_its_status(tmp_path):
    command = f"'{sys.executable}' -m cct_tf.train --seed=x 2>&1 >/dev/null | true"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=60)
    assert done.returncode == 2
