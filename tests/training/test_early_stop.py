"""A run ends after so many evaluations in a row without a new best, wherever it was interrupted before."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cct_tf.machine.console import Console
from cct_tf.runs import run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import Workdir
from cct_tf.settings.measure import Measure
from cct_tf.training import loop, resume
from cct_tf.training.summaries import Summaries
from tests.commands import call
from tests.exact_resume import differences
from tests.training import tiny
from tests.training.test_ema import _with_accuracy

pytestmark = pytest.mark.usefixtures("one_network")
RUN = {"train_steps": 40, "eval_every_steps": 3, "checkpoint_every_steps": 2, "log_every_steps": 4,
       "validation_fraction": 0.2, "early_stop_evaluations": 2, "model": "cct_2_3x1_8"}
# Right ones of ten at steps 3, 6, 9 ...: the best at 9, a tie at 12, worse at 15 -> the end.
ACCURACY = {3: 4, 6: 3, 9: 6, 12: 6, 15: 5, 18: 9, 21: 1, 24: 2}


@pytest.fixture(scope="module", autouse=True)
def _told():
    """Evaluations on the validation split say what ACCURACY does; the test at the end is a real one."""
    plain = loop.Training.evaluator

    def evaluator(training, split, models):
        if split == "test":
            return plain(training, split, models)
        return lambda should_stop: {"eval": _with_accuracy(ACCURACY[int(training.network.state.step.numpy())])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "evaluator", evaluator)
        patch.setattr(Summaries, "_draw", lambda *args: None)
        yield


@pytest.mark.parametrize(("patience", "accuracies", "over"), [
    (1, [5, 6, 6], 3), (2, [5, 4, 6, 6, 5], 5), (2, [5, 4, 6, 5, 7, 6], None), (0, [5, 4, 3, 2, 1, 0], None),
    (3, [0, 0, 0, 0], 4)])
def test_the_count_by_hand(patience, accuracies, over):
    status, ended = RunStatus(), None
    for index, correct in enumerate(accuracies, 1):
        status, is_best = status.after(index, _with_accuracy(correct))
        assert is_best == (status.evaluations_without_best == 0) == (status.best["step"] == index)
        if status.is_over(patience):
            ended = index
            break
    assert ended == over


@pytest.mark.parametrize(("name", "over"), [("top1", 4), ("loss", 5)])
def test_the_count_is_by_the_metric_that_chooses_the_best(name, over):
    """Accuracies 5, 6, 5, 6, 5 and losses 3, 2, 1, 1, 1 with a patience of 2."""
    status, measure = RunStatus(), Measure(name, "top1")
    for step, (correct, loss) in enumerate(zip((5, 6, 5, 6, 5), (3.0, 2.0, 1.0, 1.0, 1.0), strict=True), 1):
        evaluation = dataclasses.replace(_with_accuracy(correct), losses=np.full(10, loss, np.float32))
        status, _ = status.after(step, evaluation, measure)
        if status.is_over(2):
            break
    assert (step, status.best["step"]) == (over, over - 2)


@pytest.fixture(scope="module")
def undisturbed(_told, tmp_path_factory):
    """(work folder, what the run said)."""
    folder, said = tmp_path_factory.mktemp("undisturbed"), []
    training = tiny.assemble(folder, **RUN)
    training.console.say = said.append
    training.run(tiny.NoInterrupts())
    return folder, "\n".join(said)


@pytest.fixture
def copy(undisturbed, tmp_path):
    """The same folder, to be changed."""
    return shutil.copytree(undisturbed[0], tmp_path / "copy")


def test_it_ends_at_the_right_evaluation_says_why_and_ends_as_a_run_does(undisturbed):
    folder, out = undisturbed
    assert "stopped early at step 15 of 40: 2 evaluations without a better top-1 than 60.00% at step 9" in out
    assert "--early_stop_evaluations=2" in out
    assert any("ends after 2 without a new best" in line for line in tiny.assemble(folder, **RUN).plan_lines())
    assert [record["step"] for record in tiny.records(folder, "eval")] == [3, 6, 9, 12, 15]
    assert [record["step"] for record in tiny.records(folder, "test")] == [15]
    record = _newest(folder)
    assert (record.step, record.finished, record.status.evaluations_without_best) == (15, True, 2)
    assert [path.name for path in run_record.list_checkpoints(folder / "best")] == ["step_00000009"]


def _newest(folder):
    return run_record.read_record(run_record.list_checkpoints(folder / "checkpoints")[-1])


def _die(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["in training", "before the record", "before the end", "after the test"])
def test_killed_anywhere_it_stops_at_the_same_step(undisturbed, tmp_path, monkeypatch, moment):
    folder = tmp_path / "disturbed"
    training = tiny.assemble(folder, **RUN)
    with monkeypatch.context() as patch:
        if moment == "in training":
            training._log = _at(2, training._log)  # the second log record: step 8
        elif moment == "before the record":
            patch.setattr(Summaries, "write_evaluation", _at(4, Summaries.write_evaluation))  # step 12
        elif moment == "before the end":
            training._finish = _die
        else:
            patch.setattr(Summaries, "write_evaluation", _after_test(Summaries.write_evaluation))
        with pytest.raises(KeyboardInterrupt):
            training.run(tiny.NoInterrupts())
    tiny.train(folder, **RUN)
    assert differences(undisturbed[0], folder) == []


def _at(count, function):
    """`function`, dying in place of its call number `count`."""
    calls = []

    def replacement(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return replacement


def _after_test(write):
    def replacement(summaries, step, evaluations, **more):
        write(summaries, step, evaluations, **more)
        if "test" in evaluations:
            raise KeyboardInterrupt

    return replacement


def test_it_is_finished_and_goes_on_when_a_changed_config_is_accepted(copy, capfd):
    flags = [f"--{name}={value}" for name, value in (tiny.EVERYTHING_RANDOM | RUN).items()]
    status, out, err = call(capfd, "train", f"--workdir={copy}", *flags)
    assert (status, err) == (0, "") and "finished (step 15)" in out
    # Patience as before, counted anew: 18 is the best, 21 and 24 are not.
    tiny.train(copy, **RUN | {"learning_rate": 1e-4, "accept_config_change": True})
    assert [record["step"] for record in tiny.records(copy, "eval")] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert [record["step"] for record in tiny.records(copy, "test")] == [24]
    assert not resume.is_finished(tiny.settings(copy, **RUN), resume.Start(None, _newest(copy)))


def test_a_run_json_of_before_the_count_existed_is_read(copy):
    folder = copy / "checkpoints/step_00000015"
    data = json.loads((folder / "run.json").read_text())
    del data["evaluations_without_best"], data["checksum"]
    for name in ("early_stop_evaluations", "ema_decay", "ema_warmup"):
        del data["config"][name]
    (folder / "run.json").write_text(json.dumps(data))
    record = run_record.read_record(folder)
    assert record.status.evaluations_without_best == 0 and not record.keeps_average
    without = tiny.settings(copy, **RUN | {"early_stop_evaluations": 0})
    start = resume.find_start(without, tiny.Workdir(copy), tiny.Console(quiet=True))
    assert start.step == 15 and resume.is_finished(without, start)


def test_without_its_best_weights_a_run_chooses_and_counts_anew(tmp_path, capsys):
    """They may be gone after going back to an older checkpoint, or by hand; or they are damaged."""
    chosen = tiny.settings(tmp_path, early_stop_evaluations=2)
    best = {"step": 4, "top1": 0.5, "loss": 1.0}
    record = run_record.Record(chosen.as_dict(), Resolved(8, (), {}), 12, RunStatus(12, best, 2), False, {})
    start, folder, console = resume.Start(tmp_path, record), Workdir(tmp_path), Console(quiet=True)
    found = resume.status_at(start, chosen, folder, console)
    assert (found.best, found.evaluations_without_best, found.is_over(2)) == (None, 0, False)
    path = folder.best / "step_00000004"
    path.mkdir(parents=True)
    (path / "weights.index").write_bytes(b"index")
    run_record.write_record(path, record)
    found = resume.status_at(start, chosen, folder, console)
    assert (found.best, found.evaluations_without_best, found.is_over(2)) == (best, 2, True)
    (path / "weights.index").write_bytes(b"inDex")
    found = resume.status_at(start, chosen, folder, console)
    assert (found.best, found.evaluations_without_best, found.is_over(2)) == (None, 0, False)
    assert f"{path}/weights.index" in capsys.readouterr().err
