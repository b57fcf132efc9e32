"""In low precision, what must be float32 is: values that float16 or bfloat16 could not give, with XLA and without."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.layers.attention import Attention
from cct_tf.layers.compiling import compiling
from cct_tf.layers.mlp import MLP, gelu_exact
from cct_tf.layers.pooling import SequencePooling
from cct_tf.models import create_model

# Largest relative error of rounding to the nearest: half of the last of 8 or 11 bits.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
LOW = pytest.mark.parametrize("precision", ROUNDING)
WAYS = pytest.mark.parametrize("jit", [False, True], ids=["graph", "XLA"])


def _run(function, *args, jit):
    if jit:
        plain = function

        def function(*args):
            with compiling("CPU"):
                return plain(*args)

    return tf.function(function, jit_compile=jit)(*args)


def _softmax(scores):
    """Of the last axis, in float64."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _rounded(values, precision):
    """float64 array of numbers that the precision holds."""
    return tf.cast(tf.cast(tf.constant(values, tf.float32), precision), tf.float64).numpy()


@WAYS
@LOW
def test_softmax_of_attention_is_rounded_once(precision, jit):
    """Tokens that are the unit matrix, and kernels that make scores known and the output the weights themselves."""
    N = 64
    scores = _rounded(np.random.default_rng(0).normal(size=[N, N]) * 3, precision)
    layer = Attention(1, dtype=f"mixed_{precision}")
    layer.build((None, N, N))
    unit = np.eye(N)
    # Queries are divided by sqrt(64) = 8, exactly.
    layer.qkv.kernel.assign(np.concatenate([8 * scores, unit, unit], axis=1))
    layer.projection.kernel.assign(unit)
    weights = _run(layer, tf.eye(N)[None], jit=jit)
    assert weights.dtype == precision
    expected = _softmax(scores)
    # Below 6e-5 float16 has fewer bits.
    np.testing.assert_allclose(tf.cast(weights, tf.float64)[0], expected, rtol=1.001 * ROUNDING[precision], atol=3e-8)


@WAYS
@LOW
def test_softmax_of_sequence_pooling_is_float32(precision, jit):
    layer = SequencePooling(dtype=f"mixed_{precision}")
    layer.build((None, 196, 2))
    layer.score.kernel.assign([[1.0], [0.0]])
    scores = _rounded(np.random.default_rng(0).normal(size=[1, 196]) * 3, precision)
    shares = _run(layer.attention, tf.cast(np.stack([scores, scores], axis=-1), precision), jit=jit)
    assert shares.dtype == tf.float32
    np.testing.assert_allclose(shares, _softmax(scores), rtol=2e-6)


# Squares of 300 are above what float16 holds; of 256 and 258 bfloat16 can't hold the mean, 257.
PAIRS = {"float16": (-300.0, 300.0), "bfloat16": (256.0, 258.0)}


@WAYS
@LOW
def test_statistics_of_layer_normalisation_are_float32(precision, jit):
    """Of the norms as the network has them: two values become -1 and 1, with no gradient but for epsilon's."""
    norm = create_model("cct_2_3x1_8", dtype=f"mixed_{precision}").block_0.attention_norm
    x = tf.cast(tf.tile(tf.constant([PAIRS[precision]]), [2, 64]), precision)
    upstream = tf.cast(tf.random.stateless_normal([2, 128], [0, 0]), precision)

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)
        return y, tape.gradient(y, x, output_gradients=upstream)

    y, gradient = _run(both, x, jit=jit)
    assert y.dtype == gradient.dtype == precision
    np.testing.assert_allclose(tf.cast(y, tf.float32), tf.tile([[-1.0, 1.0]], [2, 64]), rtol=ROUNDING[precision])
    normal, of_normal = np.tile([-1.0, 1.0], [2, 64]), tf.cast(upstream, tf.float64).numpy()
    mean = of_normal.mean(axis=1, keepdims=True)
    along = normal * (of_normal * normal).mean(axis=1, keepdims=True)
    deviation = (PAIRS[precision][1] - PAIRS[precision][0]) / 2
    expected = (of_normal - mean - along) / deviation
    np.testing.assert_allclose(tf.cast(gradient, tf.float64), expected, rtol=3 * ROUNDING[precision],
                               atol=3 * ROUNDING[precision] / deviation)


@WAYS
@LOW
def test_gelu_is_rounded_once(precision, jit):
    """1 + erf(x) has few bits left for negative x."""
    layer = MLP(8, dtype=f"mixed_{precision}")
    x = tf.cast(tf.linspace(-3.0, 3.0, 999), precision)
    y = _run(layer.activation, x, jit=jit)
    assert y.dtype == precision
    np.testing.assert_allclose(tf.cast(y, tf.float64), gelu_exact(tf.cast(x, tf.float64)),
                               rtol=1.01 * ROUNDING[precision], atol=1e-7)


@WAYS
@LOW
@pytest.mark.parametrize("name", ["cct_2_3x1_8", "vit_2_4_8", "cct_2_3x2_32_keras"])
def test_logits_are_float32_and_the_rest_is_not(name, precision, jit):
    """Features 1 and a head that float16 would take for infinite and bfloat16 would round."""
    model = create_model(name, num_classes=2, dtype=f"mixed_{precision}")
    assert {variable.dtype for variable in model.weights} <= {"float32", "int64"}
    images = tf.random.stateless_normal([2, model.image_size, model.image_size, 3], [0, 0])
    model.head.kernel.assign(np.ones([model.head.kernel.shape[0], 2]) * [1e5, 1e5 + 1])
    logits, features = _run(lambda images: (model(images), model.features(images)), images, jit=jit)
    assert (logits.dtype, features.dtype) == ("float32", precision)
    features = tf.cast(features, tf.float64)
    expected = tf.matmul(features, tf.constant(model.head.kernel.numpy(), tf.float64))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6 * 1e5 * float(tf.reduce_max(tf.abs(features))))


@LOW
def test_the_network_is_that_of_float32_up_to_rounding(precision):
    """The same weights, dropout included; a layer that fell out of the policy would show as an exact one."""
    wide, low = (create_model("cct_2_3x1_16", num_classes=3, dropout_rate=0.1, dtype=dtype)
                 for dtype in ("float32", f"mixed_{precision}"))
    images = tf.random.stateless_normal([8, 16, 16, 3], [0, 0])
    seeds = tf.range(8)
    expected = wide(images, seeds=seeds, training=True)
    found = low(images, seeds=seeds, training=True)
    error = float(tf.norm(found - expected) / tf.norm(expected))
    assert ROUNDING[precision] / 16 < error < 4 * ROUNDING[precision]
