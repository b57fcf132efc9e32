"""cct_2_3x2_32_keras is the network of keras.io/examples/vision/cct: the same from stock Keras layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import cct_tf


class StockPooling(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = keras.layers.Dense(1)

    def call(self, x):
        shares = keras.ops.transpose(keras.ops.softmax(self.score(x), axis=1), (0, 2, 1))
        return keras.ops.squeeze(keras.ops.matmul(shares, x), -2)


class StockPositions(keras.layers.Layer):
    def build(self, shape):
        self.positions = self.add_weight(shape=shape[1:], initializer="glorot_uniform")

    def call(self, x):
        return x + self.positions


def stock_model():
    """The tutorial's Functional model, random parts left out (they do nothing in evaluation)."""
    x = inputs = keras.Input((32, 32, 3))
    for width in (64, 128):
        x = keras.layers.Conv2D(width, 3, 1, padding="valid", use_bias=False, activation="relu",
                                kernel_initializer="he_normal")(x)
        x = keras.layers.ZeroPadding2D(1)(x)
        x = keras.layers.MaxPooling2D(3, 2, "same")(x)
    x = StockPositions()(keras.layers.Reshape((64, 128))(x))
    for _ in range(2):
        y = keras.layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + keras.layers.MultiHeadAttention(num_heads=2, key_dim=128, dropout=0.1)(y, y)
        y = keras.layers.LayerNormalization(epsilon=1e-5)(x)
        for _ in range(2):
            y = keras.layers.Dense(128, activation=keras.ops.gelu)(y)
        x = x + y
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(inputs, keras.layers.Dense(10)(StockPooling()(x)))


def in_our_order(arrays):
    """Arrays of the stock model's variables -> those of ours: its q, k, v kernels [D, h, K] are one [D, 3 h K]."""
    arrays, ours = list(arrays), []
    while arrays:
        if arrays[0].ndim == 3:  # query, key, value, output, each kernel then bias
            attention, arrays = arrays[:8], arrays[8:]
            kernels, biases = attention[0:6:2], attention[1:6:2]
            ours.append(np.stack(kernels, 1).reshape(kernels[0].shape[0], -1))  # [D, 3, h, K] -> [D, 3hK]
            ours.append(np.stack(biases).reshape(-1))
            ours += [attention[6].reshape(-1, attention[6].shape[-1]), attention[7]]  # [h, K, D] -> [hK, D]
        else:
            ours.append(arrays.pop(0))
    return ours


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    stock, model = stock_model(), cct_tf.create_model("cct_2_3x2_32_keras")
    rng = np.random.default_rng(0)
    for variable in stock.trainable_variables:  # biases and norms too
        variable.assign_add(rng.normal(0, 0.05, variable.shape).astype("float32"))
    for variable, array in zip(model.trainable_variables, in_our_order(v.numpy() for v in stock.trainable_variables),
                               strict=True):
        variable.assign(array)
    return stock, model


def gradients(model, images, labels):
    with tf.GradientTape() as tape:
        logits = model(images, training=False)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    return logits.numpy(), [g.numpy() for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]


def test_logits_and_gradients_equal_stock_layers(models):
    stock, model = models
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(4, 32, 32, 3)).astype("float32")
    labels = np.eye(10, dtype="float32")[[3, 1, 4, 1]]
    expected_logits, expected = gradients(stock, images, labels)
    logits, found = gradients(model, images, labels)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5, rtol=0)
    for variable, ours, theirs in zip(model.trainable_variables, found, in_our_order(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5, err_msg=variable.path)


def test_initial_values_have_keras_own_ranges(models):
    model = cct_tf.create_model("cct_2_3x2_32_keras", seed=1)
    stock = stock_model()
    for variable, array in zip(model.trainable_variables, in_our_order(v.numpy() for v in stock.trainable_variables),
                               strict=True):
        ours = variable.numpy()
        # The range of a uniform or truncated distribution, and its standard deviation.
        if ours.size >= 1000:
            assert np.std(ours) == pytest.approx(np.std(array), rel=0.1), variable.path
            assert np.max(np.abs(ours)) == pytest.approx(np.max(np.abs(array)), rel=0.1), variable.path
        elif not variable.path.endswith("kernel"):
            np.testing.assert_array_equal(ours, array, err_msg=variable.path)
