"""Images of a user's own function, and code of a user's own in general."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cct_tf.assembly import own
from cct_tf.data.source import Rules, Source, Split
from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.machine import own_code
from cct_tf.readers.held import Held
from cct_tf.settings import config as config_lib
from cct_tf.settings.config import DataConfig

ARRAYS = """
import numpy as np
def load(data_dir):
    pixels = np.arange(9 * 48, dtype=np.uint8).reshape(9, 4, 4, 3)
    return {"x_train": pixels[:6], "y_train": np.arange(6) % 3, "x_test": pixels[6:], "y_test": [0, 1, 2]}
"""
COLUMNS = """
def load(data_dir):
    return {"path": ["b.png", "a.png", "c.png", "d.png"], "label": ["x", "y", "x", "y"],
            "split": ["train", "train", "test", "test"]}
def rows(data_dir):
    columns = load(data_dir)
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
"""


def _config(path, text, name="load", **fields):
    (path / "mine.py").write_text(text)
    return DataConfig(dataset=f"{path}/mine.py:{name}", **fields)


def _images(folder):
    for number, name in enumerate("abcd"):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / f"{name}.png")


def test_arrays_are_read_as_those_of_an_archive(tmp_path):
    opened = registry.open_source(_config(tmp_path, ARRAYS))
    np.savez(tmp_path / "same.npz", **own_code.load("dataset", f"{tmp_path}/mine.py:load")(None))
    archive = registry.open_source(DataConfig(dataset="npz", data_dir=str(tmp_path / "same.npz")))
    assert opened.fingerprint == archive.fingerprint and opened.class_names == archive.class_names == ("0", "1", "2")
    for name, split in opened.splits.items():
        found, expected = (list(part.images(range(3))) for part in (split, archive.splits[name]))
        for (image, label), (other, other_label) in zip(found, expected, strict=True):
            assert np.array_equal(image, other) and label == other_label


@pytest.mark.parametrize("name", ["load", "rows"])
def test_columns_and_rows_are_read_as_a_table(tmp_path, name):
    _images(tmp_path)
    opened = registry.open_source(_config(tmp_path, COLUMNS, name, data_dir=str(tmp_path)))
    (tmp_path / "table.csv").write_text("path,label,split\nb.png,x,train\na.png,y,train\nc.png,x,test\nd.png,y,test\n")
    table = registry.open_source(DataConfig(dataset="table", data_dir=str(tmp_path / "table.csv")))
    assert opened.fingerprint == table.fingerprint and opened.has_files
    assert [int(image[0, 0, 0]) for image, _ in opened.splits["train"].images([0, 1])] == [0, 1]


def test_a_source_gets_what_it_leaves_out(tmp_path, monkeypatch):
    pixels = np.zeros([4, 4, 4, 3], np.uint8)
    splits = {name: Split(name, Held(pixels, np.arange(4)), 4, np.arange(4, dtype=np.int32) % 2)
              for name in ("train", "test")}
    given = Source("mine", ("a", "b"), splits, None, None, None, (), "indexed", Rules())
    config = _config(tmp_path, "given = None\ndef load(data_dir):\n    return given\n")
    own_code._from_file(str(tmp_path / "mine.py")).given = given
    opened = registry.open_source(config)
    assert opened.fingerprint and not opened.is_part and opened.rules.resampler == "matrix"
    assert opened.name == config.dataset
    for fields in ({"fold": "1/2"}, {"validation_fraction": 0.5}):
        name, = fields
        with pytest.raises(UserError, match=f"^--{name}: expected none with .* a Source with splits of its own"):
            registry.open_source(dataclasses.replace(config, **fields))


def test_weights_of_a_source_are_in_its_fingerprint(tmp_path):
    config = _config(tmp_path, "given = None\ndef load(data_dir):\n    return given\n")

    def opened(weights, rules=None, **fields):
        reader, labels = Held(np.zeros([4, 4, 4, 3], np.uint8), np.arange(4)), np.arange(4, dtype=np.int32) % 2
        splits = {"train": Split("train", reader, 4, labels, weights=weights), "test": Split("test", reader, 4, labels)}
        given = Source("mine", ("a", "b"), splits, None, None, None, (), "indexed", Rules())
        own_code._from_file(str(tmp_path / "mine.py")).given = dataclasses.replace(given, **fields)
        return registry.open_source(config, rules=rules)

    none, old = opened(None), Rules(own_weights=False)
    ones, others = opened(np.ones(4)), opened(np.array([1.0, 1, 1, 2]))
    assert len({found.fingerprint for found in (none, ones, others)}) == 3
    assert opened(np.ones(4), old).fingerprint == opened(None, old).fingerprint == none.fingerprint  # as it was once
    assert not opened(np.ones(4), old).rules.own_weights and ones.rules.own_weights
    assert opened(np.ones(4), fingerprint="mine").fingerprint == "mine"
    for wrong, expected in ((np.ones(3), r"numbers \[4\], found float64 \[3\]"), (np.array([1, 1, 1, -1]), "found -1"),
                            (np.full(4, np.nan), "found nan"), (np.zeros(4), "found none above")):
        with pytest.raises(UserError, match=f"mine.py:load: expected weights of the train split .*{expected}"):
            opened(wrong)


@pytest.mark.parametrize(("text", "expected"), [
    ("def load(d):\n    return [{'image': b'', 'label': 'x', 'weight': 2.0}]\n", "row 1: expected no weight beside"),
    ("def load(d):\n    return 5\n", "returns int"),
    ("def load(d):\n    return {'images': []}\n", "with the keys images"),
    ("def load(d):\n    return {'path': ['a', 'b'], 'label': ['x']}\n", "columns of one length"),
    ("def load(d):\n    return [{'path': 'a.png', 'label': 'x', 'split': 'train'}, {'path': 'b.png'}]\n", "row 2"),
    ("def load(d):\n    return [{'path': 'a.png'}]\n", "expected a column 'label'"),
    ("import numpy as np\ndef load(d):\n    return {'x_train': np.zeros([2, 4, 4]), 'y_train': [0, 1], 'x_test': 1, "
     "'y_test': 1}\n", "x_train: expected uint8, found float64"),
    ("def load():\n    return 5\n", "TypeError"),
])
def test_what_a_function_must_not_return_is_one_line(tmp_path, text, expected):
    with pytest.raises(UserError, match="mine.py:load") as caught:
        registry.open_source(_config(tmp_path, text))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_the_code_shows_its_own_traceback_and_none_of_ours(tmp_path):
    config = _config(tmp_path, "def load(data_dir):\n    return help_me(data_dir)\ndef help_me(x):\n    return 1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero$") as caught:
        registry.open_source(config)
    details = caught.value.details
    assert details.count('File "') == 2 and "line 2, in load" in details and "line 4, in help_me" in details


def test_code_is_a_name_after_a_colon_and_a_version_is_none():
    assert own_code.is_named("./mine.py:load") and own_code.is_named("package.module:load")
    assert not own_code.is_named("mnist:3.0.1") and not own_code.is_named("digits")


def test_a_changed_file_is_named(tmp_path):
    config = config_lib.from_dict({"dataset": _config(tmp_path, ARRAYS).dataset})
    before = type("Before", (), {"own_code": own.checksums(config)})
    assert own.changes(config, before) is None
    (tmp_path / "mine.py").write_text(ARRAYS + "\n")
    assert own.changes(config, before) == config.data.dataset
