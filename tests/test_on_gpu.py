"""What only a GPU can show: `./launch/test.sh tests/test_on_gpu.py -m gpu`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]


def _losses(folder, device, *flags):
    """Losses of a short run on a device: list of floats."""
    subprocess.run([sys.executable, "-P", "-m", "cct_tf.train", f"--flagfile={REPO}/configs/smoke.cfg", "--jit=off",
                    "--train_steps=10", "--log_every_steps=1", f"--workdir={folder}", f"--device={device}", *flags],
                   cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)}, check=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["train/loss"] for record in map(json.loads, lines) if "train/loss" in record]


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [(), ("--num_replicas=2",)])
def test_a_gpu_computes_the_losses_of_the_cpu(tmp_path, flags):
    """Two replicas: of two GPUs, or of one that is divided."""
    found = _losses(tmp_path / "gpu", "gpu", *flags)
    assert found == pytest.approx(_losses(tmp_path / "cpu", "cpu"), rel=1e-3) and len(found) == 10
