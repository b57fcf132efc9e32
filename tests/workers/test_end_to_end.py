"""Real processes through launch/workers.sh: a cluster computes what one process does, and outlives any event."""

import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cct_tf.settings import config, flags
from tests import chaos, exact_resume, undrawn
from tests.training import tiny

pytestmark = pytest.mark.slow
COMPARED = 20  # steps
SETTINGS = flags.parse(chaos.FLAGS, list(config.FIELDS.values()))


@pytest.fixture(scope="module", autouse=True)
def _the_tests_own_python():
    """workers.sh takes the environment of the Python that runs the tests, and makes none; nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCT_VENV", sys.prefix)
        patch.setenv("PYTHONPATH", undrawn.PYTHONPATH)
        yield


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Work folder of an undisturbed run of two workers."""
    workdir, temporary = tmp_path_factory.mktemp("two") / "run", tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        run = chaos.Launched(workdir, ["--log_every_steps=1"])
    assert run.finish()[0] == 0, run.tail()
    assert list(temporary.iterdir()) == []  # workers end by `process_exit`, without Python's own end
    return workdir


def one_process(workdir, until, **changes):
    """Train in this process up to a step; how the run is computed is not how the cluster did it."""
    from cct_tf.errors import Interrupted
    settings = config.from_dict(SETTINGS | {"workdir": str(workdir), "log_every_steps": 1, "eval_every_steps": 10**6,
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


def test_two_workers_compute_what_one_process_does(two_workers, one_replica, tmp_path):
    expected = losses(two_workers, COMPARED)
    assert len(set(expected)) == COMPARED
    np.testing.assert_allclose(losses(one_replica, COMPARED), expected, rtol=1e-5)
    one_process(tmp_path / "four", COMPARED, num_replicas=4)
    np.testing.assert_allclose(losses(tmp_path / "four", COMPARED), expected, rtol=1e-5)


def test_a_run_moves_from_one_machine_to_two_workers_and_to_another_machine(two_workers, one_replica, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(one_replica, workdir)
    run = chaos.Launched(workdir, ["--log_every_steps=1"])
    run.wait_for(lambda: run.newest() >= 2 * COMPARED)
    run.stop()
    status, _ = run.finish()
    assert status == 143, run.tail()
    assert run.said("computed otherwise than before (num_replicas 1 -> 2, num_workers 1 -> 2"), run.tail()
    reached = run.newest()
    assert 2 * COMPARED <= reached < 120
    one_process(workdir, reached + COMPARED, num_replicas=4)
    last = reached + COMPARED
    np.testing.assert_allclose(losses(workdir, last), losses(two_workers, last), rtol=1e-5)


def test_every_kind_of_event_in_one_run(two_workers, tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    subprocess.run(["umount", tmp_path], check=True)
    # "truncate" kills a worker too, and damages a file as "flip" does.
    luck, kinds = random.Random(3), [kind for kind in chaos.KINDS if kind not in ("kill", "flip")]
    with chaos.small_disk(tmp_path / "disk") as disk:
        run = chaos.Launched(disk / "run", ["--log_every_steps=1"], ["--max_restarts=6"])
        for number, kind in enumerate(kinds):
            assert chaos.await_step(run, 20 + 20 * number, luck), run.tail()
            line = chaos.disturb(run, kind, luck)
            assert "too late" not in line and "finished" not in line and "not noticed" not in line, (kind, line)
        assert run.finish()[0] == 0, run.tail()
        # A start may find the disk still full: then there is one more.
        full = sum(line.startswith("[0] stopped:") and "No space left" in line for _, line in run.lines)
        assert full and sum("workers.sh: started" in line for _, line in run.lines) == len(kinds) + full, run.tail()
        assert exact_resume.differences(two_workers, run.workdir) == []


def test_two_workers_train_a_network_of_ones_own_as_one_process_does(tmp_path):
    network = {"model": f"{exact_resume.REPO}/examples/convnet.py:build", "train_steps": 12} | dict.fromkeys(
        ("dropout_rate", "attention_dropout_rate", "drop_path_rate"))
    flags_ = [f"--{name}={'' if value is None else value}" for name, value in network.items()]
    run = chaos.Launched(tmp_path / "two", ["--log_every_steps=1", *flags_])
    assert run.finish()[0] == 0, run.tail()
    one_process(tmp_path / "one", 10, num_replicas=1, **network)
    np.testing.assert_allclose(losses(tmp_path / "two", 10), losses(tmp_path / "one", 10), rtol=1e-5)
