"""Products within programs of XLA have the values of NumPy's, and are used only where they work."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.layers import products
from cct_tf.machine import compile_cache, processor

NEEDS_BFLOAT16 = pytest.mark.skipif(not products.multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")
DTYPES = [pytest.param("bfloat16", marks=NEEDS_BFLOAT16), "float32", "float64"]


def _random(shape, dtype):
    return tf.cast(tf.random.stateless_normal(shape, [1, len(shape)]), dtype)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["matrices", "batches"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_numpy(dtype, batch):
    for transpose_a, transpose_b in itertools.product([False, True], repeat=2):
        a = _random([*batch, *((5, 4) if transpose_a else (4, 5))], dtype)
        b = _random([*batch, *((3, 5) if transpose_b else (5, 3))], dtype)
        wide = tf.float32 if dtype == "bfloat16" else tf.as_dtype(dtype)
        found = tf.function(lambda a, b, ta=transpose_a, tb=transpose_b, wide=wide: products.matmul(a, b, ta, tb, wide),
                            jit_compile=True)(a, b)
        left, right = (np.swapaxes(tf.cast(x, tf.float64), -1, -2) if turned else tf.cast(x, tf.float64).numpy()
                       for x, turned in ((a, transpose_a), (b, transpose_b)))
        assert found.dtype == wide and found.shape == (*batch, 4, 3)
        np.testing.assert_allclose(found, left @ right, rtol=1e-5, atol=1e-5)


@NEEDS_BFLOAT16
def test_a_product_of_bfloat16_is_added_up_in_float32_and_rounded_once():
    a, b = tf.ones([1, 2048], tf.bfloat16), tf.ones([2048, 1], tf.bfloat16) * tf.constant(1.0078125, tf.bfloat16)
    found = tf.function(products.matmul, jit_compile=True)(a, b)
    assert found.dtype == tf.bfloat16 and found.numpy() == tf.cast(tf.constant(2048 * 1.0078125), tf.bfloat16)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposition_moves_every_value_as_it_is_and_its_gradient_back(shape, dtype):
    x = _random(shape, dtype)

    @tf.function(jit_compile=True)
    def turn(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = products.transpose(x)
        return y, tape.gradient(y, x, tf.transpose(x) * 2)

    y, gradient = turn(x)
    np.testing.assert_array_equal(tf.cast(y, tf.float64), tf.cast(tf.transpose(x), tf.float64))
    np.testing.assert_array_equal(tf.cast(gradient, tf.float64), tf.cast(x * 2, tf.float64))


def test_bfloat16_is_not_multiplied_where_it_would_be_slow_or_end_the_process(monkeypatch):
    monkeypatch.setattr(products, "_onednn_works", lambda: True)
    limits = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    for name in limits:
        monkeypatch.delenv(name, raising=False)
    for sets, cached, expected in (((), False, False), (("AMX",), True, False), (("AVX512_BF16",), False, True)):
        monkeypatch.setattr(processor, "bfloat16_sets", lambda sets=sets: sets)
        monkeypatch.setattr(compile_cache, "is_on", lambda cached=cached: cached)
        assert products.multiplies_bfloat16() is expected
    for name in limits:
        with monkeypatch.context() as patch:
            patch.setenv(name, "AVX2")
            assert not products.multiplies_bfloat16()


def test_a_build_without_the_call_is_told_from_one_that_has_it(monkeypatch):
    def missing(*args, **kwargs):
        raise tf.errors.UnimplementedError(None, None, "no such call")

    monkeypatch.setattr(products, "_onednn", missing)
    assert not products._onednn_works.__wrapped__()
    monkeypatch.setattr(products, "_onednn", lambda a, b, *, transpose_b, dtype: tf.zeros([4, 2], dtype))
    assert not products._onednn_works.__wrapped__()


@pytest.mark.parametrize(("flags", "on"), [("", False), ("--tf_xla_auto_jit=2", False), ("flags.txt", True),
                                           ("--tf_xla_persistent_cache_directory=/tmp/x", True)])
def test_a_cache_of_the_users_is_seen(flags, on, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", flags)
    assert compile_cache.is_on() is on
