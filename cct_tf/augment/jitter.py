"""Colour jitter (torchvision's ColorJitter): brightness, contrast, saturation and hue in random order. B: batch."""

import dataclasses

import tensorflow as tf

from cct_tf import rng, sites
from cct_tf.augment import hue
from cct_tf.policies import operations
from cct_tf.policies.notation import NEAREST, Op

_FACTORS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR)
_HUE = -1


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change each image's colours, each of four ways once, in an order of its own.

    Attributes:
        brightness, contrast, saturation: floats b >= 0, the factor is uniform in [max(0, 1 - b), 1 + b]; 0 = off.
        hue: float from 0 to 0.5, the turn is uniform in [-hue, hue] of the circle; 0 = off.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0

    def describe(self):
        """Words for the plan."""
        return "colour jitter " + "/".join(f"{value:g}" for value in dataclasses.astuple(self))

    def sample(self, seeds):
        """What each image gets, in order.

        Args:
            seeds: uint32 [B].

        Returns:
            list of dicts, one for each way that is on: "op" int32 [B], `notation.Op` (IDENTITY where the hue is
            turned), "argument" float64 [B], "turned" bool [B], "shift" int32 [B], levels of hue.
        """
        reach = dict(zip((*_FACTORS, _HUE), dataclasses.astuple(self), strict=True))
        ways = [way for way, value in reach.items() if value]
        drawn = tf.cast(rng.uniform(rng.bits(seeds, sites.JITTER_AMOUNT, (4,))), tf.float64)[:, :len(ways)]
        low = [max(0.0, 1.0 - reach[way]) if way != _HUE else -reach[way] for way in ways]
        high = [1.0 + reach[way] if way != _HUE else reach[way] for way in ways]
        amounts = tf.constant(low, tf.float64) + drawn * (tf.constant(high, tf.float64) - tf.constant(low, tf.float64))
        order = tf.argsort(tf.cast(rng.bits(seeds, sites.JITTER_ORDER, (4,))[:, :len(ways)], tf.int64), axis=1)
        steps = []
        for place in range(len(ways)):
            chosen = order[:, place]
            way, amount = tf.gather([int(way) for way in ways], chosen), tf.gather(amounts, chosen, batch_dims=1)
            turned = way == _HUE
            steps.append({"op": tf.where(turned, int(Op.IDENTITY), way), "argument": tf.where(~turned, amount, 0.0),
                          "turned": turned, "shift": tf.cast(tf.where(turned, amount, 0.0) * 255.0, tf.int32)})
        return steps

    def apply(self, images, step):
        """uint8 [B, H, W, 3] and one dict of `sample` -> uint8 [B, H, W, 3], Pillow's pixels."""
        operation = {"op": step["op"], "argument": step["argument"],
                     "interpolation": tf.fill(tf.shape(step["op"]), NEAREST)}
        images, channels = operations.apply(images, operation, (0,) * images.shape[-1]), images.shape[-1]
        # Grey has no hue; torchvision leaves it, too.
        return hue.turn(images, step["turned"], step["shift"]) if self.hue and channels == 3 else images


def make_jitter(values):
    """`ColorJitter` of --color_jitter: one number for all but the hue, three, or four; None of None."""
    return None if values is None else ColorJitter(*(values * 3 if len(values) == 1 else values))
