"""Random erasing (arXiv:1708.04896) with timm's rules: a box of a normalised image filled with its mean or with noise.

Legend: B batch, S S height and width.
"""

import dataclasses
import functools
import math
import statistics

import numpy as np
import tensorflow as tf

from cct_tf import rng, sites

_TRIES = 10
_AREA = (0.02, 1 / 3)  # of the image
_ASPECT = (0.3, 1 / 0.3)  # height / width


@functools.cache
def _quantiles():
    """The normal distribution in 2^16 equally likely values of mean 0 and variance 1, float32 [2^16]."""
    normal = statistics.NormalDist()
    upper = np.array([normal.inv_cdf((step + 0.5) / 2**16) for step in range(2**15, 2**16)])
    values = np.concatenate([-upper[::-1], upper])
    return (values / values.std()).astype(np.float32)


def _normal(random_bits):
    """uint32 of any shape -> float32 normal variates, up to 4.3 deviations.

    Looked up, not computed: the logarithm and cosine of Box-Muller differ in the last bit with an element's place in
    the batch (and with XLA), and take 1.5 ms for 128 images of 32x32, 3.9 with XLA, where this takes 1.8 and 0.3.
    """
    return tf.gather(tf.constant(_quantiles()), tf.cast(tf.bitwise.right_shift(random_bits, 16), tf.int32))


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Fill a random box of an image.

    The box covers 2% to a third of the image (uniform) at an aspect ratio from 0.3 to 1 / 0.3 (log-uniform); of ten
    draws the first that is smaller than the image on both sides is taken, and if none is, nothing is erased.

    Attributes:
        probability: float, share of the images.
        mode: what comes into the box: "constant", zeros, which is the mean of normalised images; "channel", one
            normal number for each channel; "pixel", one for each pixel and channel.
    """

    probability: float
    mode: str = "pixel"

    def sample(self, seeds, height, width):
        """Boxes.

        Args:
            seeds: uint32 [B], example seeds.
            height, width: ints, pixels of the images.

        Returns:
            dict: "box" int32 [B, 4] (top, left, bottom, right), empty where nothing is erased; "seeds" as given.
        """
        bits = rng.bits(seeds, sites.ERASE_BOX, (_TRIES, 4))
        area = height * width * (_AREA[0] + rng.uniform(bits[..., 0]) * (_AREA[1] - _AREA[0]))  # [B, tries]
        low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
        aspect = tf.exp(low + rng.uniform(bits[..., 1]) * (high - low))
        heights = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
        widths = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
        fits = (heights < height) & (widths < width)
        tops = rng.uniform_int(bits[..., 2], height - heights + 1)
        lefts = rng.uniform_int(bits[..., 3], width - widths + 1)
        boxes = tf.stack([tops, lefts, tops + heights, lefts + widths], axis=-1)  # [B, tries, 4]
        first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
        erased = tf.reduce_any(fits, axis=1) & self._chosen(seeds)
        box = tf.where(erased[:, None], tf.gather(boxes, first, axis=1, batch_dims=1), 0)
        return {"box": box, "seeds": seeds}

    def _chosen(self, seeds):
        """Which examples are erased: uint32 [B] -> bool [B]."""
        if self.probability >= 1.0:
            return tf.ones_like(seeds, tf.bool)
        return rng.draw(seeds, sites.ERASE_APPLY) < rng.threshold(self.probability)

    def apply(self, images, params):
        """float32 [B, S, S, 3] and what `sample` gave -> float32 [B, S, S, 3]. Each example for itself; XLA can."""
        height, width, channels = images.shape[1:]
        rows, columns = tf.range(height)[None, :, None, None], tf.range(width)[None, None, :, None]
        top, left, bottom, right = (side[:, None, None, None] for side in tf.unstack(params["box"], axis=1))
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # [B, S, S, 1]
        if self.mode == "constant":
            return tf.where(inside, 0.0, images)
        shape = (1, 1, channels) if self.mode == "channel" else (height, width, channels)
        return tf.where(inside, _normal(rng.bits(params["seeds"], sites.ERASE_NOISE, shape)), images)
