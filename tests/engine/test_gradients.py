"""One function of the weights gives the gradients, whatever XLA compiles of it and whichever replica calls it."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.engine import losses
from cct_tf.engine.gradients import Gradients
from cct_tf.layers import features_first
from cct_tf.machine import runtime
from cct_tf.models import create_model

SIZE = 4
MODELS = {"cct": {"name": "cct_2_3x1_16", "drop_path_rate": 0.2},
          "vit, sine": {"name": "vit_2_4_16", "positional_embedding": "sine", "dropout_rate": 0.1}}


def _batch(side):
    generator = np.random.default_rng(0)
    return (tf.constant(generator.normal(size=[SIZE, side, side, 3]), tf.float32), tf.one_hot([0, 1, 2, 0], 3),
            tf.constant([1, 2, 3, 4], tf.uint32))


def _of_tape(model, images, labels, seeds):
    with tf.GradientTape() as tape:
        logits = model(images, seeds=seeds, training=True)
        loss = tf.reduce_sum(losses.cross_entropy(labels, logits)) / 8
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables]), loss


@pytest.mark.parametrize(("model", "jit", "fast_forms"), [
    *(("cct", jit, fast_forms) for jit in ("encoder", "all") for fast_forms in (True, False)), ("cct", "off", True),
    ("vit, sine", "off", True), ("vit, sine", "encoder", True)])
def test_they_are_those_of_the_whole_network(model, jit, fast_forms, monkeypatch):
    monkeypatch.setattr(features_first, "_FEWEST_TOKENS", 1)
    model = create_model(num_classes=3, **MODELS[model])
    batch = _batch(16)
    gradients = Gradients(model, losses.cross_entropy, 8, jit, "CPU", fast_forms)
    weights = [tf.convert_to_tensor(variable.value) for variable in gradients.variables]
    found, loss, accuracy = gradients.for_size(SIZE)(weights, *batch, tf.constant(4.0))
    expected, expected_loss = _of_tape(model, *batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert float(accuracy) * 8 in range(SIZE + 1)
    for variable, ours, plain in zip(model.trainable_variables, found, expected, strict=True):
        plain = 4 * plain.numpy()  # the scale
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=2e-5 * np.abs(plain).max() + 1e-7,
                                   err_msg=variable.path)


def test_a_replica_computes_on_its_own_device_with_its_own_weights():
    devices = runtime.make_devices(2)
    with devices.strategy.scope():
        model = create_model("cct_2_3x1_16", num_classes=3)
    gradients = Gradients(model, losses.cross_entropy, 8)
    function = gradients.for_size(SIZE)
    assert not [read for read in function.graph.variables if read.trainable]  # it reads none by itself
    images, labels, seeds = _batch(16)

    @tf.function
    def run():
        def replica():
            weights = [tf.convert_to_tensor(variable.value) for variable in gradients.variables]
            return function(weights, images, labels, seeds, tf.ones([]))[1]
        return devices.strategy.run(replica)

    calls = [operation for operation in run.get_concrete_function().graph.get_operations()
             if "PartitionedCall" in operation.type]
    assert [call.device[-5:] for call in calls] == ["CPU:0", "CPU:1"]
    # Inlined, what it does would all go to the first device.
    assert function.function_def.attr["_noinline"].b
