"""The sites of augmentation: what each random number of an example is for (`rng.draw`, `rng.bits`).

Written out, never counted: a number that moves changes every run. Layers have the numbers below 2^16.
"""

BASE = 1 << 16

RANDOM_CROP = BASE + 1
RANDOM_FLIP = BASE + 2
RANDOM_RESIZED_CROP = BASE + 3
RANDOM_INTERPOLATION = BASE + 4
