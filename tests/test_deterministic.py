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
import sys
from cct_tf.machine import runtime
runtime.start_tensorflow()
runtime.make_devices(1, deterministic=sys.argv[1] == "True")
import tensorflow as tf
tf.function(lambda x: tf.reduce_sum(x * x), jit_compile=True)(tf.ones([4]))
"""


@pytest.mark.parametrize("deterministic", [True, False])
def test_xla_is_told_to_be_deterministic_and_the_users_own_flags_stay(tmp_path, deterministic):
    """With this option XLA chooses no kernel of a GPU by timing: there are no autotune results to keep for a resume."""
    environment = os.environ | {"PYTHONPATH": str(REPO), "XLA_FLAGS": f"--xla_dump_to={tmp_path}"}
    subprocess.run([sys.executable, "-c", _COMPILE, str(deterministic)], cwd=REPO, check=True, env=environment)
    (options,) = tmp_path.glob("*.debug_options")
    assert ("xla_gpu_deterministic_ops: true" in options.read_text()) == deterministic


@pytest.mark.slow
def test_two_runs_with_deterministic_kernels_have_the_same_losses_and_no_clock_for_the_input(tmp_path):
    losses = []
    flags = ["--flagfile=configs/smoke.cfg", "--deterministic", "--train_steps=3", "--log_every_steps=1"]
    code = "import sys; from tests import commands; sys.exit(any([commands.run('train', *sys.argv[2:], " \
           "f'--workdir={sys.argv[1]}/{name}') for name in ('one', 'two')]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *flags], cwd=REPO, check=True,
                   env=os.environ | {"PYTHONPATH": undrawn.PYTHONPATH})
    for name in ("one", "two"):
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([record["train/loss"] for record in records if "train/loss" in record])
        assert {record["timing/input_wait_fraction"] for record in records if "train/loss" in record} == {None}
    assert len(losses[0]) == 3 and losses[0] == losses[1]
