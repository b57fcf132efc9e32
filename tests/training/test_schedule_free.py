"""Runs with schedule-free AdamW: how they are computed and stopped changes nothing, and the average is the network."""

import json

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.machine import runtime
from cct_tf.runs import run_record
from cct_tf.training import loop
from tests.commands import call
from tests.training import tiny

RUN = {"optimizer": "schedule_free_adamw", "schedule": "constant", "learning_rate": 5e-3, "train_steps": 8,
       "layer_decay": 0.7, "weight_decay": 0.1, "eval_every_steps": 4, "checkpoint_every_steps": 4,
       "validation_fraction": 0.2} | tiny.NO_MASKS


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **RUN)


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    trainer.train(folder)
    return folder


def _of(folder, name):
    return [record[name] for record in tiny.records(folder, name)]


def test_a_run_that_was_stopped_ends_with_the_same_bits(trainer, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    _, found = trainer.require_equal_after_stop(tmp_path, 3)
    bases = [name for name in found if name.startswith("optimizer/") and "_base" in name]
    assert len(bases) == len(trainer.first.network.model.trainable_variables)
    assert _of(tmp_path / "stopped", "eval/loss") == _of(whole, "eval/loss")


@pytest.mark.parametrize("changes", [{"num_replicas": 2, "accumulate_steps": 2}, {"jit": "on", "fused_update": False}],
                         ids=["replicas", "jit"])
def test_neither_replicas_nor_micro_batches_nor_xla_change_it(whole, tmp_path, changes):
    training = tiny.train(tmp_path, test_at_end=False, **RUN | changes)
    for name in ("train/loss", "eval/loss"):
        np.testing.assert_allclose(_of(tmp_path, name), _of(whole, name), rtol=2e-5)
    for variable in [*training.network.averaged.trainable_variables, *training.network.optimizer.variables]:
        first, *others = training.devices.strategy.experimental_local_results(variable.value)
        assert all(np.array_equal(first.numpy(), other.numpy()) for other in others), variable.path


def _key(part, variable):
    """The name of a weight in TensorFlow's file."""
    return f"{part}/{variable.path.partition('/')[2].replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def test_what_is_evaluated_is_the_average(trainer, whole, capfd):
    """x = (y - (1 - beta_1) z) / beta_1, of what the checkpoint holds; evaluate and the best take it."""
    path = run_record.list_checkpoints(whole / "checkpoints")[-1]
    found = tiny.tensors(whole)
    for variable in trainer.first.network.model.trainable_variables:
        x, y = (found[_key(part, variable)] for part in ("ema", "weights"))
        z = found[f"optimizer/{variable.path.replace('/', '_')}_base/.ATTRIBUTES/VARIABLE_VALUE"]
        np.testing.assert_allclose(x, (y - 0.1 * z) / 0.9, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(x, y)
    assert run_record.choose_weights(run_record.read_record(path), "auto") == "average"
    assert not (whole / "eval_ema").exists()
    record = tiny.records(whole, "eval")[-1]
    for asked in ("auto", "average"):
        status, out, err = call(capfd, "evaluate", f"--workdir={whole}", "--checkpoint=last", "--split=validation",
                                f"--weights={asked}", "--json")
        assert (status, err) == (0, "") and json.loads(out)["weights"] == "average"
        assert json.loads(out)["loss"] == pytest.approx(record["eval/loss"], rel=1e-6)
    for asked in ("raw", "ema"):
        with pytest.raises(UserError, match="--optimizer=schedule_free_adamw, whose average is the network"):
            run_record.choose_weights(run_record.read_record(path), asked)


def test_a_skipped_update_changes_nothing(trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    network = training.network
    held = [*network.model.trainable_variables, *network.averaged.trainable_variables,
            *(variable for variable in network.optimizer.variables if "learning_rate" not in variable.path)]
    batches = training.batches(0, 2).enumerate().map(
        lambda step, batch: batch | {"label": batch["label"] * tf.where(step == 1, np.nan, 1.0)})
    iterator = runtime.distribute(training.devices, batches, 16)
    network.train_step.run(iterator, [0.01])
    before = [variable.numpy() for variable in held]
    network.train_step.run(iterator, [0.01])
    assert int(network.state.skipped) == 1
    for variable, value in zip(held, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_a_network_starts_from_the_average_and_its_base_with_it(whole, tmp_path):
    training = tiny.assemble(tmp_path, init_from=str(whole), freeze="tokenizer", **RUN)
    best, = run_record.list_checkpoints(whole / "best")
    network = training.network
    reader = tf.train.load_checkpoint(str(best / "weights"))
    for variable in (*network.model.trainable_variables, *network.model.non_trainable_variables):
        if variable.dtype == "float32":
            np.testing.assert_array_equal(variable.numpy(), reader.get_tensor(_key("ema", variable)))
    assert "averaged weights" in training.resolved.initial_weights["from"]
    for variable, base in zip(network.model.trainable_variables, network.optimizer.bases, strict=True):
        np.testing.assert_array_equal(variable.numpy(), base.numpy())
    frozen = network.averaged.tokenizer.trainable_variables[0].numpy()
    network.train_step.run(runtime.distribute(training.devices, training.batches(0, 1), 16), [0.01])
    np.testing.assert_array_equal(network.averaged.tokenizer.trainable_variables[0].numpy(), frozen)
    line, = (line for line in training.plan_lines() if " average " in line)
    assert "0.9 of it in the weights; evaluated in their place" in line


@pytest.mark.parametrize(("before", "now", "told"), [
    ({}, {"optimizer": "schedule_free_adamw"}, "expected --optimizer=schedule_free_adamw off, for it holds no average"),
    ({"average_last": 0.1}, {"ema_decay": 0.9}, "expected --average_last on, .* found --ema_decay"),
    ({}, {"average_last": 0.1}, "expected --average_last off, for it holds no average"),
    ({"optimizer": "schedule_free_adamw"}, {"optimizer": "schedule_free_adamw", "beta_1": 0.95},
     "expected --beta_1=0.9, by which its average follows from the weights, found 0.95"),
    ({"optimizer": "schedule_free_adamw"}, {"ema_decay": 0.9}, "expected --optimizer=schedule_free_adamw on, .* found "
     "--ema_decay")])
def test_a_run_neither_begins_nor_leaves_it(tmp_path, before, now, told):
    from cct_tf.runs.resolved import Resolved
    from cct_tf.runs.run_status import RunStatus
    from cct_tf.training import resume
    settings = tiny.settings(tmp_path, schedule="constant", **before)
    folder = tmp_path / "checkpoints/step_00000004"
    folder.mkdir(parents=True)
    run_record.write_record(folder, run_record.Record(settings.as_dict(), Resolved(8, (), {}), 4, RunStatus(4), False,
                                                      {}))
    changed = tiny.settings(tmp_path, schedule="constant", accept_config_change=True, **now)
    with pytest.raises(UserError, match=told):
        resume.find_start(changed, tiny.Workdir(tmp_path), tiny.Console(quiet=True))
