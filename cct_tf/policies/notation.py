"""Policies of augmentation by name: operations, what their arguments mean, and the notation. No TensorFlow here.

    cifar10                 AutoAugment for CIFAR-10 (arXiv:1805.09501) in the reading of the CCT authors
    cifar10_torchvision     the same in torchvision's reading; so are imagenet and svhn
    trivial                 TrivialAugment-wide (arXiv:2103.10158), torchvision's
    trivial_geometric       its geometric operations alone, for images of any channels and bits
    rand-m9-mstd0.5-inc1    RandAugment (arXiv:1909.13719) in timm's notation, parts in any order:
                            mN magnitude 0 to 10 (10), nN operations 1 to 6 (2), pX probability of each (0.5), mstdX
                            standard deviation of the magnitude (0; above 100: uniform from 0 to N), inc1 operations
                            that grow with the magnitude (inc0)
    none
"""

import dataclasses
import enum
import math
import re

import numpy as np

from cct_tf import sizes
from cct_tf.errors import UserError, nearest
from cct_tf.policies import tables


class Op(enum.IntEnum):
    """What is done to an image, with the unit of its argument. The names are Pillow's and the policies'."""

    IDENTITY = 0
    AUTO_CONTRAST = 1  # no argument: ImageOps.autocontrast
    EQUALIZE = 2  # no argument: ImageOps.equalize
    INVERT = 3  # no argument: ImageOps.invert
    POSTERIZE = 4  # bits kept, a whole number from 0 to 8: ImageOps.posterize (0: black)
    SOLARIZE = 5  # levels from this one on are inverted, 0 to 256, may be fractional: ImageOps.solarize
    SOLARIZE_ADD = 6  # added to levels below 128, a whole number, clipped at 255
    BRIGHTNESS = 7  # factor, 1 = unchanged: ImageEnhance.Brightness
    CONTRAST = 8  # factor: ImageEnhance.Contrast
    COLOR = 9  # factor: ImageEnhance.Color
    SHARPNESS = 10  # factor: ImageEnhance.Sharpness
    SHEAR_X = 11  # coefficient k of Image.transform(AFFINE, (1, k, 0, 0, 1, 0))
    SHEAR_Y = 12  # k of (1, 0, 0, k, 1, 0)
    TRANSLATE_X = 13  # pixels k of (1, 0, k, 0, 1, 0), which moves the image to the left
    TRANSLATE_Y = 14  # pixels k of (1, 0, 0, 0, 1, k), which moves it up
    ROTATE = 15  # degrees counter-clockwise: Image.rotate about the centre


NEAREST, BILINEAR, BICUBIC = 0, 1, 2  # interpolation of SHEAR, TRANSLATE and ROTATE

_SHEARS = (Op.SHEAR_X, Op.SHEAR_Y)
_TRANSLATIONS = (Op.TRANSLATE_X, Op.TRANSLATE_Y)
GEOMETRIC = (*_SHEARS, *_TRANSLATIONS, Op.ROTATE)
_ENHANCEMENTS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.SHARPNESS)
_MAX_OPERATIONS = 6  # places that cct_tf.augment.sites has numbers for


def linspace32(first, last, count):
    """`torch.linspace` of single precision on CPUs with fused multiply-add, to the last bit, as float64 [count].

    Its rounding shows: in torchvision, (0, 32, 31) has 15.999999 in the middle, which is 15 whole pixels.
    """
    first, last = np.float32(first), np.float32(last)
    step, index = np.float64((last - first) / np.float32(count - 1)), np.arange(count)
    upward, downward = first + step * index, last - step * (count - 1 - index)
    return np.where(index < count // 2, upward, downward).astype(np.float32).astype(np.float64)


def side_of(op, size):
    """The side of an image that a translation is a share of, the height for TRANSLATE_Y, else the width: an int."""
    height, width = sizes.sides(size)
    return height if op == Op.TRANSLATE_Y else width


def arguments(reading, op, size):
    """What an operation may be given.

    Args:
        reading: `tables.Reading`.
        op: `Op`.
        size: of the image in pixels, see `cct_tf.sizes`.

    Returns:
        float64 [bins, 2]: the arguments by bin of magnitude, with negative and with positive sign.
    """
    steps = linspace32 if reading.float32 else np.linspace
    side, centre, signed, distance = side_of(op, size), 0.0, True, np.zeros(reading.bins)
    if op in _SHEARS:
        distance = steps(0.0, reading.shear, reading.bins)
    elif op in _TRANSLATIONS and reading.whole_pixels:
        distance = np.trunc(steps(0.0, reading.translate_share * side + reading.translate_pixels, reading.bins))
    elif op in _TRANSLATIONS:
        distance = steps(0.0, reading.translate_share, reading.bins) * side + reading.translate_pixels
    elif op in _ENHANCEMENTS:
        centre, distance = 1.0, steps(0.0, reading.enhance, reading.bins)
    elif op == Op.ROTATE:
        distance, signed = steps(0.0, reading.rotate, reading.bins), reading.turns_both_ways
    elif op == Op.POSTERIZE:
        distance, signed = np.round(np.linspace(8.0, reading.posterize, reading.bins)), False
    elif op == Op.SOLARIZE:
        distance, signed = steps(reading.solarize, 0.0, reading.bins), False
    return np.stack([centre - distance if signed else distance, centre + distance], axis=1)


@dataclasses.dataclass(frozen=True)
class SubPolicies:
    """A choice among rows of operations, AutoAugment's and TrivialAugment's kind of policy.

    Attributes:
        rows: tuple of rows, each a tuple of (name of an `Op`, probability, bin of magnitude), all of one length.
        reading: `tables.Reading`.
    """

    rows: tuple
    reading: tables.Reading

    @property
    def level_op(self):
        """Name of an operation on levels of 8 bits; None of a policy that has geometric ones alone."""
        return next((name for row in self.rows for name, *_ in row if Op[name] not in (Op.IDENTITY, *GEOMETRIC)), None)

    def table(self, size):
        """The rows as arrays.

        Args:
            size: of the image in pixels, see `cct_tf.sizes`.

        Returns:
            dict, with R rows of n operations: "op" int32 [R, n], "probability" float32 [R, n], "interpolation" int32
            [R, n], "argument" float64 [R, n, 2] (with negative and with positive sign).
        """
        shear = BICUBIC if self.reading.shears_bicubic else NEAREST
        by_op = {op: arguments(self.reading, op, size) for op in Op}
        cells = [[(Op[name], probability, bin_) for name, probability, bin_ in row] for row in self.rows]
        return {
            "op": np.array([[op for op, _, _ in row] for row in cells], np.int32),
            "probability": np.array([[probability for _, probability, _ in row] for row in cells], np.float32),
            "interpolation": np.array([[shear if op in _SHEARS else NEAREST for op, _, _ in row] for row in cells],
                                      np.int32),
            "argument": np.array([[by_op[op][bin_] for op, _, bin_ in row] for row in cells]),
        }


@dataclasses.dataclass(frozen=True)
class Rand:
    """RandAugment's parameters, named by timm's notation. The defaults are timm's."""

    magnitude: float = 10.0
    num_ops: int = 2
    magnitude_std: float = 0.0  # infinite: the magnitude is uniform from 0 to `magnitude`
    probability: float = 0.5  # that a chosen operation is applied
    increasing: bool = False

    level_op = "AUTO_CONTRAST"  # as of `SubPolicies`

    def table(self):
        """`tables.RAND_INCREASING` or `RAND_PLAIN`: tuple of (Op, start, sign, reach, whole)."""
        rows = tables.RAND_INCREASING if self.increasing else tables.RAND_PLAIN
        return tuple((Op[name], *numbers) for name, *numbers in rows)


NAMED = {
    "cifar10": SubPolicies(tables.CIFAR10, tables.AUTHORS),
    "cifar10_torchvision": SubPolicies(tables.CIFAR10, tables.TORCHVISION),
    "imagenet": SubPolicies(tables.IMAGENET, tables.TORCHVISION),
    "svhn": SubPolicies(tables.SVHN, tables.TORCHVISION),
    "trivial": SubPolicies(tuple(((name, 1.0, bin_),) for name in tables.TRIVIAL_OPS
                                 for bin_ in range(tables.TRIVIAL_WIDE.bins)), tables.TRIVIAL_WIDE),
    "trivial_geometric": SubPolicies(tuple(((name, 1.0, bin_),) for name in tables.TRIVIAL_GEOMETRIC_OPS
                                           for bin_ in range(tables.TRIVIAL_WIDE.bins)), tables.TRIVIAL_WIDE),
    "none": None,
}

# Part of the notation: field, type, smallest, largest value.
_PARTS = {
    "m": ("magnitude", float, 0.0, 10.0),
    "n": ("num_ops", int, 1, _MAX_OPERATIONS),
    "p": ("probability", float, 0.0, 1.0),
    "mstd": ("magnitude_std", float, 0.0, math.inf),
    "inc": ("increasing", int, 0, 1),
}


def resolve(name):
    """The policy that --auto_augment names.

    Args:
        name: str, see the top of this file.

    Returns:
        `SubPolicies`, `Rand`, or None for "none".

    Raises:
        UserError: an unknown policy; a part of RandAugment's notation that is unknown, given twice or out of range.
    """
    if name in NAMED:
        return NAMED[name]
    if name.split("-")[0] != "rand":
        raise UserError(f"--auto_augment: expected {', '.join(NAMED)} or RandAugment such as rand-m9-mstd0.5-inc1, "
                        f"found {name!r}" + nearest(name, NAMED))
    fields = {}
    for part in name.split("-")[1:]:
        field, value = _part(part, name)
        if field in fields:
            raise UserError(f"--auto_augment: expected each part of a RandAugment once, found {part!r} as well in "
                            f"{name!r}")
        fields[field] = value
    if fields.get("magnitude_std", 0.0) > 100.0:  # timm's word for "uniform"
        fields["magnitude_std"] = math.inf
    return Rand(**fields)


def _part(part, name):
    """`m9` -> ("magnitude", 9.0), checked."""
    match = re.fullmatch(r"([a-z]+)([0-9]*\.?[0-9]+)", part, re.ASCII)
    if not match or match[1] not in _PARTS:
        raise UserError(f"--auto_augment: expected mN, nN, pX, mstdX and inc0 or inc1 behind rand, found {part!r} in "
                        f"{name!r}")
    field, kind, low, high = _PARTS[match[1]]
    value = float(match[2])
    if not low <= value <= high or kind is int and value != int(value):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"--auto_augment: expected {what} from {low:g} to {high:g} behind {match[1]!r}, found {part!r} "
                        f"in {name!r}")
    return field, bool(value) if field == "increasing" else kind(value)
