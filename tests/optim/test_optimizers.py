"""AdamW as the step uses it: which variables decay, and one update by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf import config
from cct_tf.optim.optimizers import make_optimizer


def _variables():
    return [keras.Variable(np.full((2, 2), 2.0), name="kernel"), keras.Variable(np.full((2,), 2.0), name="bias")]


@pytest.mark.parametrize(("mask", "decayed"), [("matrices", [True, False]), ("all", [True, True])])
def test_update_equals_adamw_by_hand(mask, decayed):
    """arXiv:1711.05101 Algorithm 2 with the decay multiplied by the learning rate, first step."""
    optim = config.OptimConfig(learning_rate=0.1, weight_decay=0.5, weight_decay_mask=mask, adam_epsilon=1e-8)
    variables = _variables()
    optimizer = make_optimizer(optim, variables)
    gradient = 3.0
    optimizer.apply_gradients([(tf.fill(v.shape, gradient), v) for v in variables])
    # After one step the bias-corrected moments are g and g^2, so the Adam part is lr * g / (|g| + eps).
    for variable, decays in zip(variables, decayed, strict=True):
        expected = 2.0 * (1 - 0.1 * 0.5 * decays) - 0.1 * gradient / (gradient + 1e-8)
        np.testing.assert_allclose(variable.numpy(), np.full(variable.shape, expected), rtol=1e-6)


def test_positions_decay_and_one_dimensional_variables_do_not():
    from cct_tf.models import create_model
    from cct_tf.optim.decay_mask import undecayed

    model = create_model("cct_2_3x1_16", num_classes=3)
    names = {variable.path.split("/", 1)[1] for variable in undecayed(model.trainable_variables, "matrices")}
    assert "positions/embedding" not in names
    assert names and all(name.rsplit("/", 1)[1] in ("bias", "gamma", "beta") for name in names)
