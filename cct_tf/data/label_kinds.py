"""Labels of both tasks: one class an image, int [n], or several, uint8 [n, K] of 0 and 1. NumPy alone.

Legend: n images, K classes.
"""

import numpy as np

from cct_tf.data import holding_out


def as_held(labels):
    """As `source.Split` holds them: int32 [n], or uint8 [n, K]."""
    return np.asarray(labels, np.int32 if np.ndim(labels) == 1 else np.uint8)


def counts(labels, num_classes):
    """Images of each class: int64 [K]."""
    return np.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(axis=0, dtype=np.int64)


def missing(labels, num_classes):
    """Classes that no image has: int64 [k]."""
    return np.flatnonzero(counts(labels, num_classes) == 0)


def names(label, class_names):
    """The classes of one image, a tuple of names; `label` is an int or uint8 [K]."""
    return tuple(class_names[index] for index in (np.flatnonzero(label) if np.ndim(label) else (label,)))


def plain(label):
    """One label as JSON has it: an int, or a list of 0 and 1."""
    return np.asarray(label).tolist()


def stratified(labels, fraction, rule, ordered):
    """Hold out a share of every class: of the rarest first, of which more common ones take what it gave into account.

    That is the iterative stratification of Sechidis et al. (ECML PKDD 2011) for two subsets, with the order of the
    classes by all their images. Those without a class are a class of their own, the last.

    Args:
        labels: uint8 [n, K].
        fraction: share held out, 0 to 1.
        rule: `source.Rules.split`, see `holding_out`.
        ordered: function of (members int64 [m], class int) -> the members in the order in which they are held out.

    Returns:
        bool [n], True where an image is held out.
    """
    has = np.concatenate([labels > 0, ~labels.any(axis=1, keepdims=True)], axis=1)
    totals = has.sum(axis=0)
    held_out, free = np.zeros(len(labels), bool), np.ones(len(labels), bool)
    for label in [*np.argsort(totals[:-1], kind="stable"), len(totals) - 1]:
        members = np.flatnonzero(has[:, label] & free)
        free[members] = False
        if len(members):
            wanted = holding_out.number(totals[label], fraction, rule) - held_out[has[:, label]].sum()
            held_out[ordered(members, int(label))[:max(wanted, 0)]] = True
    return held_out
