"""--sampler: training images drawn class by class, with replacement.

    balanced    a class k with n_k > 0 images is drawn with probability 1 / K
    sqrt        with sqrt(n_k) / sum_j sqrt(n_j)

and of its images each alike (arXiv:1910.09217). The draw of a place of the endless order is two hashes of (seed,
place): whatever runs before it, beside it or after a stop, it is the same. An epoch is n draws.

Legend: n images of the split, K classes with images, b images of a batch.
"""

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.errors import UserError
from cct_tf.readers import tensors
from cct_tf.readers.reader import as_written

_POWERS = {"balanced": 0.0, "sqrt": 0.5}
_CLASS, _MEMBER = 1, 2  # sites
_RANGE = 2**32  # of a hash
_SEARCHED, _MOST_SEARCHED = 2**16, 2**22  # places that are looked at together, and in all, by `next_places`


def check(sampler, split):
    """Raise UserError if the images of a `source.Split` can't be drawn by class.

    Args:
        sampler: value of the flag.
    """
    if sampler != "none" and split.labels is None:
        raise UserError("--sampler: expected none for a TFDS set that is not held in memory, whose labels are not "
                        f"known beforehand, found {sampler}")


def probabilities(sampler, counts):
    """The probability of each class: int [K], images of each -> float64 [K]; 0 for one without images."""
    shares = np.where(counts > 0, np.asarray(counts, np.float64) ** _POWERS[sampler], 0.0)
    return shares / shares.sum()


def draws(sampler, labels, seed):
    """Which image is drawn at a place.

    Args:
        sampler: "balanced" or "sqrt".
        labels: int [n].
        seed: int, the run's seed.

    Returns:
        Function of int64 [b], places -> int64 [b], indices of images.
    """
    counts = np.bincount(labels)
    ends = np.round(np.cumsum(probabilities(sampler, counts)) * _RANGE).astype(np.int64)
    ends[np.flatnonzero(counts)[-1]:] = _RANGE
    # Of each class: where its range of hashes ends, its first place among the members of all, their number.
    ends, first, number, members = map(tensors.on_cpu, (
        ends, np.cumsum(counts) - counts, counts.astype(np.int64), np.argsort(labels, kind="stable")))

    def draw(place):
        seeds = rng.fold(seed, rng.Stream.SAMPLE, place)
        by_class, by_member = (tf.cast(rng.draw(seeds, site), tf.int64) for site in (_CLASS, _MEMBER))
        label = tf.searchsorted(ends, by_class, side="right")
        of_class = tf.bitwise.right_shift(by_member * tf.gather(number, label), tf.constant(32, tf.int64))
        return tf.gather(members, tf.gather(first, label) + of_class)

    return draw


def next_places(draw, count, times):
    """Where the images of the first places are drawn again.

    Args:
        draw: what `draws` gives.
        count: int k, first places.
        times: int m.

    Returns:
        int64 [k, m]: row r has the places of the image of place r from there on, r first; -1 where it is not drawn so
        often in some millions of places.
    """
    wanted, found = draw(tf.range(count, dtype=tf.int64)).numpy(), [[] for _ in range(count)]
    for start in range(0, _MOST_SEARCHED, _SEARCHED):
        index = draw(tf.range(start, start + _SEARCHED, dtype=tf.int64)).numpy()
        hits = np.flatnonzero(np.isin(index, wanted))
        for row, places in enumerate(found):
            own = hits[index[hits] == wanted[row]] + start
            places.extend(own[own >= row][:times - len(places)])
        if all(len(places) == times for places in found):
            break
    return np.array([places + [-1] * (times - len(places)) for places in found], np.int64)


def order(sampler, split, seed, batch_size, start, num_batches):
    """As `Reader.order`, of draws; `split` is a `source.Split`."""
    check(sampler, split)
    draw, n = draws(sampler, split.labels, seed), split.num_examples

    @as_written
    def one(batch):
        place = batch * batch_size + tf.range(batch_size, dtype=tf.int64)
        return {"index": draw(place), "epoch": place // n}

    return tf.data.Dataset.range(start, start + num_batches).map(one)
