"""AutoAugment and TrivialAugment: one row of operations drawn for each image.

Legend: B batch, R rows, n operations of a row (stages).
"""

import dataclasses

import tensorflow as tf

from cct_tf import rng, sites
from cct_tf.policies import notation

_APPLY, _SIGN = 1, 2  # uses of a stage's sites


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of the rows of a table for each image, all equally likely; each of its operations with its probability.

    Attributes:
        policy: `policies.SubPolicies`.
        fill: C ints, levels of what lies outside the image.
    """

    policy: notation.SubPolicies
    fill: tuple

    @property
    def geometry_alone(self):
        """Whether it holds geometric operations alone."""
        return self.policy.level_op is None

    def sample(self, seeds, size):
        """What each image gets.

        Args:
            seeds: uint32 [B].
            size: of the images in pixels, see `cct_tf.sizes`.

        Returns:
            list of dicts, one for each operation of a row: "op" int32 [B] (`policies.Op`), "argument" float64 [B],
            "interpolation" int32 [B]. An operation that is not applied is IDENTITY with argument 0.
        """
        table = self.policy.table(size)
        row = rng.uniform_int(rng.draw(seeds, sites.POLICY), len(self.policy.rows))
        return [self._stage(seeds, row, stage, {key: value[:, stage] for key, value in table.items()})
                for stage in range(len(self.policy.rows[0]))]

    def _stage(self, seeds, row, stage, column):
        """The operations of one column of the table: `column` holds arrays [R] and "argument" [R, 2]."""
        chance = rng.uniform(rng.draw(seeds, sites.policy_stage(stage, _APPLY)))
        applied = chance < tf.gather(column["probability"], row)
        positive = rng.draw(seeds, sites.policy_stage(stage, _SIGN)) >= rng.threshold(0.5)
        argument = tf.gather(column["argument"].reshape(-1), 2 * row + tf.cast(positive, tf.int32))
        return {
            "op": tf.where(applied, tf.gather(column["op"], row), int(notation.Op.IDENTITY)),
            "argument": tf.where(applied, argument, 0.0),
            "interpolation": tf.gather(column["interpolation"], row),
        }
