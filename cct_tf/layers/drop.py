"""Dropout and stochastic depth whose masks belong to the example, not to its place in a batch.

A mask is a hash of (example seed, site, element), so it is the same on any replica, worker or micro-batch and with or
without XLA (`keras.layers.Dropout` draws one mask for all replicas of a MirroredStrategy).

Sites 0 .. 2**16 - 1 belong to layers, all others to augmentation. Layers count 16 to a block:

    TOKENS                        dropout of the tokens, after the positions
    16 * (block + 1) + place      in a block: ATTENTION, PROJECTION, MLP_HIDDEN, MLP_OUTPUT, ATTENTION_PATH, MLP_PATH
"""

import tensorflow as tf

from cct_tf import rng
from cct_tf.machine.backend import keras

LAYER_SITES = 2**16
TOKENS = 1
ATTENTION, PROJECTION, MLP_HIDDEN, MLP_OUTPUT, ATTENTION_PATH, MLP_PATH = range(6)
_PLACES = 16


def block_site(block, place):
    """The site of a place in a block.

    Args:
        block: index of the block, from 0.
        place: ATTENTION, PROJECTION, MLP_HIDDEN, MLP_OUTPUT, ATTENTION_PATH or MLP_PATH.

    Raises:
        ValueError: the block's sites would leave the layers' range.
    """
    site = _PLACES * (block + 1) + place
    if not 0 <= place < _PLACES or not 0 <= block or site >= LAYER_SITES:
        raise ValueError(f"block: expected 0 to {LAYER_SITES // _PLACES - 2}, found {block} (place {place})")
    return site


def check_rate(name, rate):
    """`rate` as a float; ValueError unless 0 <= rate < 1."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name}: expected at least 0 and below 1, found {rate}")
    return float(rate)


def keep_mask(seeds, site, rate, shape):
    """True for the elements that `drop` keeps: bool [B, *shape]. Arguments and errors as there."""
    if seeds is None:
        raise ValueError("seeds: expected example seeds, uint32 [B], in training with a rate above 0; found None "
                         "(the model draws them if called without, a layer doesn't)")
    return rng.keep_mask(tf.cast(seeds, tf.uint32), site, shape, rate)


def drop(x, seeds, site, rate, shape):
    """Zeroes elements with probability `rate` and divides the others by 1 - rate.

    Args:
        x: [B, ...] float tensor.
        seeds: uint32 [B], example seeds.
        site: what the mask is for.
        rate: Python float, 0 <= rate < 1.
        shape: sizes of one example's mask, which broadcasts against one example of x.

    Returns:
        tensor like x.

    Raises:
        ValueError: no seeds.
    """
    keep = keep_mask(seeds, site, rate, shape)
    return tf.where(keep, x * tf.constant(1.0 / (1.0 - rate), x.dtype), tf.zeros([], x.dtype))


@keras.saving.register_keras_serializable("cct_tf")
class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) keyed by example seeds.

    Args:
        rate: probability of an element to become 0.
        site: see the module.

    Call: x [B, ...], seeds uint32 [B] (needed in training if rate > 0: else ValueError) -> like x.
    """

    def __init__(self, rate, site, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.site = site

    def build(self, input_shape):
        del input_shape  # no variables

    def call(self, x, seeds=None, training=None):
        if not training or self.rate == 0.0:
            return x
        return drop(x, seeds, self.site, self.rate, x.shape[1:])

    def mask(self, shape, seeds):
        """What `call` does in training, for code that applies the mask itself (`features_first`).

        Args:
            shape: sizes of one example's mask, see `drop`.
            seeds: uint32 [B], example seeds.

        Returns:
            (keep, scale): bool [B, *shape], or None if nothing is dropped; the factor of the elements that are kept.
        """
        if self.rate == 0.0:
            return None, 1.0
        return keep_mask(seeds, self.site, self.rate, shape), 1.0 / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "site": self.site}


@keras.saving.register_keras_serializable("cct_tf")
class DropPath(Dropout):
    """Stochastic depth (arXiv:1603.09382): zeroes a residual branch of an example, with one draw for all its elements.

    Args and call: as `Dropout`.
    """

    def call(self, x, seeds=None, training=None):
        if not training or self.rate == 0.0:
            return x
        return drop(x, seeds, self.site, self.rate, [1] * (x.shape.rank - 1))
