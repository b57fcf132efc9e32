"""Networks of a user's own: what their code gets, their initial weights and names, and what is refused by name."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.layers.drop import Dropout
from cct_tf.machine import own_code
from cct_tf.models import own

layers = keras.layers


@pytest.fixture
def named(monkeypatch):
    """Function of a function that gives the `OwnNetwork` of it, as a flag would name it."""
    def make(function, **changes):
        monkeypatch.setattr(own_code, "load", lambda flag, value: function)
        return own.build("./mine.py:build", **{"num_classes": 3, "image_size": (8, 12), "channels": 3} | changes)
    return make


def _around(*parts):
    """A function that returns a network with these layers inside."""
    def build(num_classes):
        made = [part() if isinstance(part, type) else part for part in parts]
        return keras.Sequential([layers.Conv2D(4, 3), *made, layers.Flatten(), layers.Dense(num_classes)])
    return build


class Masked(keras.Model):
    def __init__(self, num_classes):
        super().__init__()
        self.dense, self.drop = layers.Dense(num_classes), Dropout(0.5, 1)

    def call(self, images, seeds=None, training=None):
        return self.dense(self.drop(layers.Flatten()(images), seeds=seeds, training=training))


def test_a_function_gets_what_it_names(named):
    found = {}

    def build(num_classes, channels, image_size, seed, width=5):
        found.update(num_classes=num_classes, channels=channels, image_size=image_size, seed=seed, width=width)
        return keras.Sequential([layers.Flatten(), layers.Dense(num_classes)])

    named(build, image_size=8, channels=1, seed=7)
    assert found == {"num_classes": 3, "channels": 1, "image_size": (8, 8), "seed": 7, "width": 5}


def test_initial_weights_and_names_are_those_of_seed_and_code(named):
    build = _around(layers.LayerNormalization)
    first = named(build, seed=1)
    state = random.getstate(), np.random.get_state()[1].tolist(), keras.config.dtype_policy()
    layers.Dense(2)  # another layer without a name: the next has another number
    random.random()
    again, other = named(build, seed=1, dtype="mixed_bfloat16"), named(build, seed=2)
    paths = ["network/sequential/conv2d/kernel", "network/sequential/conv2d/bias"]
    assert [each.path for each in first.weights][:2] == [each.path for each in again.weights][:2] == paths
    for ours, theirs in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert np.abs(first.weights[0].numpy() - other.weights[0].numpy()).min() > 0
    assert (again.network.compute_dtype, first.network.compute_dtype) == ("bfloat16", "float32")
    random.setstate(state[0])
    assert (np.random.get_state()[1].tolist(), keras.config.dtype_policy()) == state[1:]


def test_a_layer_that_keras_cannot_write_is_one_line(named, tmp_path):
    with pytest.raises(UserError, match=r"\./mine\.py:build \(Object Masked was created by .*; other formats need no"):
        named(Masked).save(tmp_path / "x.keras")


def test_masks_belong_to_the_seeds(named):
    model = named(Masked)
    own.judge(model)
    images, seeds = tf.ones([2, 8, 12, 3]), tf.constant([3, 4], tf.uint32)
    drawn = model(images, seeds=seeds, training=True).numpy()
    np.testing.assert_allclose(model(images[::-1], seeds=seeds[::-1], training=True).numpy(), drawn[::-1], rtol=1e-5)
    assert np.abs(drawn[0] - drawn[1]).min() > 0
    assert np.ptp(model(images, training=False).numpy(), axis=0).max() == 0


class _Added(layers.Layer):
    """Adds something to its input."""

    def call(self, x):
        return x + self.added(x)


class _Drawn(_Added):
    added = staticmethod(lambda x: tf.random.normal(tf.shape(x)))


class _FixedMask(_Added):
    added = staticmethod(lambda x: keras.random.dropout(x, 0.5, seed=3))


class _Unseeded(_Added):
    added = staticmethod(lambda x: keras.random.dropout(x, 0.5))


class _OverTheBatch(_Added):
    added = staticmethod(lambda x: keras.ops.mean(x, axis=0, keepdims=True))


class _Held(_Added):
    held = [tf.Variable(1.0)]
    added = staticmethod(lambda x: x * _Held.held[0])


class _Counting(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x


@pytest.mark.parametrize(("part", "words"), [
    (layers.BatchNormalization, ["BatchNormalization 'batch_normalization'", "moves moving_mean"]),
    (_Counting, ["_Counting", "moves count"]),
    (layers.Dropout(0.1, name="mine"), ["Dropout 'mine'", "random numbers", "cct_tf.layers.drop"]),
    (layers.GaussianNoise(0.1), ["GaussianNoise", "random numbers"]),
    (layers.SpatialDropout2D(0.1), ["SpatialDropout2D", "random numbers"]),
    (layers.RandomFlip, ["RandomFlip 'random_flip'", "random numbers"]),
    (_Drawn, ["_drawn", "RandomStandardNormal"]),
    (_FixedMask, ["fixed_mask", "StatelessRandom"]),
    (_Unseeded, ["unseeded", "Random"]),
    (_OverTheBatch, ["depend on that image alone"]),
    (_Held, ["all weights in layers", "1 variable elsewhere"]),
    (layers.ActivityRegularization(0.1), ["losses of its own", "--weight_decay"]),
    (layers.Conv2D(4, 1, kernel_regularizer="l2", name="mine"), ["losses of its own"]),
], ids=lambda value: getattr(value, "__name__", getattr(value, "name", None)))
def test_what_would_break_the_promises_is_named(named, part, words):
    with pytest.raises(UserError) as caught:
        own.judge(named(_around(part)))
    message = str(caught.value)
    assert message.startswith("--model: expected ") and "./mine.py:build" in message and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("part", [layers.BatchNormalization(trainable=False), layers.Dropout(0.0),
                                  layers.GroupNormalization(4)], ids=lambda layer: type(layer).__name__)
def test_what_stays_still_is_taken(named, part):
    own.judge(named(_around(part)))


def _needs(depth):
    return depth


def _of_two(num_classes):
    images, others = keras.Input([8, 12, 3]), keras.Input([8, 12, 3])
    return keras.Model([images, others], layers.Dense(num_classes)(layers.Flatten()(images)))


def _of_one_name(num_classes):
    return keras.Sequential([keras.Sequential([layers.Dense(4, name="a_b")], name="x"), layers.Flatten(),
                             keras.Sequential([layers.Dense(num_classes, name="b")], name="x_a")])


@pytest.mark.parametrize(("function", "words"), [
    (3, ["a function", "(int)"]),
    (_needs, ["num_classes, image_size, channels, seed", "needs depth"]),
    (lambda: [1], ["a keras.Model", "returns list"]),
    (_of_two, ["of the images alone", "2 inputs"]),
    (lambda: keras.Sequential([layers.Dense(3)]), ["(images, 3)", "(1, 8, 12, 3)"]),
    (lambda: keras.Sequential([layers.GlobalMaxPooling2D()]), ["weights to train"]),
    (_of_one_name, ["different names", "sequential_x_a_b_kernel"]),
    (lambda: keras.Sequential([layers.Flatten(), layers.Dense(3, kernel_constraint="non_neg")]),
     ["without constraints", "NonNeg of sequential/dense/kernel"]),
])
def test_another_contract_is_one_line(named, function, words):
    with pytest.raises(UserError) as caught:
        named(function)
    message = str(caught.value)
    assert message.startswith("--model: expected ") and "./mine.py:build" in message and "\n" not in message
    for word in words:
        assert word in message


class _Wrong(keras.Model):
    def call(self, images):
        return images.nothing


def test_an_error_of_the_code_is_shown_from_there_on(named):
    with pytest.raises(UserError) as caught:
        named(_Wrong)
    assert "found an error in ./mine.py:build: AttributeError: " in str(caught.value) and "\n" not in str(caught.value)
    first, second = caught.value.details.splitlines()[:2]
    assert "test_own.py" in first and second.strip() == "return images.nothing"
