"""Real trainings: a search killed with SIGKILL twice at random ends with the table of the undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import undrawn

REPO = Path(__file__).resolve().parents[2]
FLAGS = """--dataset=digits --validation_fraction=0.2 --image_size=8 --model=cct_2_3x1_16 --batch_size=64 --epochs=2
    --dropout_rate=0.1 --flip=random --checkpoint_every_steps=5 --prune_after=1 --prune_keep=2 --trials=2""".split()
SPACE = "--learning_rate=log:1e-4:1e-2\n--drop_path_rate=0:0.3\n--crop_padding=0|1\n"
KILLS = 2


def _start(folder):
    (folder / "space.cfg").write_text(SPACE)
    return subprocess.Popen([sys.executable, "-m", "cct_tf.sweep", *FLAGS, f"--space={folder / 'space.cfg'}",
                             f"--workdir={folder / 'sweep'}"], cwd=REPO, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": undrawn.PYTHONPATH})


def _metrics(folder):
    return list(folder.glob("sweep/*/metrics.jsonl"))


def _num_evaluations(folder):
    return sum(path.read_text().count("eval/top1") for path in _metrics(folder))


@pytest.mark.slow
def test_killed_twice_at_random_it_ends_with_the_same_table(tmp_path):
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir()
    process, luck = _start(folders[0]), random.Random(5)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    for _ in range(KILLS):
        process, before = _start(folders[1]), _num_evaluations(folders[1])
        wanted = before + 1  # so that each start gets on
        while _num_evaluations(folders[1]) < wanted:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(luck.uniform(0, 2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = _start(folders[1])
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    tables = [(folder / "sweep/table.txt").read_text() for folder in folders]
    assert tables[0] == tables[1]
    assert "complete" in tables[0] and "test  " in tables[0]
    # The test split was read for the winner alone, by `cct_tf.evaluate`.
    assert not any("test/top1" in path.read_text() for folder in folders for path in _metrics(folder))
