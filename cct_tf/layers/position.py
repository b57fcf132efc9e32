"""Position embeddings: learnable, or the fixed sines."""

import tensorflow as tf

from cct_tf.layers.initializers import keyed
from cct_tf.layers.sines import sine_positions
from cct_tf.machine.backend import keras


@keras.saving.register_keras_serializable("cct_tf")
class LearnablePositions(keras.layers.Layer):
    """Adds a learned vector to each token.

    Args:
        initializer, seed: initial values, see `cct_tf.layers.initializers`.

    Call: tokens [B, N, D] -> [B, N, D].
    """

    def __init__(self, initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        self.initializer = initializer
        self.seed = seed

    def build(self, input_shape):
        shape = tuple(input_shape[1:])  # (N, D)
        self.embedding = self.add_weight(
            name="embedding", shape=shape,
            initializer=keyed(self.initializer, "positions", shape, self.seed, f"{self.path}/embedding"))

    def call(self, tokens):
        return tokens + self.embedding

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initializer": self.initializer, "seed": self.seed}


@keras.saving.register_keras_serializable("cct_tf")
class SinePositions(keras.layers.Layer):
    """Adds fixed sines and cosines to the tokens; no variables.

    Call: tokens [B, N, D] -> [B, N, D].
    """

    def build(self, input_shape):
        self._table = sine_positions(*input_shape[1:])

    def call(self, tokens):
        return tokens + tf.cast(self._table, tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
