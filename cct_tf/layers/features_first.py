"""The training pass of the encoder in the layout that XLA is fast at on CPUs: features first, [D, B N].

On CPUs XLA multiplies matrices at half the speed where the left factor is transposed. The layers have tokens as rows.
In their backward pass three kinds of products are then slow: the gradient of every kernel, and in attention the
gradients of keys and values. Here features are the rows. The left factor is a kernel, which is small, or a matrix that
is stored in the order needed; attention transposes only queries and one gradient, which are narrow. Sums over features
run over rows, which vectorises. Values and gradients equal the layers' up to rounding, dropout masks to the bit.

Legend: B batch, N tokens, R = B N, D width, M width of the MLP, h heads, K width of a head.
"""

import tensorflow as tf

from cct_tf.layers import recompute
from cct_tf.layers.compiling import barrier

_FEWEST_TOKENS = 128  # transposing at both ends costs CCT-2/3x2 (64 tokens) 2 to 4%; CCT-7/3x1 (256) gains 8%


def is_faster(tokens):
    """Whether `encode` takes these tokens, float [B, N, D], and is faster with them than the layers one by one."""
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
    x = _features_first(tf.reshape(tokens, [B * N, D]))

    def run(block, x, seeds):
        return _block(block, x, seeds, (B, N))

    for block in blocks:
        x = recompute.run(run, block, x, seeds)
    return tf.reshape(_tokens_first(x), [B, N, D])


# Transposing by a product with the unit matrix: XLA stores the result of a product. It would merge a
# plain transposition into each operation that reads the tensor, which then reads it in strides.
@tf.custom_gradient
def _features_first(x):
    """[R, D] -> [D, R]."""
    return tf.matmul(tf.eye(x.shape[1], dtype=x.dtype), x, transpose_b=True), _tokens_first


@tf.custom_gradient
def _tokens_first(x):
    """[D, R] -> [R, D]."""
    return tf.matmul(x, tf.eye(x.shape[0], dtype=x.dtype), transpose_a=True), _features_first


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
    keep, scale = attention.dropout.mask([h, N, N], seeds)
    y = attend(query * query.shape[2]**-0.5, key, value, keep, scale)
    y = tf.reshape(tf.transpose(y, [1, 2, 0, 3]), [-1, B * N])  # [B, h, K, N] -> [hK, R]
    return _dropout(attention.projection_dropout, _linear(attention.projection, y), seeds, grid)


def attend(query, key, value, keep, scale):
    """softmax(Q^T K) V^T with dropout of the softmax, transposed.

    The softmax's sum divides the narrow product with V instead of the wide weights, and the backward pass takes
    rowsum(dO * O) for rowsum(dP * P), which is the same number (arXiv:2205.14135 Eq. 4).

    Args:
        query, key, value: float [B, h, K, N], queries scaled.
        keep: bool [B, h, N, N], weights that dropout leaves; None for all.
        scale: what dropout multiplies them by.

    Returns:
        float [B, h, K, N].
    """
    @tf.custom_gradient
    def attended(query, key, value):
        scores = tf.matmul(_turned(query), key)  # [B, h, N, N]
        powers = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
        inverse = 1.0 / tf.reduce_sum(powers, axis=-1)  # [B, h, N]
        factor = (inverse * scale)[:, :, None, :]
        kept = _kept(powers, keep)
        y = tf.matmul(value, kept, transpose_b=True) * factor

        def gradient(upstream):
            upstream_sum = (tf.reduce_sum(upstream * y, axis=2) * inverse)[..., None]  # rowsum(dP * P) / sum
            narrow = upstream * factor
            of_scores = powers * (_kept(tf.matmul(_turned(narrow), value), keep) - upstream_sum)
            return (tf.matmul(key, of_scores, transpose_b=True), tf.matmul(query, of_scores),
                    tf.matmul(narrow, kept))

        return y, gradient

    return attended(query, key, value)


def _kept(weights, keep):
    return weights if keep is None else tf.where(keep, weights, tf.zeros([], weights.dtype))


@tf.custom_gradient
def _turned(x):
    """The transposed matrices, stored. Otherwise XLA merges the transposition into the next product and slows that."""
    return barrier(tf.linalg.matrix_transpose(x)), _turned


def _linear(layer, x):
    """`Linear.call`: [D, R] -> [units, R]."""
    @tf.custom_gradient
    def product(kernel, x):
        def gradient(upstream):
            return tf.matmul(x, upstream, transpose_b=True), tf.matmul(kernel, upstream)

        return tf.matmul(_turned(kernel), x), gradient

    y = product(tf.convert_to_tensor(layer.kernel), x)
    return _add_bias(y, tf.convert_to_tensor(layer.bias)) if layer.use_bias else y


@tf.custom_gradient
def _add_bias(x, bias):
    """[D, R] + [D]."""
    return x + bias[:, None], lambda upstream: (upstream, tf.reduce_sum(upstream, axis=1))


def _layer_norm(layer, x):
    """keras.layers.LayerNormalization over the features: [D, R] -> [D, R]."""
    @tf.custom_gradient
    def norm(x, gamma, beta):
        centred = x - tf.reduce_mean(x, axis=0, keepdims=True)
        inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=0, keepdims=True) + layer.epsilon)
        normal = centred * inverse

        def gradient(upstream):
            of_normal = upstream * gamma[:, None]
            along = normal * tf.reduce_mean(of_normal * normal, axis=0, keepdims=True)
            of_x = inverse * (of_normal - tf.reduce_mean(of_normal, axis=0, keepdims=True) - along)
            return of_x, tf.reduce_sum(upstream * normal, axis=1), tf.reduce_sum(upstream, axis=1)

        return normal * gamma[:, None] + beta[:, None], gradient

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
