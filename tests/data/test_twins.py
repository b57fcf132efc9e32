"""The same bytes in two splits are found whatever their names; files of one size that only begin alike are not."""

import types

import numpy as np

from cct_tf.data import twins
from cct_tf.datasets import files as files_lib

LONG = bytes(range(256)) * 40  # more than is looked at first


def _splits(root, layout):
    """Splits with files of `{split: {path: bytes}}`."""
    found = []
    for name, contents in layout.items():
        for path, data in contents.items():
            (root / path).write_bytes(data)
        paths, sizes = [path.encode() for path in contents], [len(data) for data in contents.values()]
        files = files_lib.Files(files_lib.bytes_array(paths), np.array(sizes), np.zeros(len(paths), np.int64))
        found.append(types.SimpleNamespace(name=name, files=files))
    return found


def test_files_of_the_same_bytes_in_two_splits_are_named(tmp_path):
    splits = _splits(tmp_path, {
        "train": {"a.png": LONG, "b.png": LONG + b"1", "c.png": b"one", "again.png": LONG, "own.png": b"twin"},
        "validation": {"d.png": LONG + b"2", "e.png": b"two"}, "test": {"f.png": LONG, "g.png": b"one", "h.png": b"x"}})
    note, = twins.notes(str(tmp_path), splits)
    assert note.startswith("2 images lie in more than one split, byte for byte: ")
    assert "a.png (train) = f.png (test)" in note and "c.png (train) = g.png (test)" in note
    assert twins.notes(str(tmp_path), splits[:2]) == ()  # all of them are read, not only how they begin


def test_a_file_that_is_gone_is_none(tmp_path):
    splits = _splits(tmp_path, {"train": {"a.png": b"one"}, "test": {"b.png": b"one"}})
    assert twins.notes(str(tmp_path), splits) == (
        "1 image lies in more than one split, byte for byte: a.png (train) = b.png (test)",)
    (tmp_path / "b.png").unlink()
    assert twins.notes(str(tmp_path), splits) == ()


def test_too_many_files_to_look_at_are_left(tmp_path, monkeypatch):
    splits = _splits(tmp_path, {"train": {"a.png": b"one"}, "test": {"b.png": b"one"}})
    monkeypatch.setattr(twins, "_MOST", 1)
    assert twins.notes(str(tmp_path), splits) == ()
