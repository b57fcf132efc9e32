"""npz archives: shapes that are read, and one line naming file and key for those that are not."""

import numpy as np
import pytest

from cct_tf.data import source
from cct_tf.datasets import npz, registry
from cct_tf.errors import UserError
from cct_tf.runs.resolved import Resolved
from cct_tf.settings.config import DataConfig


def _arrays(shape=(6, 5), **changes):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (8, *shape), np.uint8), "y_train": np.arange(8) % 3,
              "x_test": rng.integers(0, 256, (3, *shape), np.uint8), "y_test": np.array([0, 1, 2])}
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def _config(tmp_path, arrays, **fields):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return DataConfig(dataset="npz", data_dir=str(path), **fields)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
@pytest.mark.parametrize("column", [False, True])
def test_images_become_three_channels_and_labels_a_vector(tmp_path, shape, column):
    arrays = _arrays(shape)
    if column:
        arrays |= {key: arrays[key][:, None] for key in ("y_train", "y_test")}
    opened = registry.open_source(_config(tmp_path, arrays))
    for split in ("train", "test"):
        images = arrays[f"x_{split}"].reshape(-1, 6, 5, shape[2] if len(shape) == 3 else 1)
        reader = opened.splits[split].reader
        expected = np.broadcast_to(images, (*images.shape[:3], 3))
        np.testing.assert_array_equal(reader.tensor.numpy()[reader.indices], expected)
        np.testing.assert_array_equal(opened.splits[split].labels, arrays[f"y_{split}"].ravel())
    assert opened.class_names == ("0", "1", "2")


def test_class_names_are_kept(tmp_path):
    config = _config(tmp_path, _arrays(class_names=np.array(["ape", "bee", "cow"])))
    assert registry.open_source(config).class_names == ("ape", "bee", "cow")


def test_splits_of_other_bits_than_the_others_are_noted(tmp_path):
    wide = {"x_train": _arrays()["x_train"].astype(np.uint16) * 200}
    for arrays, bits, noted in ((wide, 16, True), ({}, 16, False), ({}, 8, False)):
        opened = registry.open_source(_config(tmp_path, _arrays(**arrays), bits=bits, channels=1))
        note = "x_test: 8 bits, other images 16; a level l of 8 bits becomes 257 l"
        assert (note in opened.notes) == noted, (opened.notes, bits)


def _val(**changes):
    return _arrays(**({"x_val": np.full((2, 6, 5), 7, np.uint8), "y_val": np.array([2, 0])} | changes))


def _medmnist():
    names = {"x_train": "train_images", "y_train": "train_labels", "x_val": "val_images", "y_val": "val_labels",
             "x_test": "test_images", "y_test": "test_labels"}
    return {names[key]: value[:, None] if key[0] == "y" else value for key, value in _val().items()}


@pytest.mark.parametrize("arrays", [_val(), _medmnist()], ids=["ours", "MedMNIST's"])
def test_validation_arrays_are_the_validation_split(tmp_path, arrays):
    opened = registry.open_source(_config(tmp_path, arrays))
    assert {name: split.labels.tolist() for name, split in opened.splits.items()} == {
        "train": [0, 1, 2, 0, 1, 2, 0, 1], "validation": [2, 0], "test": [0, 1, 2]}
    reader = opened.splits["validation"].reader
    assert (reader.tensor.numpy()[reader.indices] == 7).all()


def test_validation_arrays_give_way_to_a_share_of_the_training_images(tmp_path):
    opened = registry.open_source(_config(tmp_path, _val(), validation_fraction=0.5))
    assert opened.splits["validation"].num_examples + opened.splits["train"].num_examples == 8
    assert opened.notes == ("x_val is not used: --validation_fraction holds out training images instead",)


def test_folds_beside_validation_arrays_are_refused(tmp_path):
    with pytest.raises(UserError, match="^--fold: expected no validation split beside the folds, found x_val in "):
        registry.open_source(_config(tmp_path, _val(), fold="1/2"))


def test_runs_begun_without_validation_arrays_go_on_without(tmp_path):
    plain = registry.open_source(_config(tmp_path, _arrays())).fingerprint
    rules = source.rules_of(Resolved(8, (), {}, fingerprint=plain))
    opened = registry.open_source(_config(tmp_path, _val()), rules=rules)
    assert opened.fingerprint == plain and set(opened.splits) == {"train", "test"}


BAD = {
    "missing key": ({"y_test": None, "y_tests": np.zeros(3, int)}, "no y_test; did you mean 'y_tests'"),
    "floats": ({"x_train": np.zeros((8, 6, 5), np.float32)}, "x_train: expected uint8, found float32"),
    "two dimensions": ({"x_test": np.zeros((3, 30), np.uint8)}, "x_test: expected the shape"),
    "four channels": ({"x_train": np.zeros((8, 6, 5, 4), np.uint8)}, "x_train: expected the shape"),
    "another size": ({"x_test": np.zeros((3, 6, 6), np.uint8)}, "x_test: expected images of 6x5"),
    "too few labels": ({"y_train": np.zeros(7, int)}, "y_train: expected the shape [8]"),
    "one-hot": ({"y_test": np.eye(3, dtype=int)}, "y_test: expected the shape [3] or [3, 1], as many as images, "
                "found [3, 3] (of one-hot labels give the argmax)"),
    "several labels": ({"y_train": np.ones((8, 3), int)}, "(several labels an image, as in ChestMNIST,"),
    "half a validation split": ({"x_val": np.zeros((2, 6, 5), np.uint8)}, "found no y_val"),
    "validation images of another size": ({"x_val": np.zeros((2, 6, 6), np.uint8), "y_val": np.zeros(2, int)},
                                          "x_val: expected images of 6x5 as in x_train, found 6x6"),
    "validation class unknown": ({"x_val": np.zeros((2, 6, 5), np.uint8), "y_val": np.array([0, 3])},
                                 "y_val: expected the classes of y_train, found 3"),
    "float labels": ({"y_test": np.zeros(3)}, "y_test: expected integers"),
    "negative": ({"y_train": np.arange(8) - 1}, "y_train: expected labels from 0"),
    "unknown to training": ({"y_test": np.array([0, 1, 3])}, "y_test: expected the classes of y_train, found 3"),
    "a gap": ({"y_train": np.array([0, 1, 3, 3, 3, 3, 3, 3])}, "y_train: expected an image of every class"),
    "names": ({"class_names": np.array(["a", "b"])}, "class_names: expected 3 strings"),
    "objects": ({"y_train": np.array([{}] * 8, object)}, "pickled"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_archive_is_one_line_naming_file_and_key(tmp_path, kind):
    changes, expected = BAD[kind]
    config = _config(tmp_path, _arrays(**changes))
    with pytest.raises(UserError) as caught:
        npz.check(config)
    message = str(caught.value)
    assert message.startswith(config.data_dir) and expected in message and "\n" not in message


def test_files_that_are_no_archives_are_named(tmp_path):
    whole = _config(tmp_path, _arrays())
    contents = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(contents[:len(contents) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("half.npz", "text.npz", "one.npy", "none.npz", "."):
        with pytest.raises(UserError, match=r"^[^\n]*expected[^\n]*found[^\n]*$"):
            npz.check(DataConfig(dataset="npz", data_dir=str(tmp_path / name)))
    with pytest.raises(UserError, match="--data_dir"):
        npz.check(DataConfig(dataset="npz"))
    npz.check(whole)


def test_an_archive_above_in_memory_gib_is_refused(tmp_path):
    with pytest.raises(UserError, match="^--in_memory_gib: expected at least"):
        npz.check(_config(tmp_path, _arrays(), in_memory_gib=0.0))
