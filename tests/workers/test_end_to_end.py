"""Real processes through launch/workers.sh: a cluster computes what one process does, and outlives any event."""

import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from cct_tf.settings import config, flags
from tests import chaos, exact_resume, undrawn
from tests.training import tiny

pytestmark = pytest.mark.slow
COMPARED = 20  # steps
MORE = ["--epochs=4.1", "--log_every_steps=1"]  # 157 steps: four events, each up to 30 after the one before
SETTINGS = flags.parse([*chaos.FLAGS, *MORE], list(config.FIELDS.values()))


@pytest.fixture(scope="module", autouse=True)
def _the_tests_own_python():
    """workers.sh takes the environment of the Python that runs the tests, and makes none; nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCT_VENV", sys.prefix)
        patch.setenv("PYTHONPATH", undrawn.PYTHONPATH)
        yield


def one_process(workdir, until, **changes):
    """Train in this process up to a step; how the run is computed is not how the cluster did it."""
    from cct_tf.errors import Interrupted
    settings = config.from_dict(SETTINGS | {"workdir": str(workdir), "eval_every_steps": 10**6,
                                            "checkpoint_every_steps": 10**6, "accumulate_steps": 1} | changes)
    training = tiny.start(settings)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, until))


def losses(workdir, last):
    """Of steps 1 ... last, at least."""
    found = {record["step"]: record["train/loss"] for record in tiny.records(workdir, "train/loss")}
    return np.array([found[step] for step in range(1, last + 1)])


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    """Work folder of a run of one process with one replica, stopped."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    one_process(workdir, COMPARED, num_replicas=1)
    return workdir


@pytest.fixture(scope="module")
def two_workers(one_replica, tmp_path_factory):
    """Work folder of a run that two workers went on with from there, undisturbed, to its end."""
    workdir, temporary = tmp_path_factory.mktemp("two") / "run", tmp_path_factory.mktemp("temporary")
    shutil.copytree(one_replica, workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        run = chaos.Launched(workdir, MORE)
    assert run.finish()[0] == 0, run.tail()
    assert run.said("computed otherwise than before (num_replicas 1 -> 2, num_workers 1 -> 2"), run.tail()
    assert list(temporary.iterdir()) == []  # workers end by `process_exit`, without Python's own end
    return workdir


def test_two_workers_compute_what_one_process_does(two_workers, one_replica, tmp_path):
    """Having begun alike; from their first step on they do in test_weighted_table.py, a network of one's own too."""
    last = 2 * COMPARED
    expected = losses(two_workers, last)
    assert len(set(expected)) == last
    for count in (1, 2):
        shutil.copytree(one_replica, tmp_path / str(count))
        one_process(tmp_path / str(count), last, num_replicas=count)
        np.testing.assert_allclose(losses(tmp_path / str(count), last), expected, rtol=1e-5)


def test_a_run_moves_from_two_workers_to_another_machine(two_workers, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(two_workers, workdir)
    *_, before, last = exact_resume.saved_steps(workdir)
    shutil.rmtree(workdir / f"checkpoints/step_{last:08d}")
    assert COMPARED < before < last - 2
    one_process(workdir, last - 1, num_replicas=4)
    np.testing.assert_allclose(losses(workdir, last - 1), losses(two_workers, last - 1), rtol=1e-5)


def test_every_kind_of_event_in_one_run(two_workers, one_replica, tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    subprocess.run(["umount", tmp_path], check=True)
    # "truncate" kills a worker too, and damages a file as "flip" does.
    luck, kinds = random.Random(3), [kind for kind in chaos.KINDS if kind not in ("kill", "flip")]
    with chaos.small_disk(tmp_path / "disk") as disk:
        shutil.copytree(one_replica, disk / "run")
        run = chaos.Launched(disk / "run", MORE, ["--max_restarts=6"])
        for kind in kinds:
            reached = run.newest()
            assert run.wait_for(lambda reached=reached: run.newest() >= reached + 10), run.tail()
            time.sleep(luck.uniform(0.0, 0.1))
            line = chaos.disturb(run, kind, luck)
            assert "too late" not in line and "finished" not in line and "not noticed" not in line, (kind, line)
        assert run.finish()[0] == 0, run.tail()
        # A start may find the disk still full: then there is one more.
        full = sum(line.startswith("[0] stopped:") and "No space left" in line for _, line in run.lines)
        assert full and sum("workers.sh: started" in line for _, line in run.lines) == len(kinds) + full, run.tail()
        assert exact_resume.differences(two_workers, run.workdir) == []
