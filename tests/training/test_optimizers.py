"""Runs with each optimizer: the same losses however they are computed, and the same bits after a resume.

That the kernels of --fused_update and Keras' operations are the same update is tests/optim/test_fused.py's.

AdamW, the default, is tested so in test_step.py and test_resume.py.
"""

import shutil

import numpy as np
import pytest

from cct_tf.errors import Interrupted
from cct_tf.training import loop
from tests.training import tiny

SETTINGS = tiny.NO_MASKS | {"train_steps": 6, "layer_decay": 0.7, "weight_decay": 0.1, "warmup_epochs": 0.0,
                            "test_at_end": False}
DECAYS = {"cautious_weight_decay": True, "corrected_weight_decay": True}
RATES = {"adamw": 1e-3, "lamb": 1e-2, "muon": 1e-3}


def _losses(folder):
    return [record["train/loss"] for record in tiny.records(folder, "train/")]


def _variables(training):
    return [*training.network.model.weights, *training.network.optimizer.variables]


# The others work element by element, as AdamW does. Muon has variables with a kernel and without; with an average of
# the weights TensorFlow optimised its update differently on two replicas (Muon.lr_adjust).
@pytest.mark.parametrize(("name", "changes"), [("adamw", {}), ("lamb", {}), ("muon", {"ema_decay": 0.9} | DECAYS)])
def test_losses_depend_neither_on_replicas_nor_micro_batches_nor_a_stop(name, changes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    run = SETTINGS | {"optimizer": name, "learning_rate": RATES[name]} | changes
    trainer = tiny.Trainer(tmp_path / "trainer", **run)
    reference = trainer.train(tmp_path / "reference")
    expected = [variable.numpy() for variable in _variables(reference)]
    losses = _losses(tmp_path / "reference")
    assert len(losses) == 6 and min(losses[1:]) < losses[0]

    spread = tiny.assemble(tmp_path / "spread", num_replicas=2, accumulate_steps=2, **run)
    with pytest.raises(Interrupted):  # at its end a run restores the best weights, the same ones on both replicas
        spread.run(tiny.StopAt(spread, 5))
    np.testing.assert_allclose(_losses(tmp_path / "spread"), losses[:5], rtol=1e-5)
    for variable in [*spread.network.model.trainable_variables, *spread.network.optimizer.variables]:
        first, second = spread.devices.strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy(), err_msg=variable.path)

    stopped = trainer.assemble(tmp_path / "stopped")
    with pytest.raises(Interrupted, match="saved step 3 of 6"):
        stopped.run(tiny.StopAt(stopped, 3))
    if name == "adamw":
        _goes_on_with_the_other_form_of_the_update(tmp_path, stopped, losses, run)
    resumed = trainer.train(tmp_path / "stopped")
    assert _losses(tmp_path / "stopped") == losses
    for variable, other in zip(_variables(resumed), expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other, err_msg=variable.path)


def _goes_on_with_the_other_form_of_the_update(tmp_path, stopped, losses, run):
    """Of all optimizers, but not of a whole run: tests/optim/test_fused.py."""
    shutil.copytree(tmp_path / "stopped", tmp_path / "other")
    other = tiny.train(tmp_path / "other", fused_update=False, **run)
    assert stopped.network.optimizer.fused and not other.network.optimizer.fused
    np.testing.assert_allclose(_losses(tmp_path / "other"), losses, rtol=1e-6)
