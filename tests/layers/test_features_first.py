"""The encoder with features first has the values and gradients of its layers."""

import contextlib
import functools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from cct_tf.layers import features_first, products
from cct_tf.layers.compiling import compiling
from cct_tf.layers.encoder import TransformerBlock

B, N, D = 3, 10, 8
SEEDS = tf.constant([7, 8, 9], tf.uint32)
UPSTREAM = np.random.default_rng(2).normal(size=[B, N, D])
RATES = {"attention_dropout_rate": 0.2, "projection_dropout_rate": 0.1, "mlp_dropout_rate": 0.3, "drop_path_rate": 0.4}
KINDS = {
    "authors": {"attention_dropout_rate": 0.1, "drop_path_rate": 0.2},
    "everything": {**RATES, "qkv_bias": True, "norm_order": "pre", "gelu": "tanh", "mlp_output_activation": True},
    "normalised queries and keys": {"attention_dropout_rate": 0.1, "qk_norm": True},
    "nothing dropped, wide heads": {"head_dim": 6},
}


def _tokens(content):
    if content == "constant":
        return np.full([B, N, D], 0.3)
    if content == "digits":  # many equal values
        return load_digits().images[:B * N].reshape(B * N, -1)[:, 8:8 + D].reshape(B, N, D) / 16
    return np.random.default_rng(0).normal(size=[B, N, D])


def _blocks(fields, dtype):
    blocks = [TransformerBlock(2, 2 * D, block=index, seed=1, dtype=dtype, name=f"block_{index}", **fields)
              for index in range(2)]
    generator = np.random.default_rng(1)
    for block in blocks:
        block.build((None, N, D))
        for variable in block.trainable_variables:  # biases, too, are not zero
            variable.assign(variable + 0.3 * tf.constant(generator.normal(size=variable.shape), variable.dtype))
    return blocks


def _one_by_one(blocks, tokens, seeds):
    for block in blocks:
        tokens = block(tokens, seeds=seeds, training=True)
    return tokens


@functools.cache
def _functions(kind, dtype="float64"):
    """(compiled with features first, layer by layer): functions of tokens to values and gradients, traced once."""
    blocks = _blocks(KINDS[kind], dtype)
    variables = [variable.value for block in blocks for variable in block.trainable_variables]

    def of(encode, compiled):
        def values_and_gradients(x):
            with compiling("CPU") if compiled else contextlib.nullcontext(), tf.GradientTape() as tape:
                tape.watch(x)
                y = encode(blocks, x, SEEDS)
                loss = tf.reduce_sum(tf.cast(y, tf.float64) * UPSTREAM)
            return [y, *tape.gradient(loss, [x, *variables])]
        return tf.function(values_and_gradients, jit_compile=compiled, autograph=False)

    return of(features_first.encode, True), of(_one_by_one, False)


@pytest.mark.parametrize(("kind", "content"), [*((kind, "random") for kind in KINDS), ("authors", "digits"),
                                               ("authors", "constant")])
def test_values_and_gradients_are_those_of_the_layers(kind, content):
    compiled, by_layers = _functions(kind)
    x = tf.constant(_tokens(content), tf.float64)
    for ours, plain in zip(compiled(x), by_layers(x), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-9 * np.abs(plain).max() + 1e-12)


@pytest.mark.skipif(not products.multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")
@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_as_near_to_float64_as_the_layers(kind):
    x = tf.constant(_tokens("random"), tf.float64)
    exact = _functions(kind)[1](x)
    compiled, by_layers = (function(tf.cast(x, tf.bfloat16)) for function in _functions(kind, "mixed_bfloat16"))
    assert [x.dtype for x in compiled] == [x.dtype for x in by_layers]
    # A bias of all keys changes no softmax, so its gradient is 0 but for rounding.
    ours, plain = ([np.linalg.norm(tf.cast(x, tf.float64) - expected) / np.linalg.norm(expected)
                    for x, expected in zip(found, exact, strict=True) if np.linalg.norm(expected) > 1e-12]
                   for found in (compiled, by_layers))
    assert np.mean(ours) < 1.2 * np.mean(plain) and max(ours) < 0.05


def test_it_is_for_many_tokens_in_full_precision(monkeypatch):
    assert features_first.is_faster(tf.zeros([1, 256, 4]))
    assert not features_first.is_faster(tf.zeros([1, 64, 4]))
    assert not features_first.is_faster(tf.zeros([1, 256, 4], tf.float16))
    for works in (False, True):
        monkeypatch.setattr(products, "multiplies_bfloat16", lambda works=works: works)
        assert features_first.is_faster(tf.zeros([1, 64, 4], tf.bfloat16)) is works
