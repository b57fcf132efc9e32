"""The literal tables of the policies. No TensorFlow here; `policies` gives them their meaning.

Operations are names of `policies.Op`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reading:
    """How one implementation of AutoAugment turns a bin of magnitude into an argument: bins - 1 equal steps.

    Shears, translations and enhancements (brightness, contrast, color, sharpness) have a random sign.
    """

    bins: int
    shear: float  # coefficient in the last bin; 0 in the first, as all below
    translate_share: float  # of the side
    translate_pixels: float  # added to the share
    rotate: float  # degrees
    enhance: float  # distance of the factor from 1
    posterize: int  # bits in the last bin; 8 in the first
    solarize: float  # threshold in the first bin; 0 in the last
    turns_both_ways: bool  # rotation has a random sign; else it is counter-clockwise
    float32: bool  # the steps are torch.linspace's, single precision
    whole_pixels: bool  # translations are cut off to whole pixels
    shears_bicubic: bool  # else NEAREST, as translations and rotations
    fill: int  # level of what lies outside the image


# github.com/SHI-Labs/Compact-Transformers: examples/utils/autoaug.py (SubPolicy), utils/transforms.py.
AUTHORS = Reading(
    bins=10, shear=0.3, translate_share=150 / 331, translate_pixels=0.0, rotate=30.0, enhance=0.9, posterize=4,
    solarize=256.0, turns_both_ways=False, float32=False, whole_pixels=False, shears_bicubic=True, fill=128)

# torchvision 0.29, transforms/autoaugment.py: AutoAugment._augmentation_space, _apply_op.
TORCHVISION = Reading(
    bins=10, shear=0.3, translate_share=150 / 331, translate_pixels=0.0, rotate=30.0, enhance=0.9, posterize=4,
    solarize=255.0, turns_both_ways=True, float32=True, whole_pixels=True, shears_bicubic=False, fill=0)

# The same file, TrivialAugmentWide._augmentation_space; arXiv:2103.10158 Table 1, "wide".
TRIVIAL_WIDE = Reading(
    bins=31, shear=0.99, translate_share=0.0, translate_pixels=32.0, rotate=135.0, enhance=0.99, posterize=2,
    solarize=255.0, turns_both_ways=True, float32=True, whole_pixels=True, shears_bicubic=False, fill=0)

TRIVIAL_GEOMETRIC_OPS = ("IDENTITY", "SHEAR_X", "SHEAR_Y", "TRANSLATE_X", "TRANSLATE_Y", "ROTATE")
TRIVIAL_OPS = (
    *TRIVIAL_GEOMETRIC_OPS, "BRIGHTNESS", "COLOR", "CONTRAST",
    "SHARPNESS", "POSTERIZE", "SOLARIZE", "AUTO_CONTRAST", "EQUALIZE",
)

# RandAugment: timm 1.0.31, timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS and their LEVEL_TO_ARG.
# (operation, start, sign, reach, whole): the argument at magnitude m is start + sign * reach * m / 10; sign 0 is drawn,
# "whole" cuts off the part after the point of reach * m / 10. Translations are shares of the side.
# timm's own bounds (a factor of at least 0.1, SolarizeAdd of at most 128) do nothing at magnitudes up to 10.
_RAND_COMMON = (
    ("AUTO_CONTRAST", 0, 1, 0, False),
    ("EQUALIZE", 0, 1, 0, False),
    ("INVERT", 0, 1, 0, False),
    ("ROTATE", 0, 0, 30, False),
    ("SOLARIZE_ADD", 0, 1, 110, True),
    ("SHEAR_X", 0, 0, 0.3, False),
    ("SHEAR_Y", 0, 0, 0.3, False),
    ("TRANSLATE_X", 0, 0, 0.45, False),
    ("TRANSLATE_Y", 0, 0, 0.45, False),
)
RAND_INCREASING = (
    *_RAND_COMMON,
    ("POSTERIZE", 4, -1, 4, True),
    ("SOLARIZE", 256, -1, 256, True),
    ("COLOR", 1, 0, 0.9, False),
    ("CONTRAST", 1, 0, 0.9, False),
    ("BRIGHTNESS", 1, 0, 0.9, False),
    ("SHARPNESS", 1, 0, 0.9, False),
)
# Without inc1, _RAND_TRANSFORMS: a larger magnitude posterizes and solarizes less, and enhances from 0.1 to 1.9.
RAND_PLAIN = (
    *_RAND_COMMON,
    ("POSTERIZE", 0, 1, 4, True),
    ("SOLARIZE", 0, 1, 256, True),
    ("COLOR", 0.1, 1, 1.8, False),
    ("CONTRAST", 0.1, 1, 1.8, False),
    ("BRIGHTNESS", 0.1, 1, 1.8, False),
    ("SHARPNESS", 0.1, 1, 1.8, False),
)

# AutoAugment, arXiv:1805.09501 (appendix), as torchvision's AutoAugment._get_policies lists it. A sub-policy is twice
# (operation, probability, bin of magnitude; 0 where the operation has none).
CIFAR10 = (
    (("INVERT", 0.1, 0), ("CONTRAST", 0.2, 6)),
    (("ROTATE", 0.7, 2), ("TRANSLATE_X", 0.3, 9)),
    (("SHARPNESS", 0.8, 1), ("SHARPNESS", 0.9, 3)),
    (("SHEAR_Y", 0.5, 8), ("TRANSLATE_Y", 0.7, 9)),
    (("AUTO_CONTRAST", 0.5, 0), ("EQUALIZE", 0.9, 0)),
    (("SHEAR_Y", 0.2, 7), ("POSTERIZE", 0.3, 7)),
    (("COLOR", 0.4, 3), ("BRIGHTNESS", 0.6, 7)),
    (("SHARPNESS", 0.3, 9), ("BRIGHTNESS", 0.7, 9)),
    (("EQUALIZE", 0.6, 0), ("EQUALIZE", 0.5, 0)),
    (("CONTRAST", 0.6, 7), ("SHARPNESS", 0.6, 5)),
    (("COLOR", 0.7, 7), ("TRANSLATE_X", 0.5, 8)),
    (("EQUALIZE", 0.3, 0), ("AUTO_CONTRAST", 0.4, 0)),
    (("TRANSLATE_Y", 0.4, 3), ("SHARPNESS", 0.2, 6)),
    (("BRIGHTNESS", 0.9, 6), ("COLOR", 0.2, 8)),
    (("SOLARIZE", 0.5, 2), ("INVERT", 0.0, 0)),
    (("EQUALIZE", 0.2, 0), ("AUTO_CONTRAST", 0.6, 0)),
    (("EQUALIZE", 0.2, 0), ("EQUALIZE", 0.6, 0)),
    (("COLOR", 0.9, 9), ("EQUALIZE", 0.6, 0)),
    (("AUTO_CONTRAST", 0.8, 0), ("SOLARIZE", 0.2, 8)),
    (("BRIGHTNESS", 0.1, 3), ("COLOR", 0.7, 0)),
    (("SOLARIZE", 0.4, 5), ("AUTO_CONTRAST", 0.9, 0)),
    (("TRANSLATE_Y", 0.9, 9), ("TRANSLATE_Y", 0.7, 9)),
    (("AUTO_CONTRAST", 0.9, 0), ("SOLARIZE", 0.8, 3)),
    (("EQUALIZE", 0.8, 0), ("INVERT", 0.1, 0)),
    (("TRANSLATE_Y", 0.7, 9), ("AUTO_CONTRAST", 0.9, 0)),
)

IMAGENET = (
    (("POSTERIZE", 0.4, 8), ("ROTATE", 0.6, 9)),
    (("SOLARIZE", 0.6, 5), ("AUTO_CONTRAST", 0.6, 0)),
    (("EQUALIZE", 0.8, 0), ("EQUALIZE", 0.6, 0)),
    (("POSTERIZE", 0.6, 7), ("POSTERIZE", 0.6, 6)),
    (("EQUALIZE", 0.4, 0), ("SOLARIZE", 0.2, 4)),
    (("EQUALIZE", 0.4, 0), ("ROTATE", 0.8, 8)),
    (("SOLARIZE", 0.6, 3), ("EQUALIZE", 0.6, 0)),
    (("POSTERIZE", 0.8, 5), ("EQUALIZE", 1.0, 0)),
    (("ROTATE", 0.2, 3), ("SOLARIZE", 0.6, 8)),
    (("EQUALIZE", 0.6, 0), ("POSTERIZE", 0.4, 6)),
    (("ROTATE", 0.8, 8), ("COLOR", 0.4, 0)),
    (("ROTATE", 0.4, 9), ("EQUALIZE", 0.6, 0)),
    (("EQUALIZE", 0.0, 0), ("EQUALIZE", 0.8, 0)),
    (("INVERT", 0.6, 0), ("EQUALIZE", 1.0, 0)),
    (("COLOR", 0.6, 4), ("CONTRAST", 1.0, 8)),
    (("ROTATE", 0.8, 8), ("COLOR", 1.0, 2)),
    (("COLOR", 0.8, 8), ("SOLARIZE", 0.8, 7)),
    (("SHARPNESS", 0.4, 7), ("INVERT", 0.6, 0)),
    (("SHEAR_X", 0.6, 5), ("EQUALIZE", 1.0, 0)),
    (("COLOR", 0.4, 0), ("EQUALIZE", 0.6, 0)),
    (("EQUALIZE", 0.4, 0), ("SOLARIZE", 0.2, 4)),
    (("SOLARIZE", 0.6, 5), ("AUTO_CONTRAST", 0.6, 0)),
    (("INVERT", 0.6, 0), ("EQUALIZE", 1.0, 0)),
    (("COLOR", 0.6, 4), ("CONTRAST", 1.0, 8)),
    (("EQUALIZE", 0.8, 0), ("EQUALIZE", 0.6, 0)),
)

SVHN = (
    (("SHEAR_X", 0.9, 4), ("INVERT", 0.2, 0)),
    (("SHEAR_Y", 0.9, 8), ("INVERT", 0.7, 0)),
    (("EQUALIZE", 0.6, 0), ("SOLARIZE", 0.6, 6)),
    (("INVERT", 0.9, 0), ("EQUALIZE", 0.6, 0)),
    (("EQUALIZE", 0.6, 0), ("ROTATE", 0.9, 3)),
    (("SHEAR_X", 0.9, 4), ("AUTO_CONTRAST", 0.8, 0)),
    (("SHEAR_Y", 0.9, 8), ("INVERT", 0.4, 0)),
    (("SHEAR_Y", 0.9, 5), ("SOLARIZE", 0.2, 6)),
    (("INVERT", 0.9, 0), ("AUTO_CONTRAST", 0.8, 0)),
    (("EQUALIZE", 0.6, 0), ("ROTATE", 0.9, 3)),
    (("SHEAR_X", 0.9, 4), ("SOLARIZE", 0.3, 3)),
    (("SHEAR_Y", 0.8, 8), ("INVERT", 0.7, 0)),
    (("EQUALIZE", 0.9, 0), ("TRANSLATE_Y", 0.6, 6)),
    (("INVERT", 0.9, 0), ("EQUALIZE", 0.6, 0)),
    (("CONTRAST", 0.3, 3), ("ROTATE", 0.8, 4)),
    (("INVERT", 0.8, 0), ("TRANSLATE_Y", 0.0, 2)),
    (("SHEAR_Y", 0.7, 6), ("SOLARIZE", 0.4, 8)),
    (("INVERT", 0.6, 0), ("ROTATE", 0.8, 4)),
    (("SHEAR_Y", 0.3, 7), ("TRANSLATE_X", 0.9, 3)),
    (("SHEAR_X", 0.1, 6), ("INVERT", 0.6, 0)),
    (("SOLARIZE", 0.7, 2), ("TRANSLATE_Y", 0.6, 7)),
    (("SHEAR_Y", 0.8, 4), ("INVERT", 0.8, 0)),
    (("SHEAR_X", 0.7, 9), ("TRANSLATE_Y", 0.8, 3)),
    (("SHEAR_Y", 0.8, 5), ("AUTO_CONTRAST", 0.7, 0)),
    (("SHEAR_X", 0.7, 2), ("INVERT", 0.1, 0)),
)
