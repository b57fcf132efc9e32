"""`--dataset=./mine.py:load`: images that a function of a user's own gives. It is called with --data_dir and returns

    a dict of arrays     x_train, y_train, x_test, y_test ..., as an .npz archive has them, see `npz`
    a dict of columns    path, label and, where there are such, split, weight, group: lists, as a table has them
    a list of rows       dicts of the same
    a `source.Source`    whatever else can be read; it gets a fingerprint of its splits if it has none
"""

import collections.abc
import dataclasses
import os

from cct_tf.datasets import image_files, npz, table
from cct_tf.errors import UserError
from cct_tf.machine import own_code

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
    from cct_tf.datasets import folder

    named = dataclasses.replace(named, image_root=config.image_root or config.data_dir or os.curdir)
    image_files.keep(named, table.scan(named, part, stream, rows), part)
    return folder.open_folder(named, rules, stream, part, cache, recorded)


def _rows(config, found):
    """List of dicts, one an image."""
    if isinstance(found, collections.abc.Mapping) and "path" in found:
        columns = {name: list(column) for name, column in found.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"{config.dataset}: expected columns of one length, found {lengths}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(found, (list, tuple)) and all(isinstance(row, collections.abc.Mapping) for row in found):
        return [dict(row) for row in found]
    raise UserError(f"--dataset: {_EXPECTED}, found that {config.dataset} returns {type(found).__name__}"
                    + (f" with the keys {', '.join(map(str, list(found)[:6]))}"
                       if isinstance(found, collections.abc.Mapping) else ""))


def _finished(found, config, rules):
    """A user's Source with what it may leave out."""
    from cct_tf.data import source as source_lib

    if "train" not in found.splits or not set(found.splits) & {"validation", "test"}:
        raise UserError(f"{config.dataset}: expected a Source with the splits train and validation or test, found "
                        f"{', '.join(found.splits) or 'none'}")
    if config.holds_out:
        flag = "fold" if config.fold else "validation_fraction"
        raise UserError(f"--{flag}: expected none with --dataset={config.dataset}, which gives a Source with splits of "
                        f"its own, found {getattr(config, flag)}")
    fingerprint = found.fingerprint or source_lib.fingerprint(found.class_names, list(found.splits.values()))
    rules = (found.rules or rules).settled(found.splits["train"].reader.image_shape)
    return dataclasses.replace(found, name=config.dataset, fingerprint=fingerprint, rules=rules)
