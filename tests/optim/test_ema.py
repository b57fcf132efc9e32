"""The moving average against its formula, one variable at a time in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.machine import runtime
from cct_tf.optim.ema import Ema, LastAverage

SHAPES = ([3, 2], [4], [])


def _built(num_replicas, decay, warmup):
    """(Devices, Ema, weights, averages), the weights drawn and the averages zero."""
    devices, draw = runtime.make_devices(num_replicas), np.random.default_rng(0)
    with devices.strategy.scope():
        weights = [keras.Variable(draw.normal(size=shape).astype(np.float32)) for shape in SHAPES]
        averages = [keras.Variable(np.zeros(shape, np.float32)) for shape in SHAPES]
    return devices, Ema(devices.strategy, decay, warmup, weights, averages), weights, averages


def _copies(devices, variable):
    return [copy.numpy() for copy in devices.strategy.experimental_local_results(variable.value)]


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.9999, True), (0.3, True)])
def test_averages_follow_the_formula_on_every_replica(num_replicas, decay, warmup):
    devices, ema, weights, averages = _built(num_replicas, decay, warmup)
    ema.start()
    expected = [weight.numpy().astype(np.float64) for weight in weights]
    for average, start in zip(averages, expected, strict=True):
        assert all(np.array_equal(copy, start) for copy in _copies(devices, average))
    update, draw = tf.function(ema.update), np.random.default_rng(1)
    for t in range(12):  # (1 + t) / (10 + t) passes 0.3 at t = 3
        for index, weight in enumerate(weights):
            value = draw.normal(size=SHAPES[index]).astype(np.float32)
            weight.assign(value)
            d = min(decay, (1 + t) / (10 + t)) if warmup else decay
            expected[index] = d * expected[index] + (1 - d) * value
        update(tf.constant(t, tf.int64))
        for average, wanted in zip(averages, expected, strict=True):
            first, *others = _copies(devices, average)
            np.testing.assert_allclose(first, wanted, rtol=1e-5, atol=1e-6)
            assert all(np.array_equal(first, other) for other in others)


def test_a_long_average_moves_by_what_float32_can_hold():
    """d = 0.9999 of weights that stand still at 1: after t updates the average is 1 - d^t."""
    _, ema, weights, averages = _built(1, 0.9999, False)
    weights[1].assign(np.ones(4, np.float32))
    update = tf.function(ema.update)
    for t in range(1000):
        update(tf.constant(t, tf.int64))
    np.testing.assert_allclose(averages[1].numpy(), 1 - 0.9999**1000, rtol=1e-5)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_the_last_average_is_the_mean_of_the_weights_after_the_updates_done_since_its_start(num_replicas):
    """From step 4 on; the updates of steps 2, 4 and 7 are skipped. Before it, the weights themselves."""
    devices, _, weights, averages = _built(num_replicas, 0.9, False)
    step, draw, values = tf.Variable(0, dtype=tf.int64), np.random.default_rng(1), []
    last = LastAverage(devices.strategy, step, 4, weights, averages)
    last.start()
    update = tf.function(last.update)
    for index in range(12):
        done = index not in (2, 4, 7)
        if done:
            for weight in weights:
                weight.assign(draw.normal(size=weight.shape).astype(np.float32))
            values = (values if index > 5 else []) + [[weight.numpy() for weight in weights]]
        step.assign(index)
        update(tf.constant(0, tf.int64), tf.constant(done))
        for number, average in enumerate(averages):
            wanted = np.mean([each[number].astype(np.float64) for each in values], axis=0)
            for copy in _copies(devices, average):
                np.testing.assert_allclose(copy, wanted, rtol=1e-5, atol=1e-6)
        assert int(last.kept["count"].numpy()) == (0 if index < 4 else index - 4 - (index >= 7))
