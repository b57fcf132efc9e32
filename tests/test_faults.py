"""Processes that are killed or asked to stop, and what the same command makes of it afterwards.

A full disk is one of the events of workers/test_end_to_end.py.
"""

import signal
import time

import pytest

from tests import commands, exact_resume, stock_network, undrawn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _nothing_drawn():
    """By the processes either: pictures took half of their time, and none of them is compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", undrawn.PYTHONPATH)
        yield


@pytest.fixture(scope="module", autouse=True)
def _with_a_teacher(tmp_path_factory):
    """Whatever is killed here learns from a trained network too."""
    path = tmp_path_factory.mktemp("teacher") / "net.keras"
    stock_network.write(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_resume, "FLAGS", [
            *exact_resume.FLAGS, f"--teacher={path}", "--teacher_mean=0.4", "--teacher_std=0.3",
            "--distill_temperature=2", "--distill_standardize", "--epochs=1.2"])
        patch.setattr(exact_resume, "STEPS", 46)
        yield


def _train(workdir):
    """(exit status, stdout, stderr) of a training in this process; its output is not looked at, and given as ""."""
    return commands.run("train", *exact_resume.FLAGS, f"--workdir={workdir}"), "", ""


@pytest.fixture(scope="module")
def undisturbed(_with_a_teacher, tmp_path_factory):
    """Work folder of a finished run of `exact_resume.FLAGS`, trained in this process."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert _train(workdir)[0] == 0
    return workdir


def _read_until(process, text):
    """Read the process's stdout up to a piece of text that may end in no newline."""
    seen = ""
    while text not in seen:
        piece = process.stdout.read(1)
        assert piece, f"the process ended before it said {text!r}: {process.stderr.read()}"
        seen += piece


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The processes' folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_a_run_killed_and_asked_to_stop_ends_as_if_nothing_had_happened(undisturbed, temporary, tmp_path):
    """While saving and evaluating, by SIGKILL and SIGINT; SIGTERM meets two workers in workers/test_end_to_end.py.

    What is left of the run is trained in this process.
    """
    assert exact_resume.check(2, 0, [signal.SIGKILL, signal.SIGINT], tmp_path, undisturbed, go_on=_train) == []
    assert list(temporary.iterdir()) == []  # whoever is killed can't tidy up


def test_a_signal_before_the_first_step_ends_at_once_with_nothing_saved(tmp_path):
    process = exact_resume.start(tmp_path / "run")
    _read_until(process, "starting TensorFlow")
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    status, _, err = exact_resume.finish(process)
    assert status == 143
    assert err.count("\n") == 1 and "SIGTERM" in err and "nothing to save" in err
    assert exact_resume.saved_steps(tmp_path / "run") == []


def test_the_second_sigint_leaves_at_once(temporary, tmp_path):
    process = exact_resume.start(tmp_path / "run")
    _read_until(process, "compiling the training step")  # seconds inside one call of TensorFlow
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in process.stderr.readline()
    assert process.poll() is None  # the first one waits for the step
    process.send_signal(signal.SIGINT)
    status, out, _ = exact_resume.finish(process)
    assert status == 130 and " s\n" not in out  # how long compiling took, had it come to its end
    assert list(temporary.iterdir()) == []
    assert exact_resume.saved_steps(tmp_path / "run") == []
