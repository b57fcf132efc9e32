"""Stratified splits: counts by hand, fixed by (seed, class), and a training image for every class."""

import numpy as np
import pytest

from cct_tf.config import DataConfig
from cct_tf.data import source, splits
from cct_tf.errors import UserError

LABELS = np.repeat([0, 1, 2, 3], [10, 25, 1, 2])


def test_each_class_gives_its_rounded_share_but_never_its_last_image():
    kept, held_out = splits.stratified(LABELS, 0.3, seed=0)
    assert np.bincount(LABELS[held_out], minlength=4).tolist() == [3, 8, 0, 1]  # 3.0, 7.5, 0.3, 0.6
    assert sorted([*kept, *held_out]) == list(range(38))
    assert np.bincount(LABELS[splits.stratified(LABELS, 0.99, 0)[0]]).min() == 1


def test_a_split_is_fixed_by_its_seed():
    first, again, other = (splits.stratified(LABELS, 0.3, seed)[1].tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_a_class_is_split_alike_whatever_other_classes_there_are():
    alone = splits.stratified(np.full(25, 1), 0.3, seed=0)[1]
    _, together = splits.stratified(LABELS, 0.3, seed=0)
    np.testing.assert_array_equal(together[LABELS[together] == 1] - 10, alone)


def _source(config, train, test=()):
    parts = {name: splits.Part(lambda indices: indices, np.arange(len(labels)), np.array(labels))
             for name, labels in (("train", train), ("test", test)) if len(labels)}
    return splits.indexed_source(config, source.Rules(), ["a", "b"], parts)


def test_the_fingerprint_follows_labels_and_split():
    plain = _source(DataConfig(), [0, 1, 1], [0])
    assert plain.fingerprint == _source(DataConfig(), [0, 1, 1], [0]).fingerprint
    assert plain.fingerprint != _source(DataConfig(), [1, 0, 1], [0]).fingerprint
    assert plain.fingerprint != _source(DataConfig(validation_fraction=0.4), [0, 1, 1], [0]).fingerprint


@pytest.mark.parametrize("train, test, fraction, flag", [
    ([0, 0, 0], [0], 0.0, "--dataset"),  # class b has no training image
    ([0, 1], [], 0.0, "--validation_fraction"),  # nothing to evaluate on
    ([0, 1], [0], 0.1, "--validation_fraction"),  # holds out nothing
])
def test_impossible_splits_are_one_line(train, test, fraction, flag):
    with pytest.raises(UserError) as caught:
        _source(DataConfig(validation_fraction=fraction), train, test)
    assert str(caught.value).startswith(flag) and "\n" not in str(caught.value)
