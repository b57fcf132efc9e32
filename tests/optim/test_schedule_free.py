"""Schedule-free AdamW against Algorithm 1 of arXiv:2405.15682, one variable at a time in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.machine import runtime
from cct_tf.optim.optimizers import make_optimizer
from cct_tf.optim.schedule_free import ScheduleFreeAverage
from cct_tf.settings import config

BETA_1, BETA_2, EPSILON, DECAY = 0.75, 0.9375, 1e-3, 0.25
RATES = (0.0, 0.05, 0.1, 0.1, 0.1)  # a warm-up that starts at 0, then constant
SHAPES = {"tokenizer/kernel": (3, 4), "block_0/kernel": (4, 5), "block_0/bias": (5,), "head/kernel": (5, 2)}
LAYER = {"tokenizer": 2, "block_0": 1, "head": 0}  # exponents of the layer decay


class Algorithm:
    """x, y and z of a variable by the paper's lines, z_1 = x_1."""

    def __init__(self, x, decay):
        self.x, self.z, self.v, self.squares, self.t, self.decay = x.copy(), x.copy(), 0.0, 0.0, 0, decay

    @property
    def y(self):
        return (1 - BETA_1) * self.z + BETA_1 * self.x

    def update(self, g, rate, factor=1.0):
        """A rate of 0 moves nothing and weighs nothing. The layer's factor scales its steps, not its average."""
        self.t += 1
        self.v = BETA_2 * self.v + (1 - BETA_2) * g**2
        v = self.v / (1 - BETA_2**self.t)
        self.z = self.z - factor * rate * (g / (np.sqrt(v) + EPSILON) + self.decay * self.y)
        self.squares += rate**2
        c = rate**2 / self.squares if self.squares else 0.0
        self.x = (1 - c) * self.x + c * self.z


def _built(num_replicas=1, **changes):
    """(Devices, variables, optimizer, ScheduleFreeAverage, averages)."""
    devices, draw = runtime.make_devices(num_replicas), np.random.default_rng(0)
    optim = config.OptimConfig(optimizer="schedule_free_adamw", schedule="constant", beta_1=BETA_1, beta_2=BETA_2,
                               adam_epsilon=EPSILON, weight_decay=DECAY, **changes)
    with devices.strategy.scope():
        variables, averages = [], []
        for path, shape in SHAPES.items():
            part, name = path.split("/")
            with keras.name_scope("net"), keras.name_scope(part):
                variables.append(keras.Variable(draw.normal(size=shape), dtype="float32", name=name))
                averages.append(keras.Variable(np.zeros(shape), dtype="float32", name=name))
        optimizer = make_optimizer(optim, variables)
        average = ScheduleFreeAverage(devices.strategy, optimizer, variables, averages)
    average.start()
    return devices, variables, optimizer, average, averages


def _step(devices, variables, optimizer, average):
    """tf.function of (gradients, applies), as the training step does it."""
    @tf.function
    def step(gradients, applies):
        devices.strategy.run(lambda *given: optimizer.apply_gradients(zip(given[0], variables, strict=True), given[1]),
                             args=(gradients, applies))
        average.update(tf.constant(0, tf.int64), applies)

    return step


@pytest.mark.parametrize(("num_replicas", "layer_decay", "mask"), [(1, 1.0, "matrices"), (1, 0.5, "all"),
                                                                   (2, 0.5, "matrices")])
def test_weights_bases_and_averages_are_those_of_the_algorithm(num_replicas, layer_decay, mask):
    devices, variables, optimizer, average, averages = _built(num_replicas, layer_decay=layer_decay,
                                                              weight_decay_mask=mask)
    assert optimizer.masks and optimizer.fused
    step, draw = _step(devices, variables, optimizer, average), np.random.default_rng(1)
    paper = [Algorithm(variable.numpy().astype(np.float64), DECAY * (mask == "all" or len(variable.shape) > 1))
             for variable in variables]
    for rate in RATES:
        gradients = [draw.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]
        optimizer.learning_rate.assign(rate)
        step(list(map(tf.constant, gradients)), tf.constant(True))
        for index, (path, one) in enumerate(zip(SHAPES, paper, strict=True)):
            one.update(gradients[index], rate, layer_decay ** LAYER[path.split("/")[0]])
            for variable, wanted in ((variables[index], one.y), (optimizer.bases[index], one.z),
                                     (averages[index], one.x)):
                for copy in devices.strategy.experimental_local_results(variable.value):
                    np.testing.assert_allclose(copy.numpy(), wanted, rtol=2e-5, atol=2e-6, err_msg=variable.path)
    assert np.abs(averages[0].numpy() - variables[0].numpy()).max() > 1e-3  # they are not the weights
    assert float(optimizer.squares.numpy()) == pytest.approx(sum(rate**2 for rate in RATES), rel=1e-6)


def test_an_update_that_does_not_apply_changes_no_bit():
    """And one that applies is the one without a mask, to the bit."""
    def updated(*masks):
        devices, variables, optimizer, average, averages = _built()
        optimizer.learning_rate.assign(0.1)
        draw, step = np.random.default_rng(1), _step(devices, variables, optimizer, average)
        gradients = [tf.constant(draw.normal(size=shape), tf.float32) for shape in SHAPES.values()]
        for mask in masks:
            step([tf.where(mask is not False, each, 0.0) for each in gradients],
                 mask if mask is None else tf.constant(mask))
        return [variable.numpy() for variable in (*variables, *averages, *optimizer.variables)]

    once = updated(None)
    for masks in ([True], [True, False], [False, True, False]):
        for found, wanted in zip(updated(*masks), once, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_with_one_rate_the_average_is_the_mean_of_the_bases():
    """c = 1 / t."""
    devices, variables, optimizer, average, averages = _built()
    optimizer.learning_rate.assign(0.1)
    step, draw, bases = _step(devices, variables, optimizer, average), np.random.default_rng(1), []
    for _ in range(7):
        step([tf.constant(draw.normal(size=shape), tf.float32) for shape in SHAPES.values()], tf.constant(True))
        bases.append([base.numpy() for base in optimizer.bases])
    for index, found in enumerate(averages):
        np.testing.assert_allclose(found.numpy(), np.mean([each[index] for each in bases], axis=0), rtol=1e-5,
                                   atol=1e-6)
