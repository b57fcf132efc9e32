"""Folds: scikit-learn's own, a partition of the training images, groups whole, told apart by the fingerprint."""

import types

import numpy as np
import pytest
from sklearn import model_selection

from cct_tf.data import folds, source, splits
from cct_tf.errors import UserError
from cct_tf.settings.config import DataConfig

DRAWS = np.random.default_rng(0)
LABELS = DRAWS.permutation(np.repeat([0, 1, 2], [40, 20, 9]))
GROUPS = np.array([f"g{group}" for group in DRAWS.integers(0, 14, len(LABELS))], object)
SEVERAL = DRAWS.integers(0, 2, [69, 3]).astype(np.uint8)
WAYS = {"StratifiedKFold": (LABELS, None), "StratifiedGroupKFold": (LABELS, GROUPS), "KFold": (SEVERAL, None),
        "GroupKFold": (SEVERAL, GROUPS)}


def _all(labels, groups, count=3, seed=0):
    return [folds.held_out(DataConfig(fold=f"{number}/{count}", split_seed=seed), labels, groups)
            for number in range(1, count + 1)]


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
@pytest.mark.parametrize("name", WAYS)
def test_folds_are_scikit_learns_and_cut_the_set_into_parts(name, seed):
    labels, groups = WAYS[name]
    found = _all(labels, groups, seed=seed)
    state = seed if seed < 2**32 else np.random.RandomState([3, 2**8])
    way = getattr(model_selection, name)(3, shuffle=True, random_state=state)
    for chosen, (_, theirs) in zip(found, way.split(labels, labels, groups), strict=True):
        assert np.flatnonzero(chosen).tolist() == sorted(theirs.tolist())
    assert np.sum(found, axis=0).tolist() == [1] * 69
    if groups is not None:
        assert all(not set(GROUPS[chosen]) & set(GROUPS[~chosen]) for chosen in found)
    if name == "StratifiedKFold":
        assert all(abs(np.bincount(LABELS[chosen]) - np.array([40, 20, 9]) / 3).max() < 1 for chosen in found)


def test_another_seed_is_another_cut():
    assert (_all(LABELS, None)[0] != _all(LABELS, None, seed=1)[0]).any()
    assert (_all(LABELS, GROUPS)[0] != _all(LABELS, GROUPS, seed=1)[0]).any()


@pytest.mark.parametrize(("labels", "groups", "message"), [
    ([0] * 9 + [1] * 2, None, "at least 3 training images of every class for 3 folds, found 2 of 'b'"),
    ([0, 1] * 6, ["x"] * 6 + ["y"] * 6, "at least 3 groups .* found 2"),
    ([0] * 6 + [1] * 3, [*"xyzxyz", *"uuu"], "in two groups or more.* found 'b' in 'u' alone"),
    ([[0, 1], [1, 0]], None, "at least 3 images .* found 2")])
def test_too_few_images_or_groups_are_one_line(labels, groups, message):
    with pytest.raises(UserError, match=f"^--fold: expected .*{message}"):
        folds.check(DataConfig(fold="1/3"), np.array(labels), groups and np.array(groups, object), "ab")


def test_a_class_that_no_images_are_left_of_is_one_line(monkeypatch):
    labels, groups = np.array([0, 0, 0, 1, 1]), np.array([*"xyzxy"], object)
    parts = [(np.array([2]), np.array([0, 1, 3, 4])), (np.arange(5), np.array([], int))]
    monkeypatch.setattr(model_selection.StratifiedGroupKFold, "split", lambda *arguments: iter(parts))
    for fold, words in (("1/2", "none of class 1 to train on in fold 1/2"), ("2/2", "no images in fold 2/2")):
        with pytest.raises(UserError, match=words):
            folds.held_out(DataConfig(fold=fold), labels, groups)


class _Reader(types.SimpleNamespace):
    image_shape = (8, 8)


def _source(config, groups=None):
    files = None if groups is None else np.array([source.File(b"%d.png" % place, 7) for place in range(69)], object)
    files = files if groups is None else _Files(files, groups)
    parts = {"train": splits.Subset(lambda indices: _Reader(), np.arange(69) + 5, LABELS, files),
             "test": splits.Subset(lambda indices: _Reader(), np.arange(5), np.array([0, 1, 2, 0, 1]))}
    return splits.indexed_source(config, source.Rules(), "abc", parts)


class _Files:
    """Files with groups."""

    weights = None

    def __init__(self, files, groups):
        self.files, self.groups = files, groups

    def __iter__(self):
        return iter(self.files)

    def __getitem__(self, chosen):
        return _Files(self.files[chosen], self.groups[chosen])


def test_which_image_is_in_which_fold_is_part_of_the_fingerprint():
    first, again, other = (_source(DataConfig(fold=fold)) for fold in ("1/3", "1/3", "2/3"))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.folds_fingerprint == other.folds_fingerprint == _source(DataConfig(fold="1/4")).folds_fingerprint
    assert first.fingerprint != _source(DataConfig(fold="1/3", split_seed=1)).fingerprint
    assert _source(DataConfig()).folds_fingerprint is None
    assert [split.num_examples for split in first.splits.values()] == [46, 23, 5]


def test_a_validation_split_beside_the_folds_is_refused():
    parts = {name: splits.Subset(lambda indices: _Reader(), np.arange(69), LABELS) for name in ("train", "validation")}
    with pytest.raises(UserError, match="^--fold: expected no validation split beside the folds, found one of"):
        splits.indexed_source(DataConfig(fold="1/3"), source.Rules(), "abc", parts)


def test_a_group_in_two_splits_is_a_note_that_folds_do_not_need():
    assert _source(DataConfig(fold="1/3"), GROUPS).notes == ()
    note, = _source(DataConfig(validation_fraction=0.3), GROUPS).notes
    assert "groups lie in more than one split: g0 (train, validation), g1 (train, validation)" in note
    assert note.endswith("--fold keeps groups of the training images whole")
