"""Which training images --validation_fraction or --fold holds out, and whether there are enough. No TensorFlow here.

    labels                with groups                       without
    one an image          StratifiedGroupKFold              StratifiedKFold
    several               GroupKFold                        KFold

Folds are scikit-learn's, shuffled with --split_seed. All images of a group are in one fold.

Legend: n images, K classes.
"""

import numpy as np

from cct_tf.data import holding_out, label_kinds
from cct_tf.errors import UserError
from cct_tf.settings import folds


def check(config, labels, groups=None, class_names=None, rule=2):
    """Raise UserError if training images can't be held out as a config says; nothing, where it doesn't.

    Args:
        config: DataConfig.
        labels: int [n], or uint8 [n, K].
        groups: object [n] of str, or None.
        class_names: sequence of K strings for messages, or None.
        rule: `source.Rules.split`.
    """
    counts = label_kinds.counts(labels, 0)
    if config.validation_fraction:
        holding_out.check(counts.tolist(), config.validation_fraction, rule)
    if not config.fold:
        return
    number = folds.parse(config.fold)[1]
    names, codes = (labels, None) if groups is None else np.unique(groups, return_inverse=True)
    units, noun = len(names), "images" if groups is None else "groups"
    if units < number:
        raise UserError(f"--fold: expected at least {number} {noun} to train on for {number} folds, found {units}")
    if labels.ndim == 2:
        return
    pairs = () if groups is None else np.unique(labels.astype(np.int64) * units + codes)  # a class in a group
    of_class = counts if groups is None else np.bincount(pairs // units, minlength=len(counts))
    for label in np.flatnonzero((counts > 0) & ((counts < number) | (of_class < 2))):
        name = f"class {label}" if class_names is None else repr(class_names[label])
        if counts[label] < number:
            raise UserError(f"--fold: expected at least {number} training images of every class for {number} folds, "
                            f"found {counts[label]} of {name}")
        raise UserError(f"--fold: expected every class in two groups or more, so that each fold leaves some of it to "
                        f"train on, found {name} in {groups[labels == label][0]!r} alone")


def held_out(config, labels, groups=None):
    """The images of --fold: bool [n]. Arguments as for `check`.

    Raises:
        UserError: groups so uneven that no images are in the fold, or none of a class are left to train on.
    """
    from sklearn import model_selection  # a second

    number, count = folds.parse(config.fold)
    kind = {(1, True): "StratifiedKFold", (1, False): "StratifiedGroupKFold", (2, True): "KFold",
            (2, False): "GroupKFold"}[labels.ndim, groups is None]
    way = getattr(model_selection, kind)(count, shuffle=True, random_state=_random_state(config.split_seed))
    found = list(way.split(np.zeros(len(labels)), labels, groups))[number - 1][1]
    chosen = np.zeros(len(labels), bool)
    chosen[found] = True
    lost = np.setdiff1d(labels, labels[~chosen]) if labels.ndim == 1 else ()
    if not chosen.any() or len(lost):
        what = f"none of class {lost[0]} to train on" if len(lost) else "no images"
        raise UserError(f"--fold: expected groups that can be shared out among {count} folds, found {what} in fold "
                        f"{config.fold}; fewer folds, or another --split_seed")
    return chosen


def _random_state(seed):
    """What scikit-learn takes of a seed below 2^63."""
    return seed if seed < 2**32 else np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
