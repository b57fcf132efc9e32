"""Labels of which an image may have several: how they are read, held out and told apart."""

import numpy as np
import pytest

from cct_tf.data import splits
from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.settings.config import DataConfig

NAMES = np.array(["cat", "dog", "owl"])
SOME = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]])


def _config(tmp_path, labels=SOME, medmnist=False, **fields):
    x = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6), np.uint8)
    names = ("train_images", "train_labels", "test_images", "test_labels") if medmnist else (
        "x_train", "y_train", "x_test", "y_test")
    arrays = dict(zip(names, (x, labels, x[:2], labels[:2]), strict=True))
    np.savez(tmp_path / "set.npz", **arrays, class_names=NAMES)
    return DataConfig(dataset="npz", data_dir=str(tmp_path / "set.npz"), task="multilabel", **fields)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float32])
@pytest.mark.parametrize("medmnist", [False, True])
def test_a_matrix_of_0_and_1_is_read(tmp_path, dtype, medmnist):
    source = registry.open_source(_config(tmp_path, SOME.astype(dtype), medmnist))
    train, test = source.splits["train"], source.splits["test"]
    assert (train.labels.dtype, train.labels.tolist(), test.labels.tolist()) == (np.uint8, SOME.tolist(),
                                                                               SOME[:2].tolist())
    assert source.class_names == tuple(NAMES) and [label.tolist() for _, label in train.images([2, 1])] == [
        SOME[2].tolist(), SOME[1].tolist()]
    assert source.notes == ("the test split has no image of 1 of 3 classes: owl",)


def test_one_label_more_is_another_set(tmp_path):
    first = registry.open_source(_config(tmp_path)).fingerprint
    other = SOME.copy()
    other[1, 0] = 1
    assert registry.open_source(_config(tmp_path, other)).fingerprint != first
    assert registry.open_source(_config(tmp_path)).fingerprint == first


def test_other_data_sets_have_one_label_an_image():
    with pytest.raises(UserError, match="--task: expected single with --dataset=digits"):
        registry.open_source(DataConfig(task="multilabel"))


@pytest.mark.parametrize("rule", [1, 2])
def test_of_every_class_a_share_is_held_out_and_the_rest_stays(rule):
    """Sechidis et al.: also of classes of few images, which chance would miss."""
    rng = np.random.default_rng(3)
    labels = (rng.random([1000, 8]) < [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]).astype(np.uint8)
    kept, held_out = splits.stratified(labels, 0.2, 0, rule)
    assert sorted([*kept, *held_out]) == list(range(1000))
    counts, wanted = labels[held_out].sum(axis=0), 0.2 * labels.sum(axis=0)
    assert np.abs(counts - wanted).max() <= max(2, 0.02 * 1000 * 0.2) and (counts[5:] - wanted[5:] <= 1.0).all()
    assert np.abs((~labels[held_out].any(axis=1)).sum() - 0.2 * (~labels.any(axis=1)).sum()) <= 1
    again, other = (splits.stratified(labels, 0.2, seed, rule)[1].tolist() for seed in (0, 1))
    assert again == held_out.tolist() != other


def test_a_class_of_two_images_is_in_both_splits():
    labels = np.zeros([40, 3], np.uint8)
    labels[:, 0], labels[:20, 1], labels[[3, 30], 2] = 1, 1, 1
    for seed in range(5):
        _, held_out = splits.stratified(labels, 0.1, seed, 2)
        assert labels[held_out, 2].sum() == 1 and len(held_out) == 4


def test_what_is_held_out_by_path_does_not_depend_on_the_other_images():
    class File:
        def __init__(self, path):
            self.path = path

    labels = np.tile(np.array([[1, 0], [1, 1]], np.uint8), [100, 1])
    files = np.array([File(b"%d.png" % place) for place in range(200)])
    held_out = {files[place].path for place in splits.stratified(labels, 0.1, 0, 2, files)[1]}
    fewer = {files[1:][place].path for place in splits.stratified(labels[1:], 0.1, 0, 2, files[1:])[1]}
    assert len(held_out ^ fewer) <= 2
