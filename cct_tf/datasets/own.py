"""`--dataset=./mine.py:load`: images that a function of a user's own gives. It is called with --data_dir and returns

    a dict of arrays     x_train, y_train, x_test, y_test ..., as an .npz archive has them, see `npz`
    a dict of columns    path, label and, where there are such, split, weight, group: lists, as a table has them
    a list of rows       or an iterator: dicts of the same. With image, bytes of an encoded image, instead of path
    a `source.Source`    whatever else can be read; it gets a fingerprint of its splits if it has none
"""

import collections.abc
import dataclasses
import os

import numpy as np

from cct_tf.datasets import image_files, npz, table, tree
from cct_tf.errors import UserError
from cct_tf.images import pixel_type
from cct_tf.machine import files, own_code

_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(tree.VALIDATION_NAMES, "validation")
_EXPECTED = ("expected a dict of arrays (x_train, y_train, ...), columns (path, label, ...) or rows of images, or a "
             "Source")


def open_own(config, rules, stream, part, cache, recorded):
    """Call the function, and open what it gives. Arguments and errors: as `folder.open_folder`.

    Returns:
        source.Source.
    """
    from cct_tf.data import source as source_lib

    function = own_code.load("dataset", config.dataset)
    with own_code.errors_shown("dataset", config.dataset):
        found = function(config.data_dir)
    named = dataclasses.replace(config, data_dir=config.dataset)  # in messages
    if isinstance(found, source_lib.Source):
        return _finished(found, config, rules)
    if isinstance(found, collections.abc.Mapping) and set(found) & {"x_train", "train_images"}:
        return npz.open_npz(named, rules, found)
    rows = _rows(config, found)
    if rows and "image" in rows[0]:
        return _encoded(named, rules, rows, stream)
    from cct_tf.datasets import folder

    named = dataclasses.replace(named, image_root=config.image_root or _root(config.data_dir, rows))
    image_files.keep(named, table.scan(named, part, stream, rows), part)
    return folder.open_folder(named, rules, stream, part, cache, recorded)


def _rows(config, found):
    """List of dicts, one an image."""
    if isinstance(found, collections.abc.Mapping) and set(found) & {"path", "image"}:
        columns = {name: list(column) for name, column in found.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"{config.dataset}: expected columns of one length, found {lengths}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(found, collections.abc.Iterator):
        with own_code.errors_shown("dataset", config.dataset):
            found = list(found)
    if isinstance(found, (list, tuple)) and all(isinstance(row, collections.abc.Mapping) for row in found):
        return [dict(row) for row in found]
    raise UserError(f"--dataset: {_EXPECTED}, found that {config.dataset} returns {type(found).__name__}"
                    + (f" with the keys {', '.join(map(str, list(found)[:6]))}"
                       if isinstance(found, collections.abc.Mapping) else ""))


def _root(data_dir, rows):
    """The folder that paths are relative to. A remote --data_dir may be anything where none is."""
    if not data_dir or not files.is_remote(data_dir):
        return data_dir or os.curdir
    paths = [str(row.get("path")) for row in rows]
    if all(files.is_remote(path) or os.path.isabs(path) for path in paths):
        return os.curdir
    files.check("--data_dir", data_dir)
    return data_dir


def _encoded(config, rules, rows, stream):
    """Source of rows that hold encoded images."""
    from cct_tf.datasets import encoded_images

    if config.task != "single":
        raise UserError(f"--task: expected single for the encoded images of {config.dataset}, found {config.task!r}")
    members = {}
    for number, row in enumerate(rows):
        members.setdefault(_split_of(config, number + 1, row), []).append(number)
    if "train" not in members:
        raise UserError(f"{config.dataset}: expected rows of the split train, found none")
    notes = ()
    if config.validation_fraction and members.pop("validation", None):
        notes = ("the validation rows are not used: --validation_fraction holds out training images instead",)
    found = [row["label"] for row in rows]
    classes = sorted(set(found), key=None if all(isinstance(label, int) for label in found) else str)
    labels = np.array([classes.index(label) for label in found], np.int64)
    names = [f"row {number} of {config.dataset}" for number in range(1, len(rows) + 1)]
    return encoded_images.open_encoded(config, rules, [str(name) for name in classes], [row["image"] for row in rows],
                                       labels, names, {split: np.array(of) for split, of in members.items()}, stream,
                                       notes=notes)


def _split_of(config, number, row):
    """The split of a row, a dict whose values are judged; NumPy's become Python's."""
    for column, kinds, expected in (("image", bytes, "the bytes of an image"),
                                    ("label", (str, int), "a label, text or a whole number")):
        value = row.get(column)
        row[column] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(row[column], kinds):
            raise UserError(f"{config.dataset}: row {number}: expected {expected}, found {type(value).__name__}")
    for column in ("weight", "group"):
        if row.get(column) is not None:
            raise UserError(f"{config.dataset}: row {number}: expected no {column} beside the bytes of an image (a row "
                            "with path may have one, and so may the splits of a Source)")
    if row.get("split", "train") not in _SPLITS:
        raise UserError(f"{config.dataset}: row {number}: expected the split train, validation or test, found "
                        f"{row['split']!r}")
    return _SPLITS[row.get("split", "train")]


def _finished(found, config, rules):
    """A user's Source with what it may leave out."""
    from cct_tf.data import source as source_lib
    from cct_tf.data import splits as splits_lib

    if "train" not in found.splits or not set(found.splits) & {"validation", "test"}:
        raise UserError(f"{config.dataset}: expected a Source with the splits train and validation or test, found "
                        f"{', '.join(found.splits) or 'none'}")
    if config.holds_out:
        flag = "fold" if config.fold else "validation_fraction"
        raise UserError(f"--{flag}: expected none with --dataset={config.dataset}, which gives a Source with splits of "
                        f"its own, found {getattr(config, flag)}")
    wanted = pixel_type.of_config(config)
    for name, split in found.splits.items():
        if split.reader.pixel_type != wanted:
            raise UserError(f"{config.dataset}: expected images{wanted.describe() or ' in colours of 8 bits'} in the "
                            f"{name} split, as --channels={wanted.channels} and --bits={wanted.bits} say, found "
                            f"{split.reader.pixel_type.channels} channels of {split.reader.pixel_type.bits} bits")
        _check_weights(config.dataset, split)
    rules = dataclasses.replace(found.rules or rules, own_weights=rules.own_weights)
    weights = splits_lib.weights_line(found.splits["train"]) if rules.own_weights else ()
    fingerprint = found.fingerprint or source_lib.fingerprint(found.class_names, list(found.splits.values()), weights)
    rules = rules.settled(found.splits["train"].reader.image_shape)
    return dataclasses.replace(found, name=config.dataset, fingerprint=fingerprint, rules=rules)


def _check_weights(dataset, split):
    """Raise UserError where the weights of a split's examples are none."""
    if split.weights is None:
        return
    weights = np.asarray(split.weights)
    if weights.shape != (split.num_examples,) or weights.dtype.kind not in "iuf":
        raise UserError(f"{dataset}: expected weights of the {split.name} split as numbers [{split.num_examples}], "
                        f"found {weights.dtype} {list(weights.shape)}")
    wrong = weights[~((weights >= 0) & np.isfinite(weights))]
    if len(wrong) or not weights.any():
        raise UserError(f"{dataset}: expected weights of the {split.name} split of at least 0, one of them above, "
                        f"found {wrong[0] if len(wrong) else 'none above'}")
