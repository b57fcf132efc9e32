"""Multi-head self-attention as the authors wrote it: one projection for queries, keys and values."""

import tensorflow as tf

from cct_tf.layers import drop
from cct_tf.layers.linear import Linear
from cct_tf.machine.backend import keras


def wide_dtype(dtype):
    """The dtype of a softmax and its sums: float64 for float64, float32 for every narrower dtype."""
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def _softmax(query, key):
    """Scaled queries and keys [B, h, N, K] -> attention weights [B, h, N, N] in `wide_dtype`."""
    scores = tf.matmul(query, key, transpose_b=True)
    return tf.nn.softmax(tf.cast(scores, wide_dtype(scores.dtype)))


@keras.saving.register_keras_serializable("cct_tf")
class Attention(keras.layers.Layer):
    """softmax(Q K^T / sqrt(head_dim)) V for each head, then an output projection (arXiv:1706.03762 Eq. 1).

    With `qk_norm`, queries and keys go through a LayerNorm over the features of a head first (arXiv:2302.05442 Section
    2.1), one for queries and one for keys, whose scale and bias [K] all heads share: timm's Attention(qk_norm=True).

    Args:
        num_heads: heads h.
        head_dim: width K of a head; default D / h, which must divide.
        qkv_bias: biases on queries, keys and values.
        qk_norm: normalise queries and keys.
        layer_norm_epsilon: added to the variance by those norms.
        zero_init_output: the output projection starts at zero.
        dropout_rate: of the softmax's probabilities.
        projection_dropout_rate: of the output.
        block: index of the block, for the dropout's sites.
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: x [B, N, D], seeds uint32 [B] or None, training -> [B, N, D].

    Raises:
        ValueError: D is no multiple of num_heads and head_dim isn't given; in training with a rate above 0: no seeds.
    """

    def __init__(self, num_heads, head_dim=None, qkv_bias=False, dropout_rate=0.0, projection_dropout_rate=0.0,
                 qk_norm=False, layer_norm_epsilon=1e-5, zero_init_output=False, block=0, initializer="authors",
                 seed=0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.zero_init_output = zero_init_output
        self.dropout_rate = drop.check_rate("dropout_rate", dropout_rate)
        self.projection_dropout_rate = drop.check_rate("projection_dropout_rate", projection_dropout_rate)
        self.block = block
        self.initializer = initializer
        self.seed = seed

    def build(self, input_shape):
        D, h = input_shape[-1], self.num_heads
        if self.head_dim is None and D % h:
            raise ValueError(f"num_heads: expected a divisor of the width {D}, found {h}")
        K = self.head_dim or D // h
        options = {"initializer": self.initializer, "seed": self.seed, "dtype": self.dtype_policy}
        # Queries, keys and values are stored as one kernel but scaled as three: by the fans of one of them.
        self.qkv = Linear(3 * h * K, use_bias=self.qkv_bias, fans=(D, h * K), name="qkv", **options)
        of_output = options | {"initializer": "zeros"} if self.zero_init_output else options
        self.projection = Linear(D, name="projection", **of_output)
        self.qkv.build(input_shape)
        self.query_norm = self.key_norm = None
        if self.qk_norm:
            self.query_norm = self._norm("query_norm", (None, h, input_shape[1], K))
            self.key_norm = self._norm("key_norm", (None, h, input_shape[1], K))
        self.projection.build((*input_shape[:-1], h * K))
        self.dropout = drop.Dropout(self.dropout_rate, drop.block_site(self.block, drop.ATTENTION), name="dropout",
                                    dtype=self.dtype_policy)
        self.projection_dropout = drop.Dropout(
            self.projection_dropout_rate, drop.block_site(self.block, drop.PROJECTION), name="projection_dropout",
            dtype=self.dtype_policy)
        self.dropout.build((None, h, input_shape[1], input_shape[1]))
        self.projection_dropout.build(input_shape)

    def _norm(self, name, shape):
        norm = keras.layers.LayerNormalization(epsilon=self.layer_norm_epsilon, name=name, dtype=self.dtype_policy)
        norm.build(shape)
        return norm

    def call(self, x, seeds=None, training=None):
        N, h = x.shape[1], self.num_heads
        query, key, value = self._heads(x)
        shares = tf.cast(_softmax(query, key), query.dtype)
        y = tf.matmul(self.dropout(shares, seeds=seeds, training=training), value)
        y = tf.transpose(y, [0, 2, 1, 3])  # [B, h, N, K] -> [B, N, h, K]
        y = self.projection(tf.reshape(y, [-1, N, h * query.shape[-1]]))
        return self.projection_dropout(y, seeds=seeds, training=training)

    def attention(self, x):
        """Attention weights without dropout: how much each token (row) takes from each token (column).

        [B, N, D] -> [B, h, N, N], rows with sum 1; float32 (float64 for float64 tokens).
        """
        query, key, _ = self._heads(x)
        return _softmax(query, key)

    def _heads(self, x):
        """[B, N, D] -> queries (normalised, scaled), keys (normalised) and values, each [B, h, N, K]."""
        N, h = x.shape[1], self.num_heads
        K = self.projection.kernel.shape[0] // h
        qkv = tf.reshape(self.qkv(x), [-1, N, 3, h, K])  # [B, N, 3hK] -> [B, N, 3, h, K]
        query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return query * K**-0.5, key, value

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "head_dim": self.head_dim,
                "qkv_bias": self.qkv_bias, "dropout_rate": self.dropout_rate,
                "projection_dropout_rate": self.projection_dropout_rate, "qk_norm": self.qk_norm,
                "layer_norm_epsilon": self.layer_norm_epsilon, "zero_init_output": self.zero_init_output,
                "block": self.block, "initializer": self.initializer, "seed": self.seed}
