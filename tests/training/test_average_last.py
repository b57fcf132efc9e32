"""A run that averages the weights of its last epochs: the average chooses the best, and a stop changes no bit of it."""

import json

import numpy as np
import pytest

from cct_tf.machine import runtime
from cct_tf.runs import run_record
from cct_tf.training import loop
from tests.commands import call
from tests.training import tiny

# 1,151 images, of which 0.08 epochs are 5.8 steps of 16: the average begins after update 6 of 12.
RUN = {"train_steps": 12, "average_last": 0.08, "validation_fraction": 0.2, "eval_every_steps": 4,
       "checkpoint_every_steps": 4, "schedule": "constant"} | tiny.NO_MASKS


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **RUN)


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    trainer.train(folder)
    return folder


def test_it_is_the_mean_of_the_weights_after_the_last_updates(trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    assert training.train_split.num_examples == 1151
    network, seen = training.network, []
    iterator = runtime.distribute(training.devices, training.batches(0, 12), 16)
    for step in range(12):
        network.train_step.run(iterator, [0.01])
        values = [variable.numpy().astype(np.float64) for variable in network.model.trainable_variables]
        seen = [*(seen if step > 6 else ()), values]
        for average, *values in zip(network.averaged.trainable_variables, *seen, strict=True):
            np.testing.assert_allclose(average.numpy(), np.mean(values, axis=0), rtol=1e-4, atol=1e-6)
    assert len(seen) == 6
    line, = (line for line in training.plan_lines() if " average " in line)
    assert "after each update of the last 0.08 epochs; evaluated beside them, chooses the best" in line


def test_a_run_that_was_stopped_within_it_ends_with_the_same_bits(trainer, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    _, found = trainer.require_equal_after_stop(tmp_path, 9)
    assert found["average/count/.ATTRIBUTES/VARIABLE_VALUE"] == 6
    assert tiny.records(tmp_path / "stopped", "eval") == tiny.records(whole, "eval")


def test_replicas_and_micro_batches_give_the_same_average(whole, tmp_path):
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, test_at_end=False, **RUN)
    for name in ("eval/loss", "eval_average/loss"):
        expected, found = ([record[name] for record in tiny.records(folder, name)] for folder in (whole, tmp_path))
        assert len(found) == 3
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_both_are_evaluated_and_the_average_is_chosen(whole, capfd):
    first, _, last = tiny.records(whole, "eval")
    assert first["eval_average/loss"] == pytest.approx(first["eval/loss"], rel=1e-6)  # it has not begun
    assert abs(last["eval_average/loss"] - last["eval/loss"]) > 1e-6 and (whole / "eval_average").is_dir()
    record = run_record.read_record(run_record.list_checkpoints(whole / "checkpoints")[-1])
    best = max(tiny.records(whole, "eval"), key=lambda each: (each["eval_average/top1"], -each["step"]))
    assert record.status.best["step"] == best["step"] and record.status.best["top1"] == best["eval_average/top1"]
    for asked, weights, prefix in (("auto", "average", "eval_average"), ("raw", "raw", "eval")):
        status, out, err = call(capfd, "evaluate", f"--workdir={whole}", "--checkpoint=last", "--split=validation",
                                f"--weights={asked}", "--json")
        assert (status, err) == (0, "") and json.loads(out)["weights"] == weights
        assert json.loads(out)["loss"] == pytest.approx(last[f"{prefix}/loss"], rel=1e-6)
    status, out, _ = call(capfd, "evaluate", f"--workdir={whole}")
    assert status == 0 and "averaged weights, test split" in out
    status, _, err = call(capfd, "evaluate", f"--workdir={whole}", "--weights=ema")
    assert status == 2 and err.strip().endswith("--weights: expected auto, raw or average for this run, found 'ema'")
