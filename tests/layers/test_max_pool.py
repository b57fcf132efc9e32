"""Max-pooling for XLA against TensorFlow's, values and gradients to the last bit."""

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from cct_tf.layers.compiling import compiling, is_compiling
from cct_tf.layers.max_pool import max_pool
from cct_tf.layers.tokenizer import ConvTokenizer

LUCK = np.random.default_rng(0)
DIGITS = sklearn.datasets.load_digits().images[:4, :, :, None].repeat(3, -1).repeat(2, 1).repeat(2, 2)


def _images(kind, height, width):
    if kind == "random":
        return LUCK.normal(size=(4, height, width, 3)).astype(np.float32)
    if kind == "constant":  # every window ties
        return np.full((4, height, width, 3), 0.5, np.float32)
    return DIGITS[:, :height, :width].astype(np.float32)  # many ties


def _both(function, images, upstream):
    with tf.GradientTape() as tape:
        tape.watch(images)
        pooled = function(images)
        loss = tf.reduce_sum(pooled * upstream[:, :pooled.shape[1], :pooled.shape[2]])
    return pooled, tape.gradient(loss, images)


def _for_xla(images):
    with compiling("CPU"):
        return max_pool(images)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("height, width", [(16, 16), (13, 16), (9, 5)])
@pytest.mark.parametrize("kind", ["random", "constant", "digits"])
def test_values_and_gradients_are_tensorflows(kind, height, width, jit):
    images = tf.constant(_images(kind, height, width))
    upstream = tf.constant(LUCK.normal(size=(4, 8, 8, 3)), tf.float32)
    expected = _both(lambda x: tf.nn.max_pool2d(x, 3, 2, "VALID"), images, upstream)
    run = tf.function(lambda x: _both(_for_xla, x, upstream), jit_compile=jit, autograph=False)
    for found, wanted in zip(run(images), expected, strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("padding, pool_padding", [(1, "authors"), (0, "keras")])
@pytest.mark.parametrize("side", [16, 15])
def test_a_tokenizer_gives_the_same_in_both_forms(padding, pool_padding, side):
    tokenizer = ConvTokenizer(8, num_convs=2, padding=padding, pool_padding=pool_padding)
    images = tf.constant(_images("random", side, side))
    plain = tokenizer(images)
    with compiling("CPU"):
        assert is_compiling()
        assert np.array_equal(tokenizer(images), plain)
    with compiling(None):  # the plain forms, compiled
        assert not is_compiling()
    assert not is_compiling()


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 2, "kernel_size": 5}, {"padding": 0},
                                     {"padding": 1, "stride": 2}, {"padding": 0, "pool_padding": "keras"}])
@pytest.mark.parametrize("kind", ["random", "constant", "digits"])
def test_a_tokenizer_is_convolution_relu_and_pooling_with_their_gradients(kind, options):
    tokenizer = ConvTokenizer(8, num_convs=2, dtype="float64", **options)
    images = tf.constant(_images(kind, 16, 16), tf.float64)
    tokenizer.build(images.shape)
    kernels = [tokenizer.conv_0_kernel.value, tokenizer.conv_1_kernel.value]

    def by_hand(x):
        pad = options["padding"]
        for kernel in kernels:
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
            x = tf.nn.conv2d(x, kernel, options.get("stride", 1), "VALID")
            x = tf.pad(tf.nn.relu(x), [[0, 0], [1, 1], [1, 1], [0, 0]])
            x = tf.nn.max_pool2d(x, 3, 2, "SAME" if "pool_padding" in options else "VALID")
        return tf.reshape(x, [len(images), -1, 8])

    def values_and_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(images)
            tokens = function(images)
            loss = tf.reduce_sum(tokens * tf.sin(tokens))
        return [tokens, *tape.gradient(loss, [images, *kernels])]

    for ours, plain in zip(values_and_gradients(tokenizer), values_and_gradients(by_hand), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12 * np.abs(plain).max())
