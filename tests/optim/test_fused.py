"""The update by one kernel a variable against Keras' own operations; test_optimizers.py has both against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.machine import runtime
from cct_tf.models import create_model
from cct_tf.optim.fused import against
from cct_tf.optim.optimizers import make_optimizer
from cct_tf.runs import checkpoint
from cct_tf.settings import config

RATES = (1e-2, 1e-2, 3e-3, 1e-3)
SHAPES = {"tokenizer/kernel": (3, 3, 3, 8), "block_0/kernel": (8, 16), "block_1/kernel": (16, 8), "block_1/bias": (67,),
          "head/kernel": (8, 5), "head/bias": (5,)}
SETTINGS = {"weight_decay": 0.125, "layer_decay": 0.5}
# Sums of few powers of 2: Keras rounds Python's numbers to float32 for variables of float64 too.
EXACT = {"beta_1": 0.875, "beta_2": 0.96875, "momentum": 0.75, "adam_epsilon": 2.0**-20}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
# Muon's matrices are Keras' own business, and of float32 alone.
OPTIMIZERS = [("adamw", {}, "float32"), ("adamw", {}, "float64"), ("adamw", {"weight_decay_mask": "all"}, "float32"),
              ("sgd", {}, "float32"), ("sgd", {}, "float64"), ("sgd", {"momentum": 0.0}, "float64"),
              ("muon", {}, "float32"), ("adamw", {"cautious_weight_decay": True}, "float32"),
              ("muon", {"cautious_weight_decay": True, "corrected_weight_decay": True}, "float32"),
              ("adamw", {"corrected_weight_decay": True, "learning_rate": 0.125}, "float64")]


def _variables(dtype="float32", scale=1.0):
    draw, made = np.random.default_rng(0), []
    for path, shape in SHAPES.items():
        part, name = path.split("/")
        with keras.name_scope("net"), keras.name_scope(part):
            made.append(keras.Variable(scale * draw.normal(size=shape), dtype=dtype, name=name))
    return made


def _gradients(kind, dtype, step):
    draw = np.random.default_rng(step + 1)
    scale = {"random": 1.0, "zeros": 0.0, "huge": 1e15 if dtype == "float32" else 1e100,
             "tiny": 1e-15 if dtype == "float32" else 1e-100}[kind]
    return [(scale * draw.normal(size=shape)).astype(dtype) for shape in SHAPES.values()]


def _updated(fused, kind, dtype, scale=1.0, **settings):
    """(variables, optimizer) after an update at each of RATES."""
    variables = _variables(dtype, scale)
    optimizer = make_optimizer(config.OptimConfig(**SETTINGS, **settings), variables, fused)
    for step, rate in enumerate(RATES):
        optimizer.learning_rate.assign(rate)
        optimizer.apply_gradients(zip(map(tf.constant, _gradients(kind, dtype, step)), variables, strict=True))
    return variables, optimizer


def _assert_close(found, wanted, tolerance, path):
    """Up to `tolerance` of the largest value."""
    largest = np.abs(wanted).max()
    assert np.isfinite(largest)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * largest, err_msg=path)


@pytest.mark.parametrize("kind", ["random", "zeros", "huge", "tiny"])
@pytest.mark.parametrize(("name", "settings", "dtype"), OPTIMIZERS)
def test_equal_to_keras(name, settings, dtype, kind):
    settings = EXACT | settings
    variables, optimizer = _updated(True, kind, dtype, optimizer=name, **settings)
    wanted, reference = _updated(False, kind, dtype, optimizer=name, **settings)
    assert int(optimizer.iterations.numpy()) == len(RATES)
    for variable, other in zip(variables + optimizer.variables, wanted + reference.variables, strict=True):
        assert (variable.path, variable.shape, variable.dtype) == (other.path, other.shape, other.dtype)
        _assert_close(variable.numpy(), other.numpy(), TOLERANCE[dtype], variable.path)


@pytest.mark.parametrize("kind", ["random", "huge", "tiny"])
def test_equal_to_keras_but_for_one_rounding(kind):
    """With beta_2 = 0.999: 1 - float32(beta_2) is 1.3e-5 less than float32(1 - beta_2); a step feels half of it."""
    rounding = 1 - (1 - float(np.float32(0.999))) / 0.001
    assert 1.2e-5 < rounding < 1.3e-5
    variables, optimizer = _updated(True, kind, "float32", scale=0.0)  # from 0, so that steps are all there is
    wanted, reference = _updated(False, kind, "float32", scale=0.0)
    for variable, other in zip(variables + optimizer.variables, wanted + reference.variables, strict=True):
        share = {"velocity": 1.0, "momentum": 0.0}.get(variable.path.rsplit("_", 1)[-1], 0.5)
        _assert_close(variable.numpy(), other.numpy(), TOLERANCE["float32"] + share * rounding, variable.path)


def test_gradients_of_another_type_are_cast():
    values, gradients = [], _gradients("random", "float32", 0)
    for dtype in ("bfloat16", "float32"):
        variables = _variables()
        optimizer = make_optimizer(config.OptimConfig(), variables)
        rounded = [tf.cast(tf.cast(gradient, "bfloat16"), dtype) for gradient in gradients]
        optimizer.apply_gradients(zip(rounded, variables, strict=True))
        values.append([variable.numpy() for variable in variables])
    for first, second in zip(*values, strict=True):
        np.testing.assert_array_equal(first, second)


def _on_replicas(num_replicas):
    """(Devices, variables, optimizer, tf.function of (gradients, finite) that updates or does not)."""
    devices = runtime.make_devices(num_replicas)
    with devices.strategy.scope():
        variables = _variables()
        optimizer = make_optimizer(config.OptimConfig(**SETTINGS), variables)

    def update(gradients):
        devices.strategy.run(lambda values: optimizer.apply_gradients(zip(values, variables, strict=True)),
                             args=(gradients,))
        return 0

    return devices, variables, optimizer, tf.function(
        lambda gradients, finite: tf.cond(finite, lambda: update(gradients), lambda: 0))


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_every_replica_has_the_same_bits_and_a_skipped_update_changes_none(num_replicas):
    devices, variables, optimizer, step = _on_replicas(num_replicas)
    expected, reference = _variables(), None
    reference = make_optimizer(config.OptimConfig(**SETTINGS), expected)
    for index, rate in enumerate(RATES):
        gradients = _gradients("random", "float32", index)
        optimizer.learning_rate.assign(rate)
        step(list(map(tf.constant, gradients)), tf.constant(index != 1))
        if index != 1:
            reference.learning_rate.assign(rate)
            reference.apply_gradients(zip(map(tf.constant, gradients), expected, strict=True))
    for variable, other in zip(variables + optimizer.variables, expected + reference.variables, strict=True):
        first, *others = (copy.numpy() for copy in devices.strategy.experimental_local_results(variable.value))
        assert len(others) == num_replicas - 1 and all(np.array_equal(first, copy) for copy in others), variable.path
        if "learning_rate" not in variable.path:  # that of a skipped update was assigned as well
            np.testing.assert_allclose(first, other.numpy(), rtol=1e-6, atol=1e-9, err_msg=variable.path)
    assert int(optimizer.iterations.numpy()) == len(RATES) - 1


def test_one_replica_alone_is_not_updated():
    _, variables, optimizer, _ = _on_replicas(2)
    with pytest.raises(RuntimeError, match="outside strategy.run"):
        optimizer.apply_gradients(zip(_gradients("random", "float32", 0), variables, strict=True))


def test_one_kernel_a_variable_and_every_scalar_once():
    variables = _variables()
    optimizer = make_optimizer(config.OptimConfig(**SETTINGS), variables)
    gradients = list(map(tf.constant, _gradients("random", "float32", 0)))
    graph = tf.function(lambda values: optimizer.apply_gradients(
        zip(values, variables, strict=True))).get_concrete_function(gradients).graph
    types = [operation.type for operation in graph.get_operations()]
    assert types.count("ResourceApplyAdam") == len(variables) == 6
    assert types.count("ResourceApplyGradientDescent") == 4  # the decay of those of two or more dimensions
    assert types.count("Pow") == 2  # of beta_1 and beta_2
    assert types.count("AssignAddVariableOp") == 1  # the counter


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_a_checkpoint_of_one_goes_on_in_the_other(name, before, tmp_path):
    optim = config.OptimConfig(optimizer=name, **SETTINGS)

    def make(fused):
        model = create_model("cct_2_3x1_8", num_classes=3)
        return model, make_optimizer(optim, model.trainable_variables, fused)

    def train(model, optimizer, steps):
        for step in steps:
            draw = np.random.default_rng(step)
            optimizer.learning_rate.assign(RATES[step])
            optimizer.apply_gradients([(tf.constant(draw.normal(size=variable.shape), tf.float32), variable)
                                       for variable in model.trainable_variables])

    model, optimizer = make(before)
    train(model, optimizer, (0, 1))
    checkpoint.make_trackable(model, optimizer).write(str(tmp_path / "weights"))
    train(model, optimizer, (2, 3))
    other, switched = make(not before)
    checkpoint.restore(tmp_path, checkpoint.make_trackable(other, switched))
    train(other, switched, (2, 3))
    assert int(switched.iterations.numpy()) == 4
    for variable, wanted in zip(other.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-6, err_msg=variable.path)


def test_cautious_decay_is_of_old_values_that_the_update_does_not_move_away_from_0():
    before = tf.constant([2.0, 2.0, -2.0, -2.0, 2.0, 1e-30, -1e-30, 0.0])
    after = tf.constant([1.0, 3.0, -3.0, -1.0, 2.0, 2e-30, 3e-30, 1.0])
    np.testing.assert_array_equal(against(before, after).numpy(),
                                  np.float32([2.0, 0.0, 0.0, -2.0, 2.0, 0.0, -1e-30, 0.0]))
