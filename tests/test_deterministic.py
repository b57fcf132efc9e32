"""`--deterministic` holds for a whole process, so it has one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import undrawn

REPO = Path(__file__).resolve().parents[1]

_COMPILE = """
import tensorflow as tf
tf.function(lambda x: tf.reduce_sum(x * x), jit_compile=True)(tf.ones([4]))
"""
_PLAIN = """
from cct_tf.machine import runtime
runtime.start_tensorflow()
runtime.make_devices(1)
"""
_TWO_RUNS = """
import sys
from tests import commands
assert not any([commands.run("train", *sys.argv[2:], f"--workdir={sys.argv[1]}/{name}") for name in ("one", "two")])
"""


def _is_told(folder, code, *argv):
    """Whether XLA is told to be deterministic where it compiles, after some code, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": undrawn.PYTHONPATH, "XLA_FLAGS": f"--xla_dump_to={folder / 'dumped'}"}
    subprocess.run([sys.executable, "-c", code + _COMPILE, *argv], cwd=REPO, check=True, env=environment)
    options = next((folder / "dumped").glob("*.debug_options"))  # the user's own flag stays
    return "xla_gpu_deterministic_ops: true" in options.read_text()


def test_without_the_flag_xla_is_not_told_to_be_deterministic(tmp_path):
    assert not _is_told(tmp_path, _PLAIN)


@pytest.mark.slow
def test_two_runs_with_deterministic_kernels_have_the_same_losses_and_no_clock_for_the_input(tmp_path):
    """Told so, XLA chooses no kernel of a GPU by timing: there are no autotune results to keep for a resume."""
    losses = []
    flags = ["--flagfile=configs/smoke.cfg", "--deterministic", "--train_steps=3", "--log_every_steps=1"]
    assert _is_told(tmp_path, _TWO_RUNS, str(tmp_path), *flags)
    for name in ("one", "two"):
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([record["train/loss"] for record in records if "train/loss" in record])
        assert {record["timing/input_wait_fraction"] for record in records if "train/loss" in record} == {None}
    assert len(losses[0]) == 3 and losses[0] == losses[1]
