"""From tokens to one vector: sequence pooling, or a class token."""

import tensorflow as tf

from cct_tf.layers.attention import wide_dtype
from cct_tf.layers.linear import Linear
from cct_tf.machine.backend import keras


@keras.saving.register_keras_serializable("cct_tf")
class SequencePooling(keras.layers.Layer):
    """The tokens' mean, weighted by softmax(Linear(D -> 1)) over the sequence (arXiv:2104.05704 Section 3.2).

    Args:
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: tokens [B, N, D] -> [B, D].
    """

    def __init__(self, initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        self.initializer = initializer
        self.seed = seed
        self.score = Linear(1, initializer=initializer, seed=seed, name="score", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.score.build(input_shape)

    def attention(self, tokens):
        """Each token's share, [B, N, D] -> [B, N], non-negative with sum 1; float32 (float64 for float64 tokens)."""
        scores = self.score(tokens)[..., 0]  # [B, N, 1] -> [B, N]
        return tf.nn.softmax(tf.cast(scores, wide_dtype(scores.dtype)))

    def call(self, tokens):
        shares = tf.cast(self.attention(tokens), tokens.dtype)
        return tf.matmul(shares[:, None, :], tokens)[:, 0, :]  # [B, 1, N] [B, N, D] -> [B, 1, D] -> [B, D]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "initializer": self.initializer, "seed": self.seed}


@keras.saving.register_keras_serializable("cct_tf")
class ClassToken(keras.layers.Layer):
    """Puts a learned token, initially 0, before the others (arXiv:2010.11929 Section 3.1).

    Call: tokens [B, N, D] -> [B, 1 + N, D].
    """

    def build(self, input_shape):
        # Of two axes (the authors' has three): weight decay spares variables of one axis, and theirs is decayed.
        self.embedding = self.add_weight(name="embedding", shape=(1, input_shape[-1]), initializer="zeros")

    def call(self, tokens):
        token = tf.cast(tf.convert_to_tensor(self.embedding), tokens.dtype)
        batch = tf.shape(tokens)[0]
        return tf.concat([tf.broadcast_to(token, [batch, 1, tokens.shape[-1]]), tokens], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] + 1, input_shape[2])
