"""Tables: each format, the same as a folder, columns, class names, broken and missing images."""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf import tabulate
from cct_tf.assembly import found_broken
from cct_tf.data.source import Rules
from cct_tf.datasets import image_files, registry, tree
from cct_tf.datasets.recorded_files import RecordedFiles
from cct_tf.errors import UserError
from cct_tf.settings.config import DataConfig
from cct_tf.tables import class_names, table_file

LAYOUT = {"train/cat": 6, "train/Zebu": 5, "train/ant": 4, "val/cat": 2, "val/Zebu": 1, "test/ant": 3}


def _write(path, seed=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


def _photos(root, layout=LAYOUT, size=lambda index: (6, 5)):
    for place, (folder, number) in enumerate(layout.items()):
        for index in range(number):
            _write(root / folder / f"{index}.png", 100 * place + index, size(index))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return _photos(tmp_path_factory.mktemp("photos"))


def _tabulated(root):
    """The table that `python -m cct_tf.tabulate` prints: list of dicts."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        tabulate.main({"folder": [str(root)]})
    return list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))


def _save(path, rows):
    """A table of some dicts, in the format of its suffix; one field at least is quoted in CSV."""
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t",
                                    quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    return path


def _config(table, **fields):
    return DataConfig(**{"dataset": "table", "data_dir": str(table)} | fields)


def _open(table, **fields):
    return registry.open_source(_config(table, **fields))


def _refused(table, **fields):
    with pytest.raises(UserError) as refused:
        image_files.scan(_config(table, **fields))
    return str(refused.value)


def _paths(split):
    return [os.fsdecode(file.path) for file in split.files]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_lists_what_its_folder_has_whatever_the_order_of_its_rows(photos, tmp_path, suffix):
    rows = _tabulated(photos)
    assert len(rows) == sum(LAYOUT.values()) and list(rows[0]) == ["path", "label", "split"]
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    table = _save(tmp_path / f"birds{suffix}", shuffled)
    for fields in ({}, {"validation_fraction": 0.3}, {"test_split": "val"}):
        folder = tree.scan(DataConfig(dataset="folder", data_dir=str(photos), **fields))
        found = image_files.scan(_config(table, image_root=str(photos), **fields))
        assert (found.class_names, found.root) == (("Zebu", "ant", "cat"), str(photos))
        assert list(found.files) == list(folder.files)
        for split, files in folder.files.items():
            assert found.files[split].paths.tolist() == files.paths.tolist()
            assert found.files[split].sizes.tolist() == files.sizes.tolist()
            assert found.files[split].times.tolist() == files.times.tolist()
            assert found.labels[split].tolist() == folder.labels[split].tolist()
            first = 1 if suffix in (".jsonl", ".parquet") else 2  # an empty line is counted too
            step = 2 if suffix == ".jsonl" else 1
            assert [os.fsdecode(found.files[split].paths[place]) for place in range(len(files))] == [
                shuffled[(number - first) // step]["path"] for number in found.files[split].numbers]


@pytest.mark.parametrize(("layout", "fields"), [
    (LAYOUT, {}), (LAYOUT, {"validation_fraction": 0.4, "split_seed": 3}),
    ({"b": 7, "a": 5, "10": 4}, {"validation_fraction": 0.3}), ({"train/a": 2, "train/b": 3, "valid/b": 1}, {})])
def test_an_opened_table_has_the_fingerprint_of_its_folder(tmp_path, layout, fields):
    photos = _photos(tmp_path / "photos", layout)
    table = _save(photos / "table.csv", _tabulated(photos))
    found, folder = _open(table, **fields), registry.open_source(
        DataConfig(dataset="folder", data_dir=str(photos), **fields))
    assert (found.fingerprint, found.evaluated_fingerprint) == (folder.fingerprint, folder.evaluated_fingerprint)
    assert found.rules == folder.rules and found.evaluated_split == folder.evaluated_split
    for name, split in folder.splits.items():
        assert _paths(found.splits[name]) == _paths(split)
        for (a, x), (b, y) in zip(found.splits[name].images(range(split.num_examples)),
                                  split.images(range(split.num_examples)), strict=True):
            assert x == y and (a == b).all()
        part = registry.open_source(_config(table, **fields), rules=found.rules,
                                    part=tree.Part((name,), found.class_names, True))
        assert part.is_part and part.split_fingerprint(name) == folder.split_fingerprint(name)


def test_renamed_columns_weights_and_groups_follow_their_images(photos, tmp_path):
    rows = [{"file": row["path"], "diagnosis": row["label"], "fold": row["split"], "weight": f"{place / 2}",
             "patient": f"p{place % 3}"} for place, row in enumerate(_tabulated(photos))]
    said = {row["file"]: (float(row["weight"]), row["patient"]) for row in rows}
    table = _save(tmp_path / "a.csv", rows[::-1])
    columns = "path:file,label:diagnosis,split:fold,group:patient"
    for fields in ({}, {"in_memory_gib": 0.0, "validation_fraction": 0.5}):
        opened = _open(table, image_root=str(photos), columns=columns, **fields)
        for split in opened.splits.values():
            some = split.select(np.arange(split.num_examples)[::2])
            for each in (split, some):
                assert list(zip(each.weights.tolist(), each.groups, strict=True)) == [said[p] for p in _paths(each)]
    unread = _open(table, image_root=str(photos), columns=columns.replace("patient", "") + ",weight:")
    assert unread.splits["train"].weights is None and unread.splits["train"].groups is None
    config = _config(table, image_root=str(photos), columns=columns)
    old = registry.open_source(config, rules=Rules(table_weights=False))  # of a run that began before they counted
    assert old.splits["train"].weights is None
    assert old.fingerprint == unread.fingerprint != registry.open_source(config).fingerprint


def test_what_a_table_says_of_a_file_holds_when_the_record_brings_others_back(photos, tmp_path):
    rows = [row | {"weight": 2.0} for row in _tabulated(photos)]
    listing = image_files.scan(_config(_save(tmp_path / "a.jsonl", rows), image_root=str(photos)))
    broken = [{"split": "train", "path": path, "size": 7, "label": 0, "reason": ""}
              for path in ("train/Zebu/0.png", "train/Zebu/gone.png")]
    files = RecordedFiles((), tuple(broken)).restored(listing, DataConfig()).files["train"]
    found = {os.fsdecode(path): place for place, path in enumerate(files.paths.tolist())}
    old, gone = (found[row["path"]] for row in broken)
    assert (files.sizes[old], files.weights[old], files.sizes[gone], files.weights[gone]) == (7, 2.0, 7, 1.0)
    assert (files.numbers[old] > 0, files.numbers[gone], len(files)) == (True, 0, 16)


NAMES = {"a.txt": ("cat\nZebu\n\n", {"cat": "cat", "Zebu": "Zebu"}),
         "synsets.txt": ("n01440764 tench, Tinca\nn01443537\tgoldfish\n",
                         {"n01440764": "tench, Tinca", "n01443537": "goldfish"}),
         "list.json": ('["cat", "Zebu"]', {"cat": "cat", "Zebu": "Zebu"}),
         "object.json": ('{"n2": "crane", "n1": "crane", "n3": "tench"}',
                         {"n2": "crane (n2)", "n1": "crane (n1)", "n3": "tench"})}


@pytest.mark.parametrize("name", NAMES)
def test_files_of_class_names(tmp_path, name):
    text, expected = NAMES[name]
    (tmp_path / name).write_text(text)
    assert list(class_names.read(str(tmp_path / name)).items()) == list(expected.items())


def test_labels_are_names_or_numbers_of_the_file_of_class_names(photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\nant\nbee\nZebu\n")
    rows = _tabulated(photos)
    by_name = _save(tmp_path / "a.csv", rows)
    numbers = {"cat": 0, "ant": 1, "Zebu": 3}
    by_number = _save(tmp_path / "b.jsonl", [row | {"label": numbers[row["label"]]} for row in rows])
    first, second = (_open(table, image_root=str(photos), class_names=str(names)) for table in (by_name, by_number))
    assert first.class_names == ("cat", "ant", "bee", "Zebu") and first.fingerprint == second.fingerprint
    assert "the train split has no image of 1 of 4 classes: bee" in first.notes
    for found in (first, second):
        assert [found.class_names[label] for label in found.splits["train"].labels] == [
            path.split("/")[1] for path in _paths(found.splits["train"])]


def test_numbers_without_names_are_sorted_as_text_and_the_plan_says_so(tmp_path):
    root = _photos(tmp_path, {str(number): 2 for number in range(11)})
    opened = _open(_save(root / "a.csv", _tabulated(root)), validation_fraction=0.5)
    assert opened.class_names[:3] == ("0", "1", "10")
    assert any("'1' comes second" in note or "sorted as text" in note for note in opened.notes)


def test_labels_that_look_like_several_are_noted(tmp_path):
    root = _photos(tmp_path, {"cat": 2, "cat;dog": 2})
    note = "the label 'cat;dog' is a class of its own; with --task=multilabel it is several"
    table = _save(root / "a.csv", _tabulated(root))
    assert note in _open(table, validation_fraction=0.5).notes
    assert note not in _open(table, validation_fraction=0.5, task="multilabel").notes


def test_an_image_counts_once_and_rows_of_other_splits_are_left_out(photos, tmp_path):
    rows = _tabulated(photos)
    table = _save(tmp_path / "a.csv", [*rows, rows[0] | {"path": f"./{rows[0]['path']}"}, rows[1] | {
        "path": "none.png", "split": "later"}])
    opened = _open(table, image_root=str(photos))
    assert opened.splits["train"].num_examples == 15
    assert opened.notes[:2] == ("left out: 1 row that repeats another", "left out: 1 row of the split later")
    contradicting = _save(tmp_path / "b.csv", [*rows, rows[0] | {"split": "test"}])
    assert _refused(contradicting, image_root=str(photos)) == (
        f"{contradicting}: row 23: expected one split for each image, found 'test' for {rows[0]['path']}, and 'train' "
        "in row 2")


def test_absolute_paths_are_taken_as_they_are_wherever_the_table_lies(photos, tmp_path):
    rows = [row | {"path": str(photos / row["path"])} for row in _tabulated(photos)]
    (tmp_path / "deeper").mkdir()
    found = [image_files.scan(_config(_save(folder / "a.csv", rows))) for folder in (tmp_path, tmp_path / "deeper")]
    assert found[0].root == found[1].root == "/"
    for listing in found:
        assert [f"/{os.fsdecode(path)}" for path in listing.files["test"].paths] == [
            row["path"] for row in rows if row["split"] == "test"]
    below = image_files.scan(_config(tmp_path / "a.csv", image_root=str(photos)))
    assert below.root == str(photos) and os.fsdecode(below.files["test"].paths[0]) == "test/ant/0.png"


def test_quoted_fields_hold_commas_and_ends_of_lines(tmp_path):
    names = ["a, b.png", 'quote".png', "two\nlines.png", "ä.png"]
    for place, name in enumerate(names):
        _write(tmp_path / "ab"[place % 2] / name, place)
    rows = _tabulated(tmp_path)
    found = image_files.scan(_config(_save(tmp_path / "a.csv", rows), validation_fraction=0.5))
    assert sorted(os.fsdecode(path) for path in found.files["train"].paths) == sorted(
        f"{'ab'[place % 2]}/{name}" for place, name in enumerate(names))
    assert sorted(found.files["train"].numbers) == [2, 3, 4, 5]


def _spoilt(tmp_path, photos, size=lambda index: (6, 5)):
    """(table, its rows) of a copy of the photos with a file that ends within its pixels, in row 4."""
    root = _photos(tmp_path / "photos", size=size)
    rows = _tabulated(root)
    path = root / rows[2]["path"]
    path.write_bytes(path.read_bytes()[:-40])
    return _save(root / "a.csv", rows), rows


@pytest.mark.parametrize("kind", ["decoded", "bytes", "disk"])
def test_the_line_of_a_broken_image_names_its_file_and_its_row(tmp_path, photos, kind):
    size, fields = {"decoded": (lambda index: (6, 5), {}), "bytes": (lambda index: (6 + index, 5), {"decode": "fast"}),
                    "disk": (lambda index: (6, 5), {"in_memory_gib": 0.0})}[kind]
    table, rows = _spoilt(tmp_path, photos, size)
    path = f"{table.parent}/{rows[2]['path']}"
    with pytest.raises(UserError) as refused:  # on disk it is found when it is used
        opened = _open(table, **fields)
        list(opened.splits["train"].images(range(opened.splits["train"].num_examples)))
    assert str(refused.value).startswith(f"broken image: {path}") and f"(row 4 of {table})" in str(refused.value)
    opened = _open(table, on_bad_image="skip", **fields)
    (name, reason), = opened.broken
    assert name == path and reason.endswith(f"(row 4 of {table})") and opened.splits["train"].num_examples == 14
    assert opened.left_out[0]["path"] == rows[2]["path"]


def test_an_image_that_breaks_while_a_run_uses_it_is_listed_with_its_row(tmp_path, photos):
    root = pathlib.Path(shutil.copytree(photos, tmp_path / "photos"))
    rows = _tabulated(root)
    table = _save(root / "a.csv", rows)
    source = found_broken.bearing(_open(table, on_bad_image="skip", in_memory_gib=0.0))
    path, gone = (root / rows[place]["path"] for place in (2, 3))
    path.write_bytes(path.read_bytes()[:-40])
    gone.unlink()
    reader = source.splits["train"].reader
    list(tf.data.Dataset.range(15).map(lambda place: reader.load({"index": place})[0]))
    listed = {row["path"]: row["reason"] for row in found_broken.rows(source)}
    assert list(listed) == [rows[2]["path"], rows[3]["path"]]
    for number, reason in zip((4, 5), listed.values(), strict=True):
        assert reason.endswith(f"(row {number} of {table})") and "broken image" not in reason


def test_a_missing_image_ends_the_run_or_is_left_out(tmp_path, photos):
    root = pathlib.Path(shutil.copytree(photos, tmp_path / "photos"))
    table = _save(root / "a.csv", _tabulated(root))
    (root / "train/ant/1.png").unlink()
    (root / "train/ant/1.png").mkdir()
    (root / "test/ant/0.png").unlink()
    message = _refused(table)
    assert message.startswith(f"{table}: row 8: expected an image, found {root}/train/ant/1.png (a folder)")
    opened = _open(table, on_bad_image="skip")
    assert {name: split.num_examples for name, split in opened.splits.items()} == {
        "train": 14, "validation": 3, "test": 2}
    assert [name.removeprefix(f"{root}/") for name, _ in opened.broken] == ["train/ant/1.png", "test/ant/0.png"]


def test_a_table_of_another_encoding_says_where_it_ends_to_be_utf_8(tmp_path):
    for encoding, found in (("latin-1", "the byte 0xe9 in line 3"), ("utf-16", "UTF-16")):
        (tmp_path / "a.csv").write_text("path,label\na.png,cat\nb.png,zébu\n", encoding=encoding)
        assert _refused(tmp_path / "a.csv").startswith(f"{tmp_path}/a.csv: expected text in UTF-8, found {found}")


def test_values_of_other_types_are_refused_with_their_row(tmp_path):
    good = {"path": "a.png", "label": 1, "split": "train", "weight": 1, "group": "x"}
    for wrong in ({"label": 1.5}, {"label": True}, {"label": None}, {"path": 3}, {"path": "a\0b"}, {"weight": "heavy"},
                  {"weight": float("nan")}, {"weight": float("inf")}, {"weight": None}, {"split": 1}, {"group": []},
                  {"path": "\ud800.png"}):
        table = _save(tmp_path / "a.jsonl", [good, good | wrong])
        assert _refused(table).startswith(f"{table}: row 3: expected "), wrong


def test_pyarrow_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        next(table_file.rows(str(tmp_path / "a.parquet"), table_file.column_names(None)))
