"""Which images --validation_fraction holds out, as far as no permutation is needed. No TensorFlow here.

    rule 1    a class of m images gives round(share * m) of them, at most m - 1; chosen by a permutation
    rule 2    the same, but at least one where m >= 2; of files those whose paths hash lowest, else as by rule 1
"""

import hashlib

from cct_tf.errors import UserError


def number(members, fraction, rule):
    """How many of a class of `members` images (int, at least 1) are held out; one always stays to train on."""
    least = 1 if rule >= 2 else 0
    return min(max(int(fraction * members + 0.5), least), members - 1)


def order_of(paths, seed):
    """Places of `paths` (sequence of bytes) in the order in which they are held out: list of int.

    By SHA-256 of the seed and the path. A path's place among the others depends on nothing else, so that a file more
    or less moves at most one other from one split to the other.
    """
    start = hashlib.sha256(b"%d\n" % seed)

    def key(place):
        digest = start.copy()
        digest.update(paths[place])
        return digest.digest()

    return sorted(range(len(paths)), key=key)


def check(counts, fraction, rule):
    """Raise UserError if no class gives an image.

    Args:
        counts: sequence of int, the training images of each class.
        fraction: --validation_fraction.
        rule: `source.Rules.split`.
    """
    if not any(number(count, fraction, rule) for count in counts if count):
        images = "one image" if max(counts) == 1 else f"at most {max(counts):,} images"
        raise UserError(f"--validation_fraction: expected a share that holds out an image of at least one class, each "
                        f"of which keeps one to train on, found {fraction:g} of classes of {images}")
