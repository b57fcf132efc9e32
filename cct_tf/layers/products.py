"""Products of matrices within programs that XLA compiles for CPUs, for code that has gradients of its own.

XLA multiplies bfloat16 on CPUs by converting both factors to float32, so it gains nothing. oneDNN, which is in the same
library, has instructions for it and adds up in float32. A program can call it by the name that XLA's own rewriting to
oneDNN uses. This is no public interface, so `multiplies_bfloat16` tries it first.
"""

import functools
import json
import os

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from cct_tf.layers.compiling import barrier
from cct_tf.machine import compile_cache, processor

_ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # where a user keeps oneDNN from some instructions


def matmul(a, b, transpose_a=False, transpose_b=False, dtype=None):
    """`tf.matmul` of static shapes.

    Args:
        a, b: float [..., M, L] and [..., L, N], of one dtype; bfloat16 only where `multiplies_bfloat16`.
        transpose_a, transpose_b: the factor is given as [..., L, M], or [..., N, L].
        dtype: of the result, bfloat16 or float32 if the factors are bfloat16; default the factors'.

    Returns:
        [..., M, N].
    """
    if a.dtype == tf.bfloat16:
        return _onednn(a, b, transpose_a, transpose_b, dtype=dtype or a.dtype)
    return tf.matmul(_turned(a) if transpose_a else a, b, transpose_b=transpose_b)


@tf.custom_gradient
def transpose(x):
    """[M, N] -> [N, M], by a product with the unit matrix of the smaller side: XLA stores the result of a product.

    It would merge a plain transposition into each operation that reads the tensor, which then reads it in strides.
    """
    M, N = x.shape
    product = functools.partial(_onednn, dtype=x.dtype) if x.dtype == tf.bfloat16 else tf.matmul
    if M <= N:
        return product(x, tf.eye(M, dtype=x.dtype), transpose_a=True), transpose
    return product(tf.eye(N, dtype=x.dtype), x, transpose_b=True), transpose


@tf.custom_gradient
def _turned(x):
    """The transposed matrices, stored. Otherwise XLA merges the transposition into the next product and slows that."""
    return barrier(tf.linalg.matrix_transpose(x)), _turned


def _onednn(a, b, transpose_a=False, transpose_b=False, *, dtype):
    """`matmul` by oneDNN."""
    shape = [*a.shape[:-2], a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]]
    settings = {"onednn_matmul_config": {"transpose_a": transpose_a, "transpose_b": transpose_b}}
    return gen_xla_ops.xla_custom_call(
        args=[a, b], target_name="__onednn$matmul", backend_config=json.dumps(settings).encode(), dtype=dtype,
        shape=tf.TensorShape(shape))


def multiplies_bfloat16():
    """Whether `matmul` can multiply bfloat16 here, faster than float32.

    The CPU needs instructions for it, and oneDNN must be free to use them: without, the call ends the process. So does
    compiling one while TensorFlow keeps compiled programs (both seen with TensorFlow 2.21).
    """
    limited = any(name in os.environ for name in _ONEDNN_LIMITS)
    return bool(processor.bfloat16_sets()) and not limited and not compile_cache.is_on() and _onednn_works()


@functools.cache
def _onednn_works():
    """Whether a small product is right. Only for CPUs that multiply bfloat16: see `multiplies_bfloat16`."""
    a, b = np.arange(12.0).reshape(4, 3), np.arange(6.0).reshape(2, 3)

    def product():
        return _onednn(tf.constant(a, tf.bfloat16), tf.constant(b, tf.bfloat16), transpose_b=True, dtype=tf.float32)

    with tf.init_scope(), tf.device("CPU:0"):
        try:
            found = tf.function(product, jit_compile=True, autograph=False)()
        except tf.errors.OpError:  # no such call in this build
            return False
        return np.array_equal(found, a @ b.T)
