"""Stratified splits: counts by hand, fixed by (seed, class) and path, and a training image for every class."""

import hashlib
import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.data import holding_out, source, splits
from cct_tf.errors import UserError
from cct_tf.settings.config import DataConfig

LABELS = np.repeat([0, 1, 2, 3], [10, 25, 1, 2])


@pytest.mark.parametrize("rule", [1, 2])
def test_each_class_gives_its_rounded_share_but_never_its_last_image(rule):
    kept, held_out = splits.stratified(LABELS, 0.3, 0, rule)
    assert np.bincount(LABELS[held_out], minlength=4).tolist() == [3, 8, 0, 1]  # 3.0, 7.5, 0.3, 0.6
    assert sorted([*kept, *held_out]) == list(range(38))
    assert np.bincount(LABELS[splits.stratified(LABELS, 0.99, 0, rule)[0]]).min() == 1


@pytest.mark.parametrize(("rule", "counts"), [(1, [20, 0, 0]), (2, [20, 1, 0])])
def test_a_rare_class_gives_an_image_by_rule_2(rule, counts):
    labels = np.repeat([0, 1, 2], [198, 2, 1])
    assert np.bincount(labels[splits.stratified(labels, 0.1, 0, rule)[1]], minlength=3).tolist() == counts


def _version_0(labels, fraction, seed):
    """Places held out, as the first version chose them: written down here, for what it chose must stay."""
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        number = min(int(fraction * len(members) + 0.5), len(members) - 1)
        with tf.device("CPU:0"):
            order = rng.permutation(len(members), rng.fold_pair(seed, rng.Stream.SPLIT, int(label))).numpy()
        chosen += members[order[:number]].tolist()
    return sorted(chosen)


FILES = np.array([source.File(b"class/%d.jpg" % number, 7) for number in range(len(LABELS))], object)


@pytest.mark.parametrize("fraction", [0.04, 0.3, 0.9])
@pytest.mark.parametrize("files", [None, FILES], ids=["arrays", "files"])
def test_runs_of_version_0_keep_their_split(fraction, files):
    for seed in (0, 5):
        expected = _version_0(LABELS, fraction, seed)
        assert splits.stratified(LABELS, fraction, seed, 1, files)[1].tolist() == expected
    if fraction == 0.3 and files is None:  # rule 2 chooses as before where it need not choose more
        assert splits.stratified(LABELS, fraction, 5, 2)[1].tolist() == expected


@pytest.mark.parametrize("files", [None, FILES], ids=["arrays", "files"])
@pytest.mark.parametrize("rule", [1, 2])
def test_a_split_is_fixed_by_its_seed(rule, files):
    first, again, other = (splits.stratified(LABELS, 0.3, seed, rule, files)[1].tolist() for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize("rule", [1, 2])
def test_a_class_is_split_alike_whatever_other_classes_there_are(rule):
    alone = splits.stratified(np.full(25, 1), 0.3, 0, rule)[1]
    _, together = splits.stratified(LABELS, 0.3, 0, rule)
    np.testing.assert_array_equal(together[LABELS[together] == 1] - 10, alone)


def _held_out(paths, fraction):
    """The paths held out, {class: set}; the class is the first letter."""
    labels = np.array([path[0] for path in paths])
    files = np.array([source.File(path, 1) for path in paths], object)
    _, chosen = splits.stratified(labels, fraction, 3, 2, files)
    return {label: {paths[place] for place in chosen if labels[place] == label} for label in set(labels.tolist())}


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.85])
def test_a_file_more_or_less_moves_at_most_one_other_of_its_class(fraction):
    paths = [b"%c/%d.jpg" % (letter, number) for letter in b"ab" for number in range(12)]
    before = _held_out(paths, fraction)
    moved = set()
    for removed in paths[:12]:
        after = _held_out([path for path in paths if path != removed], fraction)
        assert after[ord("b")] == before[ord("b")]
        moved.add(len((after[ord("a")] ^ before[ord("a")]) - {removed}))
    assert moved == {0, 1}
    assert _held_out(paths[::-1], fraction) == before  # whatever the order they are listed in


def test_the_files_held_out_are_those_of_the_lowest_hashes_of_seed_and_path():
    paths = [b"a/\xff.jpg", "a/\u00e4.jpg".encode(), b"a/1.jpg", b"a/2.jpg"]
    by_hand = sorted(paths, key=lambda path: hashlib.sha256(b"3\n" + path).hexdigest())
    assert [paths[place] for place in holding_out.order_of(paths, 3)] == by_hand
    assert by_hand == ["a/\u00e4.jpg".encode(), b"a/1.jpg", b"a/\xff.jpg", b"a/2.jpg"]  # the same on any machine


class _Reader(types.SimpleNamespace):
    image_shape = (8, 8)

    def __init__(self, indices):
        super().__init__(indices=indices)


def _source(config, train, test=(), rules=None):
    parts = {name: splits.Subset(_Reader, np.arange(len(labels)), np.array(labels))
             for name, labels in (("train", train), ("test", test)) if len(labels)}
    return splits.indexed_source(config, rules or source.Rules(), ["a", "b"], parts)


def test_the_fingerprint_follows_labels_and_split():
    plain = _source(DataConfig(), [0, 1, 1], [0])
    assert plain.fingerprint == _source(DataConfig(), [0, 1, 1], [0]).fingerprint
    assert plain.fingerprint != _source(DataConfig(), [1, 0, 1], [0]).fingerprint
    assert plain.fingerprint != _source(DataConfig(validation_fraction=0.4), [0, 1, 1], [0]).fingerprint


@pytest.mark.parametrize("train, test, fraction, flag", [
    ([0, 0, 0], [0], 0.0, "--dataset"),  # class b has no training image
    ([0, 1], [], 0.0, "--validation_fraction"),  # nothing to evaluate on
    ([0, 1], [0], 0.5, "--validation_fraction"),  # holds out nothing
])
def test_impossible_splits_are_one_line(train, test, fraction, flag):
    with pytest.raises(UserError) as caught:
        _source(DataConfig(validation_fraction=fraction), train, test)
    assert str(caught.value).startswith(flag) and "\n" not in str(caught.value)


def test_a_share_that_holds_out_nothing_is_explained():
    with pytest.raises(UserError, match="found 0.5 of classes of one image$"):
        _source(DataConfig(validation_fraction=0.5), [0, 1])
    with pytest.raises(UserError, match="found 0.1 of classes of at most 4 images$"):
        _source(DataConfig(validation_fraction=0.1), [0, 0, 1, 1, 1, 1], rules=source.Rules(split=1))


def test_the_plan_names_the_classes_that_a_split_lacks():
    assert _source(DataConfig(), [0, 1], [0, 1]).notes == ()
    assert _source(DataConfig(), [0, 1], [1]).notes == ("the test split has no image of 1 of 2 classes: a",)
    old = _source(DataConfig(validation_fraction=0.1), [0] * 2 + [1] * 20, rules=source.Rules(split=1))
    assert old.notes == ("the validation split has no image of 1 of 2 classes: a",)
    noted, _ = splits._lacking("abcdef", old.splits)
    assert noted == "the train split has no image of 4 of 6 classes: c, d, e and 1 more"
