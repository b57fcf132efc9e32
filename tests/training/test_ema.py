"""The average of the weights in a run: what it is made of, who judges by it, and which weights a command loads."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cct_tf.errors import UserError
from cct_tf.evaluation.metrics import Evaluation
from cct_tf.machine import runtime
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.training import loop, resume
from tests.commands import call
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")
RUN = {"train_steps": 12, "eval_every_steps": 4, "checkpoint_every_steps": 4, "log_every_steps": 4,
       "validation_fraction": 0.2, "ema_decay": 0.8} | tiny.NO_MASKS


def _values(variables):
    return [variable.numpy().astype(np.float64) for variable in variables]


@pytest.mark.parametrize(("num_replicas", "warmup"), [(2, True), (1, False)])
def test_the_average_follows_done_updates_and_no_others(tmp_path, num_replicas, warmup):
    """Step 2 of 6 is skipped: the average stands still, and the warm-up does not count it."""
    training = tiny.assemble(tmp_path, num_replicas=num_replicas, ema_decay=0.35, ema_warmup=warmup, **tiny.NO_MASKS)
    shadow, weights = training.network.averaged.trainable_variables, training.network.model.trainable_variables
    expected = _values(weights)
    assert all(np.array_equal(a, b) for a, b in zip(_values(shadow), expected, strict=True))
    batches = training.batches(0, 6).enumerate().map(
        lambda step, batch: batch | {"label": batch["label"] * tf.where(step == 2, np.nan, 1.0)})
    iterator, t = runtime.distribute(training.devices, batches, 16), 0
    for step in range(6):
        training.network.train_step.run(iterator, [0.01])
        if step != 2:
            d = min(0.35, (1 + t) / (10 + t)) if warmup else 0.35
            expected = [d * old + (1 - d) * new for old, new in zip(expected, _values(weights), strict=True)]
            t += 1
        for variable, wanted in zip(shadow, expected, strict=True):
            for copy in training.devices.strategy.experimental_local_results(variable.value):
                np.testing.assert_allclose(copy.numpy(), wanted, rtol=2e-5, atol=1e-6)
    assert int(training.network.state.skipped) == 1
    moved = max(np.abs(a - b).max() for a, b in zip(_values(weights), expected, strict=True))
    assert moved > 1e-3  # the average is not the weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with an average, ended."""
    folder = tmp_path_factory.mktemp("finished")
    return tiny.train(folder, **RUN)


def test_replicas_and_micro_batches_give_the_same_average(finished, tmp_path):
    """Losses of both kinds of weights, which a wrong average on the second replica would change."""
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, **RUN)
    for name in ("eval/loss", "eval_ema/loss"):
        expected, found = ([record[name] for record in tiny.records(folder, name)]
                           for folder in (finished.workdir.path, tmp_path))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_both_are_in_one_record_and_in_folders_with_the_same_tags(finished):
    folder = finished.workdir.path
    names = {f"{prefix}/{name}" for prefix in ("eval", "eval_ema") for name in ("top1", "top5", "loss")}
    records = tiny.records(folder, "eval")
    assert [record["step"] for record in records] == [4, 8, 12]
    for record in records:
        assert set(record) == names | {"step", "epoch"}
        assert record["eval/loss"] != record["eval_ema/loss"]
    for prefix in ("eval", "eval_ema"):
        events = EventAccumulator(str(folder / prefix), size_guidance={"tensors": 0})
        events.Reload()
        for name in ("top1", "top5", "loss"):
            written = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(f"eval/{name}")]
            np.testing.assert_allclose(written, [record[f"{prefix}/{name}"] for record in records], rtol=1e-6)


def test_the_checkpoint_holds_the_average_of_each_trained_variable_by_its_path(finished):
    path = run_record.list_checkpoints(finished.workdir.checkpoints)[-1]
    reader = tf.train.load_checkpoint(str(path / "weights"))
    parts = {part: {name.removeprefix(f"{part}/") for name in reader.get_variable_to_shape_map()
                    if name.startswith(f"{part}/")} for part in ("weights", "ema")}
    assert parts["ema"] == parts["weights"] and len(parts["ema"]) == len(finished.network.model.trainable_variables)
    assert run_record.read_record(path).keeps_average
    line, = (line for line in finished.plan_lines() if " average " in line)
    assert "decay 0.8 after a warm-up" in line


def test_a_run_without_an_average_has_no_such_part_and_one_network(tmp_path):
    training = tiny.train(tmp_path, train_steps=2)
    path, = run_record.list_checkpoints(tmp_path / "checkpoints")
    reader = tf.train.load_checkpoint(str(path / "weights"))
    assert not any(name.startswith("ema") for name in reader.get_variable_to_shape_map())
    assert training.network.averaged is None and not (tmp_path / "eval_ema").exists()
    assert not run_record.read_record(path).keeps_average
    assert not any(" average " in line for line in training.plan_lines())


def _with_accuracy(correct):
    """An Evaluation of ten examples, `correct` of them right."""
    labels = np.zeros(10, np.int32)
    ranks = np.where(np.arange(10) < correct, 0, 1)
    return Evaluation(labels, ranks.astype(np.int32), ranks, np.ones(10, np.float32), 3)


def test_the_best_follows_the_average_and_is_tested_with_it(tmp_path, monkeypatch, capsys):
    """Raw weights say step 12, the average says step 8."""
    shown = iter([{"eval": _with_accuracy(raw), "eval_ema": _with_accuracy(ema)}
                  for raw, ema in ((1, 2), (2, 9), (10, 3))])
    plain = loop.Evaluator.__call__

    def told(evaluator, **kwargs):
        return next(shown) if "eval" in evaluator._models else plain(evaluator, **kwargs)

    monkeypatch.setattr(loop.Evaluator, "__call__", told)
    training = tiny.assemble(tmp_path, **RUN)
    training.console.quiet = False
    test = training.run(tiny.NoInterrupts())
    path, = run_record.list_checkpoints(tmp_path / "best")
    assert path.name == "step_00000008"
    assert run_record.read_record(path).status.best == {"step": 8, "top1": 0.9, "loss": 1.0}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluation")]
    assert "top-1 20.00%, loss 1.0000; EMA top-1 90.00%, loss 1.0000 (best so far)" in lines[1]
    assert any("test  best EMA weights: top-1" in line for line in training.result_lines(test, 1.0))
    # What the test used: the averages of step 8, read from the file by name.
    reader = tf.train.load_checkpoint(str(path / "weights"))
    for variable in training.network.model.trainable_variables:
        name = variable.path.partition("/")[2].replace("/", ".S")
        assert np.array_equal(reader.get_tensor(f"ema/{name}/.ATTRIBUTES/VARIABLE_VALUE"), variable.numpy())


def test_evaluate_loads_the_average_unless_told_otherwise(finished, capfd):
    folder = finished.workdir.path
    record = tiny.records(folder, "eval")[-1]
    for asked, weights, prefix in (("auto", "ema", "eval_ema"), ("ema", "ema", "eval_ema"), ("raw", "raw", "eval")):
        status, out, err = call(capfd, "evaluate", f"--workdir={folder}", "--checkpoint=last", "--split=validation",
                                f"--weights={asked}", "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert found["weights"] == weights
        assert [found[name] for name in ("top1", "top5")] == [record[f"{prefix}/{name}"] for name in ("top1", "top5")]
        assert found["loss"] == pytest.approx(record[f"{prefix}/loss"], rel=1e-6)


def test_the_test_at_the_end_is_evaluate_s(finished, capfd):
    status, out, _ = call(capfd, "evaluate", f"--workdir={finished.workdir.path}")
    record, = tiny.records(finished.workdir.path, "test")
    assert status == 0 and "EMA weights, test split" in out
    assert f"top-1 {100 * record['test/top1']:.2f}%" in out and f"loss {record['test/loss']:.4f}" in out


def test_restore_weights_takes_every_weight_or_refuses(finished, tmp_path):
    raw = tiny.assemble(tmp_path / "other", train_steps=2)
    raw.run(tiny.NoInterrupts())
    path, = run_record.list_checkpoints(tmp_path / "other/checkpoints")
    with pytest.raises(UserError, match="found others"):
        checkpoint.restore_weights(path, raw.network.model, "ema")


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.9), (0.9, 0.0)])
def test_an_average_is_neither_begun_nor_dropped_in_mid_run(tmp_path, before, after):
    """The best was chosen by the other weights; refused from run.json alone."""
    settings = tiny.settings(tmp_path, ema_decay=before)
    folder = tmp_path / "checkpoints/step_00000004"
    folder.mkdir(parents=True)
    run_record.write_record(folder, run_record.Record(settings.as_dict(), Resolved(8, (), {}), 4,
                                                      RunStatus(4), False, {}))
    changed = tiny.settings(tmp_path, ema_decay=after, accept_config_change=True)
    with pytest.raises(UserError, match="--ema_decay .*(no|an) average"):
        resume.find_start(changed, tiny.Workdir(tmp_path), tiny.Console(quiet=True))


def test_a_record_of_before_there_were_averages_asks_for_raw_weights(tmp_path):
    old = tiny.settings(tmp_path).as_dict()
    for name in ("ema_decay", "ema_warmup", "early_stop_evaluations"):
        del old[name]
    record = run_record.Record(old, Resolved(8, (), {}), 4, RunStatus(4), False, {})
    assert [run_record.choose_weights(record, asked) for asked in ("auto", "raw")] == ["raw", "raw"]
    with pytest.raises(UserError, match="--weights"):
        run_record.choose_weights(record, "ema")
