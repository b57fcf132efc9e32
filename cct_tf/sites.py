"""The sites of augmentation: what each random number of an example is for (`rng.draw`, `rng.bits`).

Written out, never counted: a number that moves changes every run. Layers have the numbers below 2^16.
"""

BASE = 1 << 16

RANDOM_CROP = BASE + 1
RANDOM_FLIP = BASE + 2
RANDOM_RESIZED_CROP = BASE + 3
RANDOM_INTERPOLATION = BASE + 4
RANDOM_VERTICAL_FLIP = BASE + 5
JITTER_ORDER = BASE + 6
JITTER_AMOUNT = BASE + 7

# Policies: the choice of a sub-policy, then 16 numbers for each operation in a row (`policy_stage`).
POLICY = BASE + 16
_POLICY_STAGE = BASE + 32

ERASE_APPLY = BASE + 128
ERASE_BOX = BASE + 129
ERASE_NOISE = BASE + 130

# Mixing: of a batch (stream STEP), not of an example.
MIX_APPLY = BASE + 144
MIX_SWITCH = BASE + 145
MIXUP_SHARE = BASE + 146  # and 147
CUTMIX_SHARE = BASE + 148  # and 149
CUTMIX_CENTRE = BASE + 150


def policy_stage(stage, use):
    """Number for use 0-15 (operation, whether to apply, sign, magnitude, ...) in place `stage` (0-5) of a policy."""
    return _POLICY_STAGE + 16 * stage + use
