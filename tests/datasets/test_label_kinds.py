"""Labels of which an image may have several: how they are read, held out and told apart."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cct_tf.assembly import found_broken
from cct_tf.data import splits
from cct_tf.datasets import registry
from cct_tf.datasets.recorded_files import RecordedFiles
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
    assert np.abs(labels[held_out].sum(axis=0) - 0.2 * labels.sum(axis=0)).max() < 1
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


ROWS = [("b.png", "dog;cat", "train"), ("a.png", "owl", "train"), ("c.png", "", "train"),
        ("d.png", "dog ; owl;dog", "test")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, (path, *_) in enumerate(ROWS):
        Image.fromarray(np.full([6, 5, 3], 40 * number, np.uint8)).save(folder / path)
    return folder


def _table(images, path, rows):
    """DataConfig of a table of some dicts; its suffix is its format."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return DataConfig(dataset="table", data_dir=str(path), image_root=str(images), task="multilabel")


def _rows(kind):
    """ROWS with labels as text, as a list, or as 0 and 1 of each class."""
    for path, text, split in ROWS:
        names = [name.strip() for name in text.split(";") if name]
        label = {"text": {"label": text}, "list": {"label": names},
                 "columns": {f"is {name}": int(name in names) for name in ("owl", "cat", "dog")} | {"age": 7}}[kind]
        yield {"path": path, "split": split} | label


@pytest.mark.parametrize(("kind", "suffix"), [("text", ".csv"), ("text", ".jsonl"), ("list", ".jsonl"),
                                              ("list", ".parquet")])
def test_labels_of_a_table_as_text_and_as_lists(images, tmp_path, kind, suffix):
    source = registry.open_source(_table(images, tmp_path / f"x{suffix}", list(_rows(kind))))
    assert source.class_names == ("cat", "dog", "owl")
    assert [split.labels.tolist() for split in source.splits.values()] == [[[0, 0, 1], [1, 1, 0], [0, 0, 0]],
                                                                           [[0, 1, 1]]]
    assert [file.path for file in source.splits["train"].files] == [b"a.png", b"b.png", b"c.png"]
    other = registry.open_source(_table(images, tmp_path / "x.csv", list(_rows("text"))))
    assert other.fingerprint == source.fingerprint


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_labels_of_a_table_in_a_column_of_each_class(images, tmp_path, suffix):
    config = _table(images, tmp_path / f"x{suffix}", list(_rows("columns")))
    source = registry.open_source(dataclasses.replace(config, columns="labels:is *"))
    assert source.class_names == ("is cat", "is dog", "is owl")
    assert source.splits["train"].labels.tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    (tmp_path / "names.txt").write_text("is dog\nis cat\n")
    chosen = registry.open_source(dataclasses.replace(config, columns="labels:*",
                                                      class_names=str(tmp_path / "names.txt")))
    assert chosen.class_names == ("is dog", "is cat") and chosen.splits["test"].labels.tolist() == [[1, 0]]


def _read_error(config, **fields):
    with pytest.raises(UserError) as error:
        registry.open_source(dataclasses.replace(config, **fields))
    return str(error.value)


def test_wrong_labels_of_a_table_name_the_row(images, tmp_path):
    text, columns = list(_rows("text")), list(_rows("columns"))
    config = _table(images, tmp_path / "x.csv", text[:3] + [text[3] | {"label": "dog;ape"}])
    assert "x.csv: row 5: expected a class of the training rows, found 'ape'" in _read_error(config)
    config = _table(images, tmp_path / "y.csv", columns[:1] + [columns[1] | {"is cat": "yes"}])
    found = _read_error(config, columns="labels:is*")
    assert "y.csv: row 3: expected 0 or 1 in the column 'is cat', found 'yes'" in found
    assert "columns of classes called 'has*'" in _read_error(config, columns="labels:has*")
    assert "--columns: expected label or labels, found both" in _read_error(config, columns="labels:is*,label:age")
    assert "--columns: expected label: with --task=single" in _read_error(config, columns="labels:is*", task="single")
    config = _table(images, tmp_path / "z.jsonl", [{"path": "a.png", "split": "train", "label": ["cat", None]}])
    assert "z.jsonl: row 1: expected labels, text such as cat;dog or a list, found ['cat', None]" in _read_error(config)
    config = _table(images, tmp_path / "w.csv", text[:2] + [text[0] | {"label": "cat"}])
    assert "w.csv: row 4: expected one label for each image" in _read_error(config)


def test_a_broken_image_of_several_labels_stays_left_out(images, tmp_path):
    for path in images.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "c.png").write_bytes(b"")
    config = dataclasses.replace(_table(tmp_path, tmp_path / "x.csv", list(_rows("text"))), on_bad_image="skip",
                                 in_memory_gib=0.0)
    source = registry.open_source(config)
    row, = source.left_out
    assert (row["path"], row["label"]) == ("c.png", [0, 0, 0]) and json.dumps(row)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    again = registry.open_source(config, recorded=RecordedFiles(source.left_out, ()))
    assert again.fingerprint == source.fingerprint and again.splits["train"].num_examples == 2
    bearing = found_broken.bearing(source)
    bearing.splits["test"].reader.broken.add(0, found_broken.Finding("gone", None))
    assert [found["label"] for found in found_broken.rows(bearing)] == [[0, 1, 1]]
