"""The training pass of the encoder in the layout that XLA is fast at on CPUs: features first, [D, B N].

On CPUs XLA multiplies matrices at half the speed where the left factor is transposed. The layers have tokens as rows.
In their backward pass three kinds of products are then slow: the gradient of every kernel, and in attention the
gradients of keys and values. Here features are the rows. The left factor is a kernel, which is small, or a matrix that
is stored in the order needed; attention transposes only keys and values, which are narrow. Sums over features and over
keys run over rows, which vectorises. Values and gradients equal the layers' up to rounding, dropout masks to the bit.

In bfloat16 the products are oneDNN's (`products`). What lies between them is computed in float32 and stored in
bfloat16, as in the layers; scores and the gradients of weights stay float32.

Legend: B batch, N tokens, R = B N, D width, M width of the MLP, h heads, K width of a head.
"""

import tensorflow as tf

from cct_tf.layers import products, recompute
from cct_tf.layers.attention import wide_dtype
from cct_tf.layers.compiling import barrier

_FEWEST_TOKENS = 128  # transposing at both ends costs CCT-2/3x2 (64 tokens) 2 to 4%; CCT-7/3x1 (256) gains 8%


def is_faster(tokens):
    """Whether `encode` takes these tokens, float [B, N, D], and is faster with them than the layers one by one."""
    if tokens.dtype == tf.bfloat16:
        return products.multiplies_bfloat16()
    return tokens.dtype in (tf.float32, tf.float64) and tokens.shape[1] >= _FEWEST_TOKENS


def encode(blocks, tokens, seeds):
    """The forward pass of the blocks in training, with gradients.

    Args:
        blocks: `encoder.TransformerBlock`s, built.
        tokens: float [B, N, D], B and N static.
        seeds: uint32 [B], example seeds, or None if nothing is dropped.

    Returns:
        like tokens.
    """
    B, N, D = tokens.shape
    x = products.transpose(tf.reshape(tokens, [B * N, D]))

    def run(block, x, seeds):
        return _block(block, x, seeds, (B, N))

    for block in blocks:
        x = recompute.run(run, block, x, seeds)
    return tf.reshape(products.transpose(x), [B, N, D])


def _block(block, x, seeds, grid):
    """`TransformerBlock.call`: [D, R] -> [D, R]; grid is (B, N)."""
    y = _attention(block.attention, _layer_norm(block.attention_norm, x), seeds, grid)
    y = x + _drop_path(block.attention_path, y, seeds, grid)
    z = _layer_norm(block.mlp_norm, y)
    out = _drop_path(block.mlp_path, _mlp(block.mlp, z, seeds, grid), seeds, grid)
    return (z if block.norm_order == "authors" else y) + out


def _mlp(mlp, x, seeds, grid):
    """`MLP.call`: [D, R] -> [D, R]."""
    x = _dropout(mlp.hidden_dropout, mlp.activation(_linear(mlp.hidden, x)), seeds, grid)
    x = _linear(mlp.output_linear, x)
    if mlp.output_activation:
        x = mlp.activation(x)
    return _dropout(mlp.output_dropout, x, seeds, grid)


def _attention(attention, x, seeds, grid):
    """`Attention.call`: [D, R] -> [D, R]."""
    B, N = grid
    h = attention.num_heads
    qkv = tf.reshape(_linear(attention.qkv, x), [3, h, -1, B, N])
    query, key, value = tf.unstack(tf.transpose(qkv, [0, 3, 1, 2, 4]))  # [3, h, K, B, N] -> three [B, h, K, N]
    if attention.qk_norm:
        query, key = _layer_norm(attention.query_norm, query), _layer_norm(attention.key_norm, key)
    keep, scale = attention.dropout.mask([h, N, N], seeds)
    if keep is not None:
        keep = tf.linalg.matrix_transpose(keep)
    y = attend(query * query.shape[2]**-0.5, key, value, keep, scale)
    y = tf.reshape(tf.transpose(y, [1, 2, 0, 3]), [-1, B * N])  # [B, h, K, N] -> [hK, R]
    return _dropout(attention.projection_dropout, _linear(attention.projection, y), seeds, grid)


def attend(query, key, value, keep, scale):
    """softmax(Q^T K) V^T with dropout of the softmax, transposed.

    The softmax's sum divides the narrow product with V instead of the wide weights, and the backward pass takes
    rowsum(dO * O) for rowsum(dP * P), which is the same number (arXiv:2205.14135 Eq. 4). Scores are transposed, so
    that only narrow factors are.

    Args:
        query, key, value: float [B, h, K, N], queries scaled.
        keep: bool [B, h, N of keys, N of queries], weights that dropout leaves; None for all.
        scale: what dropout multiplies them by.

    Returns:
        float [B, h, K, N].
    """
    narrow, wide = query.dtype, wide_dtype(query.dtype)

    @tf.custom_gradient
    def attended(query, key, value):
        scores = products.matmul(key, query, transpose_a=True, dtype=wide)  # [B, h, N of keys, N of queries]
        powers = tf.exp(scores - tf.reduce_max(scores, axis=-2, keepdims=True))
        inverse = 1.0 / tf.reduce_sum(powers, axis=-2, keepdims=True)  # [B, h, 1, N]
        powers = tf.cast(powers, narrow)
        kept = _kept(powers, keep)
        y = tf.cast(tf.cast(products.matmul(value, kept), wide) * (inverse * scale), narrow)

        def gradient(upstream):
            upstream = tf.cast(upstream, wide)
            upstream_sum = tf.reduce_sum(upstream * tf.cast(y, wide), axis=2, keepdims=True) * inverse
            upstream = tf.cast(upstream * (inverse * scale), narrow)
            of_kept = _kept(products.matmul(value, upstream, transpose_a=True, dtype=wide), keep)
            of_scores = tf.cast(tf.cast(powers, wide) * (of_kept - upstream_sum), narrow)
            return (products.matmul(key, of_scores), products.matmul(query, of_scores, transpose_b=True),
                    products.matmul(upstream, kept, transpose_b=True))

        return y, gradient

    return attended(query, key, value)


def _kept(weights, keep):
    return weights if keep is None else tf.where(keep, weights, tf.zeros([], weights.dtype))


def _linear(layer, x):
    """`Linear.call`: [D, R] -> [units, R]."""
    @tf.custom_gradient
    def product(kernel, x):
        factor = tf.cast(kernel, x.dtype)

        def gradient(upstream):
            return (products.matmul(x, upstream, transpose_b=True, dtype=kernel.dtype),
                    products.matmul(factor, upstream))

        return products.matmul(factor, x, transpose_a=True), gradient

    y = product(tf.convert_to_tensor(layer.kernel), x)
    return _add_bias(y, tf.convert_to_tensor(layer.bias)) if layer.use_bias else y


@tf.custom_gradient
def _add_bias(x, bias):
    """[D, R] + [D]."""
    def gradient(upstream):
        return upstream, tf.reduce_sum(tf.cast(upstream, bias.dtype), axis=1)

    return x + tf.cast(bias, x.dtype)[:, None], gradient


def _layer_norm(layer, x):
    """keras.layers.LayerNormalization over the features, the last axis but one: [D, R], or heads [B, h, K, N]."""
    narrow, wide = x.dtype, wide_dtype(x.dtype)
    others = [axis for axis in range(x.shape.rank) if axis != x.shape.rank - 2]

    def mean(x):
        return tf.reduce_mean(x, axis=-2, keepdims=True)

    @tf.custom_gradient
    def norm(x, gamma, beta):
        x = tf.cast(x, wide)
        centred = x - mean(x)
        inverse = tf.math.rsqrt(mean(tf.square(centred)) + layer.epsilon)
        normal = centred * inverse

        def gradient(upstream):
            upstream = tf.cast(upstream, wide)
            of_normal = upstream * gamma[:, None]
            along = normal * mean(of_normal * normal)
            of_x = inverse * (of_normal - mean(of_normal) - along)
            return tf.cast(of_x, narrow), tf.reduce_sum(upstream * normal, others), tf.reduce_sum(upstream, others)

        return tf.cast(normal * gamma[:, None] + beta[:, None], narrow), gradient

    return norm(x, tf.convert_to_tensor(layer.gamma), tf.convert_to_tensor(layer.beta))


def _dropout(layer, x, seeds, grid):
    """`Dropout.call`: [D, R] -> [D, R]."""
    B, N = grid
    keep, scale = layer.mask([N, x.shape[0]], seeds)
    if keep is None:
        return x
    keep = tf.reshape(tf.transpose(keep, [2, 0, 1]), [-1, B * N])
    return tf.where(keep, x * tf.constant(scale, x.dtype), tf.zeros([], x.dtype))


def _drop_path(layer, x, seeds, grid):
    """`DropPath.call`: [D, R] -> [D, R]."""
    B, N = grid
    keep, scale = layer.mask([1, 1], seeds)
    if keep is None:
        return x
    # One factor per token, stored: otherwise XLA hashes the seed again for every element that reads it.
    factor = tf.where(keep, tf.constant(scale, x.dtype), tf.zeros([], x.dtype))  # [B, 1, 1]
    return x * barrier(tf.reshape(tf.broadcast_to(factor, [B, N, 1]), [1, B * N]))


# What `encode` computes the layers of a block by, for the benchmark: functions of (layer, x [D, R], seeds, (B, N)).
PIECES = {"attention": _attention, "mlp": _mlp, "norm": lambda layer, x, seeds, grid: _layer_norm(layer, x)}
