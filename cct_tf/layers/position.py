"""Position embeddings: learnable, or the fixed sines."""

import keras
import numpy as np
import tensorflow as tf

from cct_tf.layers.initializers import keyed
from cct_tf.layers.sines import sine_positions


def resize_positions(grid, old_side, new_side, class_token):
    """Positions for another image size: bilinear, pixel centres at half-integers, no antialiasing, edges repeated.

    Args:
        grid: array [old_side^2 (+ 1), D], row by row; the class token's row, if any, comes first.
        old_side, new_side: tokens along a side, before and after.
        class_token: True if the first row belongs to a class token; it is kept.

    Returns:
        NumPy array [new_side^2 (+ 1), D] of the grid's type.

    Raises:
        ValueError: the number of rows doesn't fit.
    """
    grid = np.asarray(grid)
    first = 1 if class_token else 0
    if grid.ndim != 2 or grid.shape[0] != old_side**2 + first:
        raise ValueError(f"positions: expected {old_side**2 + first} rows for a side of {old_side}, "
                         f"found shape {grid.shape}")
    weights = _bilinear(old_side, new_side)  # [new, old]
    square = grid[first:].reshape(old_side, old_side, -1).astype(np.float64)  # [N, D] -> [h, w, D]
    square = np.einsum("ah,bw,hwd->abd", weights, weights, square)
    return np.concatenate([grid[:first], square.reshape(new_side**2, -1).astype(grid.dtype)])


def _bilinear(old, new):
    """[new, old]: the weight of each old point in each new one."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(old)))


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
