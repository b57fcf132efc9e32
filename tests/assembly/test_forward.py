"""Evaluation in pieces, compiled or not, gives the model's logits."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly import tuning
from cct_tf.assembly.forward import Forward
from cct_tf.models import create_model


@pytest.mark.parametrize("jit", tuning.JIT)
@pytest.mark.parametrize("images", [1, 3, 6, 7])
def test_logits_are_the_models(images, jit, monkeypatch):
    monkeypatch.setattr(tuning, "_CACHED", 3 * 64 * 192)  # three images of 64 tokens with queries, keys and values
    model = create_model("cct_2_3x1_16", num_classes=3)
    batch = tf.random.stateless_normal([images, 16, 16, 3], [1, 2])
    logits = tf.function(Forward(model, "CPU", jit))(batch)
    np.testing.assert_allclose(logits, model(batch, training=False), rtol=1e-4, atol=1e-5)
