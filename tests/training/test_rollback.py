"""--on_divergence=rollback: back to before the row of non-finite updates, on at half the rate, wherever it is killed.

The planted run: updates 7, 8 and 9 are not finite, which is the limit, until it was rolled back. Checkpoints are saved
at steps 0, 4, 7 (evaluated) and 8; the last two lie amid the row, so it goes back to 4.
"""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import checkpoints
from cct_tf.engine.loss_scale import LossScale
from cct_tf.engine.state import TrainState
from cct_tf.errors import Interrupted, UserError
from cct_tf.optim import schedules
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.training import divergence, resume
from cct_tf.training.summaries import Summaries
from tests.training import tiny

REPO = pathlib.Path(__file__).resolve().parents[2]
RUN = {"train_steps": 13, "eval_every_steps": 7, "checkpoint_every_steps": 4, "validation_fraction": 0.2,
       "keep_checkpoints": 1, "ema_decay": 0.9, "max_skipped_updates": 3, "on_divergence": "rollback"}
FIRST = 6  # updates done before the first that is not finite


def _held(training):
    """The batches of a run, all in one dict of arrays [13, 16, ...]."""
    batches = list(training.batches(0, training.plan.total_steps).as_numpy_iterator())
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _poison(training, held, rollbacks=1, first=FIRST):
    """Make a run's labels NaN from update `first` on, from 0, until it was rolled back `rollbacks` times."""
    def poisoned(start, count):
        labels = held["label"].copy()
        if training.status.rollback_count < rollbacks:
            labels[first:, 15] = np.nan  # the last example only, which the last replica holds
        return tf.data.Dataset.from_tensor_slices(held | {"label": labels}).skip(start).take(count)

    training.batches = poisoned


class Trainer(tiny.Trainer):
    """Whose runs have the planted updates."""

    def __init__(self, folder):
        super().__init__(folder, **RUN)
        self._held = _held(self.first)

    def start(self, workdir, poison=True, rollbacks=1, first=FIRST, **changes):
        """The Training of a start on `workdir`, as `tiny.assemble` makes one."""
        training = self.assemble(workdir, **changes)
        if poison:
            _poison(training, self._held, rollbacks, first)
        return training

    def run(self, workdir, **changes):
        """A whole run, from where it stands."""
        training = self.start(workdir, **changes)
        training.run(tiny.NoInterrupts())
        return training

    def run_until(self, workdir, step, **changes):
        """A run, or the rest of one, that a signal stops at `step`."""
        training = self.start(workdir, **changes)
        with pytest.raises(Interrupted):
            training.run(tiny.StopAt(training, step))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return Trainer(tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer.run(folder)
    return folder


@pytest.fixture(autouse=True)
def _nothing_drawn(undisturbed, monkeypatch):
    monkeypatch.setattr(Summaries, "_draw", lambda *_: None)


def _rollbacks(workdir):
    """[(step, count, factor)] of the records of metrics.jsonl."""
    return [(record["step"], record["rollback/count"], record["rollback/learning_rate_factor"])
            for record in tiny.records(workdir, "rollback/")]


def _saved(workdir):
    return [run_record.step_of(path) for path in run_record.list_checkpoints(workdir / "checkpoints")]


def _same(first, second):
    """Metrics, the last checkpoint's tensors and its record, to the last bit."""
    assert tiny.records(first) == tiny.records(second)
    a, b = tiny.tensors(first), tiny.tensors(second)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) and len(a) > 100
    records = []
    for folder in (first, second):
        assert _saved(folder) == [13]
        data = json.loads((folder / "checkpoints/step_00000013/run.json").read_text())
        del data["config"]["workdir"], data["files"], data["checksum"]
        records.append(data)
    assert records[0] == records[1]


def test_it_goes_back_to_before_the_row_and_on_at_half_the_rate(undisturbed, trainer):
    assert _rollbacks(undisturbed) == [(4, 1, 0.5)]
    steps = [record["step"] for record in tiny.records(undisturbed) if "test/top1" not in record]
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 13]  # the second 4 is the rollback's
    training = trainer.start(undisturbed)
    assert schedules.learning_rate(training.config.optim, training.plan, 5) > 0
    for record in tiny.records(undisturbed, "train/"):
        planned = schedules.learning_rate(training.config.optim, training.plan, record["step"] - 1)
        assert record["train/learning_rate"] == planned * (1.0 if record["step"] <= 4 else 0.5)
        assert np.isfinite(record["train/loss"]) and record["train/skipped_updates"] == 0
    assert (training.start.record.status.rollback_count, training.start.record.status.learning_rate_factor) == (1, 0.5)
    assert any("goes on from step 13; rolled back 1 of 3 times, learning rates x 0.5" in line
               for line in training.plan_lines())
    notes = [value.tensor.string_val[0] for path in (undisturbed / "train").glob("events*")
             for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value
             if value.tag == "rollback"]
    assert len(notes) == 1 and notes[0].startswith(b"rolled back to step 4 (1 of 3)")


def test_only_the_rate_differs_from_a_run_that_did_not_diverge(undisturbed, trainer, tmp_path):
    """Bit by bit what a clean run is whose rate was halved by hand behind step 4."""
    trainer.run_until(tmp_path, 4, poison=False)
    clean = trainer.start(tmp_path, poison=False)
    clean.status = dataclasses.replace(clean.status, learning_rate_factor=0.5)
    clean.run(tiny.NoInterrupts())
    a, b = tiny.tensors(undisturbed), tiny.tensors(tmp_path)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def _die(*args, **kwargs):
    raise KeyboardInterrupt


def _dies_when(original, condition):
    return lambda *args: _die() if condition(*args) else original(*args)


def _plant_kill(patch, training, moment):
    if moment == "amid the row":
        training._log = _dies_when(training._log, lambda step, *rest: step == 8)
    elif moment == "after the state was read":
        patch.setattr(divergence.Rollbacks, "write_down", _die)
    elif moment == "between the checkpoints removed":
        patch.setattr(checkpoint, "remove_after", lambda folder, step: (checkpoint.remove(
            run_record.list_checkpoints(folder)[-1]), _die()))
    elif moment == "after the cut":
        patch.setattr(MetricsFile, "write", _dies_when(MetricsFile.write,
                                                       lambda file, step, values: "rollback/count" in values))
    elif moment == "after the record":
        patch.setattr(training._save, "go_back", _die)
    elif moment == "after the save":
        training._iterator = _dies_when(training._iterator, lambda step: training.status.rollback_count)
    else:
        training._log = _dies_when(training._log, lambda step, *rest: step == 6)


def _kill(trainer, workdir, moment):
    """Start or go on, and die there; returns what is left: steps of checkpoints, (count, factor) of the first."""
    # Two kept: those amid the row would push out the one to go back to, were it not spared.
    training = trainer.start(workdir, keep_checkpoints=2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _plant_kill(patch, training, moment)
        training.run(tiny.NoInterrupts())
    record = run_record.read_record(run_record.list_checkpoints(workdir / "checkpoints")[0])
    return _saved(workdir), (record.status.rollback_count, record.status.learning_rate_factor)


def test_killed_at_one_moment_after_the_other_it_ends_the_same(undisturbed, trainer, tmp_path):
    def kill(moment):
        return _kill(trainer, tmp_path, moment)

    assert kill("amid the row") == ([4, 7], (0, 1.0))
    assert kill("after the state was read") == ([4, 7, 8], (0, 1.0))
    assert kill("between the checkpoints removed") == ([4, 7], (0, 1.0))
    metrics = tiny.records(tmp_path)
    assert kill("after the cut") == ([4], (0, 1.0))
    assert tiny.records(tmp_path) == [record for record in metrics if record["step"] <= 4]
    assert kill("after the record") == ([4], (0, 1.0))
    assert len(tiny.records(tmp_path, "rollback/")) == 1
    assert kill("after the save") == ([4], (1, 0.5))
    assert kill("on the way again") == ([4], (1, 0.5))
    trainer.run(tmp_path)
    _same(undisturbed, tmp_path)


@pytest.mark.slow
def test_a_process_killed_between_metrics_and_record_goes_on_as_undisturbed(undisturbed, trainer, tmp_path):
    script = f"""if True:
        import os, pathlib, signal
        from cct_tf.machine import runtime
        runtime.start_tensorflow()
        runtime.make_devices(4)
        from tests import undrawn
        from tests.training import tiny, test_rollback
        undrawn.leave_out()
        training = tiny.assemble(pathlib.Path({str(tmp_path)!r}), **test_rollback.RUN)
        test_rollback._poison(training, test_rollback._held(training))
        training._save.go_back = lambda step: os.kill(os.getpid(), signal.SIGKILL)
        training.run(tiny.NoInterrupts())"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)},
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert tiny.records(tmp_path, "rollback/")[0]["step"] == 4 and _saved(tmp_path) == [4]
    trainer.run(tmp_path)
    _same(undisturbed, tmp_path)


@pytest.mark.parametrize("step", [5, 7])
def test_stopped_by_a_signal_it_goes_back_to_where_the_undisturbed_run_does(undisturbed, trainer, tmp_path, step):
    """The checkpoint of step 5 is newer than that of step 4 and good, but the undisturbed run has none there."""
    trainer.run_until(tmp_path, step)
    assert _saved(tmp_path) == [4, step]
    trainer.run(tmp_path)
    _same(undisturbed, tmp_path)


def test_a_run_that_stopped_is_listed_and_taken_up_again_with_rollback(undisturbed, trainer, tmp_path, capsys):
    with pytest.raises(UserError, match="last good checkpoint is .*step_00000004$"):
        trainer.run(tmp_path, on_divergence="stop")
    assert _saved(tmp_path) == [4, 8]
    capsys.readouterr()
    checkpoints.main({"workdir": str(tmp_path), "verify": True, "json": True})
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(row["step"], row["damage"]) for row in listed if row["kind"] == "checkpoint"] == [(4, None), (8, None)]
    trainer.run(tmp_path)
    _same(undisturbed, tmp_path)


def test_two_replicas_roll_back_as_one_does(undisturbed, tmp_path):
    training = tiny.assemble(tmp_path, **RUN | {"num_replicas": 2, "eval_every_steps": 1000, "test_at_end": False})
    _poison(training, _held(training))
    training._pictures = dict
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 12))
    assert tiny.records(tmp_path, "rollback/") == tiny.records(undisturbed, "rollback/")
    expected, found = ([record["train/loss"] for record in tiny.records(folder, "train/")]
                       for folder in (undisturbed, tmp_path))
    assert len(found) == 12
    np.testing.assert_allclose(found, expected[:12], rtol=1e-5)


def test_after_three_rollbacks_it_stops_with_one_line(trainer, tmp_path):
    with pytest.raises(UserError) as stop:
        trainer.run(tmp_path, rollbacks=4)
    text = str(stop.value)
    assert "found 3 up to step 9 after 3 rollbacks (learning rates x 0.125)" in text and "step_00000004" in text
    assert "\n" not in text
    assert _rollbacks(tmp_path) == [(4, count, 0.5**count) for count in (1, 2, 3)]
    with pytest.raises(UserError, match="after 3 rollbacks"):  # the count is kept
        trainer.run(tmp_path, rollbacks=4)


def test_without_a_checkpoint_before_the_row_it_goes_back_to_the_initial_weights(trainer, tmp_path):
    training = trainer.start(tmp_path, first=2)
    initial = [variable.numpy() for variable in training.network.model.trainable_variables]
    with pytest.raises(KeyboardInterrupt):
        training._iterator = _dies_when(training._iterator, lambda step: training.status.rollback_count)
        training.run(tiny.NoInterrupts())
    for variable, value in zip(training.network.model.trainable_variables, initial, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert len(tiny.records(tmp_path)) == 1 and _rollbacks(tmp_path) == [(0, 1, 0.5)]
    again = trainer.run(tmp_path, first=2)
    assert again.start.step == 0 and again.start.record.status.rollback_count == 1
    first = tiny.records(tmp_path, "train/")[1]
    assert first["step"] == 2
    assert first["train/learning_rate"] == 0.5 * schedules.learning_rate(again.config.optim, again.plan, 1) > 0


def test_with_nothing_to_go_back_to_it_stops(trainer, tmp_path):
    """Begun without rollback, stopped by a signal amid the row: the only checkpoint is of no use."""
    trainer.run_until(tmp_path, 2, first=1, on_divergence="stop")
    with pytest.raises(UserError, match="found 3 up to step 4; .*no good checkpoint was saved before them"):
        trainer.run(tmp_path, first=1)
    assert _saved(tmp_path) == [2]


def test_a_damaged_target_is_passed_over(trainer, tmp_path):
    trainer.run_until(tmp_path, 6, keep_checkpoints=9)
    again = trainer.start(tmp_path, keep_checkpoints=9)
    (tmp_path / "checkpoints/step_00000004/weights.index").write_bytes(b"damaged")
    again.run(tiny.NoInterrupts())
    assert [record["step"] for record in tiny.records(tmp_path, "rollback/")] == [0]
    assert np.isfinite(tiny.records(tmp_path, "train/")[-1]["train/loss"])


def test_the_patience_of_a_changed_config_begins_anew_where_it_goes_back_to(trainer, tmp_path):
    """The checkpoint gone back to is of before the change, of a run that had waited long enough."""
    training = trainer.start(tmp_path, early_stop_evaluations=2)
    path, folder = tmp_path / "checkpoints/step_00000004", Workdir(tmp_path)
    before = functools.partial(run_record.Record, resolved=Resolved(8, (), {}), step=4, finished=True, versions={},
                               status=RunStatus(4, None, 2))
    for config, without_best in ((training.config.as_dict(), 2), (training.config.as_dict() | {"seed": 7}, 0)):
        status = resume.status_at(resume.Start(path, before(config)), training.config, folder, training.console)
        assert status.evaluations_without_best == without_best and status.is_over(2) == bool(without_best)


@pytest.mark.parametrize("scale, outcomes, expected", [
    (4.0, [True, False, False, False, False, True], [1, 1, 1, 1, 1, 6]),  # falls twice, then counts
    (1.0, [True, False, True, False, False], [1, 1, 3, 3, 3]), (None, [False, False, True, False], [0, 0, 3, 3])])
def test_the_row_begins_with_its_first_skipped_update_counted_or_not(scale, outcomes, expected):
    state = TrainState(None if scale is None else LossScale())
    if scale is not None:
        state.loss_scale.scale.assign(scale)
    starts = []
    for done in outcomes:
        state.add(1.0, 1.0, 1.0, tf.constant(done))
        starts.append(state.row_start())
    assert starts == expected


def test_a_record_of_a_rollback_that_was_not_saved_is_cut(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for count in (1, 2):
        file.write(4, {"rollback/count": count})
    file.cut(4, 0, 1)
    assert file.read() == [{"step": 4, "rollback/count": 1}]


def test_a_checkpoint_of_before_there_were_rollbacks_has_had_none(undisturbed, tmp_path):
    data = json.loads((undisturbed / "checkpoints/step_00000013/run.json").read_text())
    del data["rollback_count"], data["learning_rate_factor"], data["checksum"]
    (tmp_path / "run.json").write_text(json.dumps(data | {"files": {}}))
    record = run_record.read_record(tmp_path)
    assert (record.status.rollback_count, record.status.learning_rate_factor) == (0, 1.0)


@pytest.mark.parametrize("changes", [{"optimizer": "schedule_free_adamw", "schedule": "constant"},
                                     {"average_last": 0.15}])  # 11 steps: two of them before the checkpoint
def test_averages_of_every_kind_go_back_with_the_weights(changes, tmp_path, monkeypatch):
    training = tiny.assemble(tmp_path, **RUN | tiny.NO_MASKS | {
        "ema_decay": 0.0, "eval_every_steps": 1000, "test_at_end": False} | changes)
    _poison(training, _held(training))
    go_back, moved, left = training._roll_back, [], []

    def watched(*args):
        reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints/step_00000004/weights"))
        network = training.network
        parts = {"ema": network.averaged.trainable_variables, "weights": network.model.trainable_variables}
        held = {f"{part}/{variable.path.partition('/')[2].replace('/', '.S')}": variable.value
                for part, variables in parts.items() for variable in variables}
        held |= {f"optimizer/{variable.path.partition('/')[2]}": variable.value
                 for variable in network.optimizer.variables if "learning_rate" not in variable.path}
        if "average_last" in changes:
            held["average/count"] = network.trackable.average["count"]

        def differing():
            return {name for name, variable in held.items()
                    if not np.array_equal(variable.numpy(), reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"))}

        moved.extend(differing())
        found = go_back(*args)
        left.extend(differing())
        return found

    monkeypatch.setattr(training, "_roll_back", watched)
    training.run(tiny.NoInterrupts())
    assert training.status.rollback_count == 1 and int(training.network.state.step.numpy()) == 13
    assert not left and {name.split("/")[0] for name in moved} >= {"ema", "weights", "optimizer"}
    assert ("average/count" in moved) == ("average_last" in changes)
