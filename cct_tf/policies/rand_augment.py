"""RandAugment as timm does it, and the making of any policy that --auto_augment names.

    policy = make_policy(notation.resolve("rand-m9-mstd0.5-inc1"), mean)
    stages = policy.sample(seeds, size)    what each image gets, stage by stage; `operations.apply` does it

Legend: B batch.
"""

import dataclasses
import functools
import math
import statistics

import numpy as np
import tensorflow as tf

from cct_tf import rng, sites
from cct_tf.images.pixel_type import RGB
from cct_tf.policies import notation
from cct_tf.policies.auto_augment import AutoAugment

_OPERATION, _APPLY, _SIGN, _MAGNITUDE, _INTERPOLATION = range(5)  # uses of a stage's sites; never to be moved
_CELLS = 4096


@functools.cache
def _normal_quantiles():
    """Quantiles of the normal distribution at 0, 1/4096, ..., 1, float64 [4097]; +-4 stands for infinity.

    With 4 the mean of the last cell is right when it is taken as straight.
    """
    inner = [statistics.NormalDist().inv_cdf(cell / _CELLS) for cell in range(1, _CELLS)]
    return np.array([-4.0, *inner, 4.0])


def normal(random_bits):
    """Standard normal numbers, cut off at 4, by straight lines between quantiles.

    No logarithm: TensorFlow computes it for whole vectors and for what is left over with results that differ in the
    last bit, and an image may not depend on its batch.

    Args:
        random_bits: uint32 [B].

    Returns:
        float64 [B].
    """
    quantiles = _normal_quantiles()
    place = tf.cast(rng.uniform(random_bits), tf.float64) * _CELLS
    cell = tf.floor(place)
    index = tf.cast(cell, tf.int32)
    return tf.gather(quantiles[:-1], index) + (place - cell) * tf.gather(np.diff(quantiles), index)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Some of 15 operations for each image, equally likely and with replacement.

    Attributes:
        policy: `policies.Rand`.
        fill: C ints, levels of what lies outside the image.
    """

    policy: notation.Rand
    fill: tuple

    geometry_alone = False

    def sample(self, seeds, size):
        """What each image gets: as `AutoAugment.sample`, a dict for each of the operations."""
        return [self._stage(seeds, stage, size) for stage in range(self.policy.num_ops)]

    def _stage(self, seeds, stage, size):
        def draw(use):
            return rng.draw(seeds, sites.policy_stage(stage, use))

        table = self.policy.table()
        row = rng.uniform_int(draw(_OPERATION), len(table))
        applied = rng.uniform(draw(_APPLY)) < self.policy.probability
        positive = draw(_SIGN) >= rng.threshold(0.5)
        bicubic = draw(_INTERPOLATION) >= rng.threshold(0.5)
        argument = self._argument(row, self._magnitude(draw(_MAGNITUDE)), positive, size)
        return {
            "op": tf.where(applied, tf.gather(np.array([op for op, *_ in table], np.int32), row),
                           int(notation.Op.IDENTITY)),
            "argument": tf.where(applied, argument, 0.0),
            "interpolation": tf.where(bicubic, notation.BICUBIC, notation.BILINEAR),
        }

    def _magnitude(self, random_bits):
        """uint32 [B] -> float64 [B] in [0, 10]."""
        policy = self.policy
        if math.isinf(policy.magnitude_std):
            return tf.cast(rng.uniform(random_bits), tf.float64) * policy.magnitude
        return tf.clip_by_value(policy.magnitude + policy.magnitude_std * normal(random_bits), 0.0, 10.0)

    def _argument(self, row, magnitude, positive, size):
        """Arguments of the operations in rows `row` of the table, in timm's order of computation: float64 [B]."""
        ops, start, sign, reach, whole = (np.array(column) for column in zip(*self.policy.table(), strict=True))
        shifts = notation.Op.TRANSLATE_X, notation.Op.TRANSLATE_Y
        scale = np.array([float(notation.side_of(op, size)) if op in shifts else 1.0 for op in ops])
        # A plain division by 10 becomes a product with 0.1 in graphs, which rounds otherwise.
        level = tf.math.divide_no_nan(magnitude, 10.0) * tf.gather(reach.astype(np.float64), row)
        level = tf.where(tf.gather(whole, row), tf.floor(level), level) * tf.gather(scale, row)
        drawn = tf.where(positive, tf.constant(1.0, tf.float64), -1.0)
        sign = tf.gather(sign.astype(np.float64), row)
        return tf.gather(start.astype(np.float64), row) + tf.where(sign == 0.0, drawn, sign) * level


def make_policy(resolved, mean, pixel_type=RGB):
    """The policy that samples.

    Args:
        resolved: what `policies.resolve` gave.
        mean: tuple of one or C floats, mean of the levels as shares of the highest: timm's RandAugment fills with it.
        pixel_type: `pixel_type.PixelType` of the images.

    Returns:
        `AutoAugment`, `RandAugment` or None.
    """
    if resolved is None:
        return None
    if isinstance(resolved, notation.SubPolicies):
        return AutoAugment(resolved, (resolved.reading.fill * pixel_type.white // 255,) * pixel_type.channels)
    return RandAugment(resolved, mean_levels(mean, pixel_type))


def mean_levels(mean, pixel_type):
    """What timm's geometric operations leave empty: one or C floats in [0, 1] -> tuple of C levels of a PixelType."""
    white = pixel_type.white
    levels = tuple(min(white, max(0, round(white * value))) for value in mean)
    return levels * pixel_type.channels if len(levels) == 1 else levels
