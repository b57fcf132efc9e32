"""Mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899) of neighbours, one share for the batch as in timm.

    params = mix.sample(seed, step, height, width)
    images, labels = mix.apply(images, labels, params)

Example 2k is mixed with 2k + 1. The share is the part of an example that stays its own: 1 leaves a batch alone.

Legend: B batch (even), S S height and width, K classes.
"""

import dataclasses

import tensorflow as tf

from cct_tf import rng, sites

# Shares are multiples of 2^-16: times an 8-bit level that is exact in float32, and so is the sum of two such products;
# times one of 16 bits in float64.
# So pixels are the same with XLA, which rounds a * b + c once, and without it.
_SHARE_STEPS = 2.0**16


def _chance(key, site, probability):
    """True with a probability (a Python float): uint32 scalar -> bool scalar."""
    if probability >= 1.0:
        return tf.constant(True)
    return rng.draw(key, site) < rng.threshold(probability)


def _beta(key, site, alpha):
    """A draw of Beta(alpha, alpha), float64 scalar: g / (g + h) of two Gamma(alpha) variates g and h.

    Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha), taken in logarithms: for a small alpha both variates are often too
    small for a float, and the quotient would be 0 / 0. Sites `site` and `site + 1` are used.
    """
    seed_pair = tf.bitcast(rng.bits(key[None], site, (2,))[0], tf.int32)
    gammas = tf.random.stateless_gamma([2], seed_pair, alpha=tf.constant(alpha + 1.0, tf.float64), dtype=tf.float64)
    uniforms = (tf.cast(rng.bits(key[None], site + 1, (2,))[0], tf.float64) + 0.5) * 2.0**-32  # never 0
    logs = tf.math.log(gammas) + tf.math.log(uniforms) / alpha
    return tf.sigmoid(logs[0] - logs[1])


def _swapped(values):
    """Every example's partner: [B, ...] -> [B, ...]."""
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, axis=[1]), [-1, *values.shape[1:]])


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mix the images and labels of neighbours.

    Attributes:
        mixup_alpha, cutmix_alpha: floats, the share is drawn from Beta(alpha, alpha); 0 = not this kind. One of them
            is above 0.
        probability: float, share of the batches that are mixed.
        switch_probability: float, share of cutmix among them, where both kinds are on.
    """

    mixup_alpha: float
    cutmix_alpha: float
    probability: float = 1.0
    switch_probability: float = 0.5

    def describe(self):
        """Words for the plan."""
        kinds = [f"{name} {alpha:g}" for name, alpha in (("mixup", self.mixup_alpha), ("cutmix", self.cutmix_alpha))
                 if alpha]
        text = "/".join(kinds)
        if len(kinds) > 1 and self.switch_probability != 0.5:
            text += f" ({100 * self.switch_probability:g}% cutmix)"
        return text + (f" in {100 * self.probability:g}% of the batches" if self.probability < 1 else "")

    def sample(self, seed, step, height, width):
        """What happens to the batch of one step. Not for XLA, which has no gamma variates.

        Args:
            seed: int, the run's seed.
            step: int64 scalar tensor or int.
            height, width: ints, pixels of the images.

        Returns:
            dict: "share" float32 scalar, a multiple of 2^-16 for mixup, 1 - box area / image area for cutmix;
            "box" int32 [4] (top, left, bottom, right), what cutmix takes from the partner, else empty;
            "cutmix" bool scalar.
        """
        key = rng.fold(seed, rng.Stream.STEP, step)
        mixed = _chance(key, sites.MIX_APPLY, self.probability)
        cutmix = mixed & self._is_cutmix(key)
        share = tf.constant(1.0, tf.float64)
        if self.mixup_alpha > 0:
            drawn = _beta(key, sites.MIXUP_SHARE, self.mixup_alpha)
            share = tf.where(mixed & ~cutmix, tf.round(drawn * _SHARE_STEPS) / _SHARE_STEPS, share)
        box = tf.zeros([4], tf.int32)
        if self.cutmix_alpha > 0:
            drawn = _beta(key, sites.CUTMIX_SHARE, self.cutmix_alpha)
            centre = rng.uniform_int(rng.bits(key[None], sites.CUTMIX_CENTRE, (2,))[0], tf.constant([height, width]))
            box = tf.where(cutmix, cutmix_box(drawn, centre, height, width), box)
            share -= tf.cast((box[2] - box[0]) * (box[3] - box[1]), tf.float64) / (height * width)
        return {"share": tf.cast(share, tf.float32), "box": box, "cutmix": cutmix}

    def _is_cutmix(self, key):
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            return _chance(key, sites.MIX_SWITCH, self.switch_probability)
        return tf.constant(self.cutmix_alpha > 0)

    def apply(self, images, labels, params):
        """Mix a batch.

        Args:
            images: uint8 or uint16 [B, S, S, C].
            labels: float32 [B, K], smoothed.
            params: what `sample` gave.

        Returns:
            (images like them, float32 [B, K]). Mixed pixels are rounded to whole levels, halves to even.
        """
        share, box = params["share"], params["box"]
        rows, columns = tf.range(images.shape[1])[:, None], tf.range(images.shape[2])
        inside = (rows >= box[0]) & (rows < box[2]) & (columns >= box[1]) & (columns < box[3])  # [S, S]
        weight = tf.where(params["cutmix"], tf.where(inside, 0.0, 1.0), share)[:, :, None]  # of the own pixel
        exact = tf.float32 if images.dtype == tf.uint8 else tf.float64  # 16 bits of the share and 16 of a level
        own, other, weight = (tf.cast(each, exact) for each in (images, _swapped(images), weight))
        mixed = tf.cast(tf.round(other + (own - other) * weight), images.dtype)
        return mixed, labels * share + _swapped(labels) * (1.0 - share)


def cutmix_box(share, centre, height, width):
    """The box that cutmix fills: the sides are sqrt(1 - share) of the image's, cut off at its border.

    An odd side loses a pixel, as in the timm of the authors' runs; timm 1.0.31 keeps it.

    Args:
        share: float64 scalar, what should stay.
        centre: int32 [2] (y, x).
        height, width: ints, of the image.

    Returns:
        int32 [4] (top, left, bottom, right).
    """
    size = tf.constant([height, width])
    sides = tf.cast(tf.cast(size, tf.float64) * tf.sqrt(1.0 - share), tf.int32)
    start = tf.maximum(centre - sides // 2, 0)
    end = tf.minimum(centre + sides // 2, size)
    return tf.concat([start, end], axis=0)
