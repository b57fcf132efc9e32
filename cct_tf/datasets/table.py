"""`--dataset=table`: images and their classes from a CSV, TSV, JSON-lines or Parquet file. No TensorFlow, no decoding.

    path             label    split    weight    group
    cat/1.jpg        cat      train    1         patient 3

With --task=multilabel a label is `cat;dog`, a list, or 0 or 1 in a column of each class (`--columns=labels:PATTERN`).
`path` is relative to the folder of the table, or to --image_root; `split`, `weight` and `group` may be missing. The
images of a split sort by the bytes of their paths, classes by the bytes of their names, as those of a folder do: the
table of a folder (`cct_tf.tabulate`) gives the same `tree.Tree`.
"""

import collections
import concurrent.futures
import itertools
import math
import os
import stat

import numpy as np

from cct_tf.data import folds
from cct_tf.datasets import files as files_lib
from cct_tf.datasets import tree
from cct_tf.errors import UserError, nearest, storage_fault
from cct_tf.machine import files as remote_files
from cct_tf.readers import progress
from cct_tf.tables import class_names as class_names_lib
from cct_tf.tables import located, table_file

_MANY = 10_000  # images whose files take long enough to look for to show a bar
_BLOCK = 4096  # of them, that a thread looks for at a time


def scan(config, part=None, stream=None, given=None):
    """Read the table of --data_dir, and look for its images.

    Args:
        config: DataConfig.
        part: tree.Part, or None for all of it.
        stream: text stream for progress, or None.
        given: list of dicts, the rows of a table that is no file; --data_dir is what messages call it.

    Returns:
        tree.Tree; its files know their rows, weights and groups.

    Raises:
        UserError: a flag, the file or a row of it is wrong; fewer than two classes; a class unknown to training; a
            split that is not there; an image that is not there, with --on_bad_image=stop.
    """
    names = table_file.column_names(config.columns)
    _check_places(config)
    known = class_names_lib.read(config.class_names) if config.class_names else None
    numbers, columns, declared = _read(config, names, known, given)
    root = config.image_root or remote_files.dirname(config.data_dir) or os.curdir
    root, columns["path"] = located.relative(config.data_dir, root, numbers, columns["path"])
    numbers, columns, notes = _once(config.data_dir, numbers, columns)
    splits = columns.pop("split", None)
    present = None if splits is None else collections.Counter(splits)
    named = _split_names(config, present, part and part.listed(config))
    members = {split: [place for place, found in enumerate(splits) if found == name] if splits else range(len(numbers))
               for split, name in named.items()}
    known = known or _classes(config, declared or [columns["label"][place] for place in members.get("train", ())], part)
    labels = _labels(config, numbers, columns["label"], known, [place for split in members.values() for place in split])
    files = _files(config, root, numbers, columns, members, stream)
    orders = {split: np.argsort(found.paths, kind="stable") for split, found in files.items()}
    files = {split: found[orders[split]] for split, found in files.items()}
    labels = {split: labels[list(members[split])][orders[split]] for split in files}
    if "train" in files and files["train"].weights is not None and not files["train"].weights.any():
        raise UserError(f"{config.data_dir}: expected a training row of a weight above 0, found none; "
                        "--columns=weight: leaves the column unread")
    if "validation" in named:
        tree.refuse_validation(config, named["validation"], config.data_dir)
    if "train" in named:
        folds.check(config, labels["train"], files["train"].groups, tuple(known.values()))  # as all rules do
    notes += _notes(config, present, named, known)
    if config.holds_out and "validation" in named:
        del files["validation"], labels["validation"]
    return tree.Tree(root, tuple(known.values()), files, labels, collections.Counter(), notes,
                     every_class=not config.class_names)


def _check_places(config):
    """Raise UserError unless a table is named, and the root of its images is there."""
    if not config.data_dir:
        raise UserError("--data_dir: expected the file of the table with --dataset=table, found nothing")
    if config.image_root and not remote_files.is_dir(config.image_root):
        found = "a file" if remote_files.exists(config.image_root) else "nothing"
        raise UserError(f"--image_root: expected a folder of images, found {found} at {config.image_root}")


def _read(config, names, known, given):
    """(list of n row numbers, {column: list of n values}) of a table, each value judged, and the classes that have a
    column of their own, a list; `known`: {label: name} of --class_names, or None."""
    table, numbers, columns, declared = config.data_dir, [], {}, []
    judges = _JUDGES | (_JUDGES_OF_SEVERAL if config.task == "multilabel" else {})
    if table_file.PATTERN in names and config.task != "multilabel":
        raise UserError(f"--columns: expected label: with --task=single, found {table_file.PATTERN}:, which is for "
                        "--task=multilabel")
    rows = table_file.rows(table, names) if given is None else table_file.given_rows(table, given, names)
    for number, values in rows:
        if table_file.PATTERN in names:
            declared = declared or _declared(table, values, known)
            values = _gathered(table, number, values, declared)
        for column, value in values.items():
            expected, judge = judges[column]
            found = judge(value)
            if found is None:
                shown = "none" if value is None or value == "" else repr(value)
                hint = f"; --columns={column}: leaves the column unread" if column in ("weight", "group") else ""
                if column == "label" and isinstance(value, list) and config.task == "single":
                    hint = "; several labels an image are --task=multilabel"
                raise UserError(f"{table}: row {number}: expected {expected}, found {shown}{hint}")
            columns.setdefault(column, []).append(found)
        numbers.append(number)
    if not numbers:
        raise UserError(f"{table}: expected rows of images, found none")
    return numbers, columns, declared


def _declared(table, values, known):
    """The classes that have a column of their own in a row, list: those in `known`, if that is not None."""
    found = [column[1] for column in values if isinstance(column, tuple)]
    for label in known or ():
        if label not in found:
            raise UserError(f"{table}: expected a column of each class of --class_names, found none of {label!r}"
                            + nearest(label, found))
    return list(known) if known else found


def _gathered(table, number, values, declared):
    """A row with the classes whose columns say 1 as its "label"."""
    label = []
    for name in declared:
        value = values["class", name]
        if str(value).strip() not in _SAID:
            raise UserError(f"{table}: row {number}: expected 0 or 1 in the column {name!r}, found "
                            + ("none" if value is None or value == "" else repr(value)))
        label += [name] * _SAID[str(value).strip()]
    return {column: value for column, value in values.items() if not isinstance(column, tuple)} | {"label": label}


def _text(value):
    """A text that is not empty and can be written; None of anything else."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    return value if value.isascii() or value == value.encode("utf-8", "replace").decode() else None


def _name(value):
    """As `_text`, also of a whole number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _several(value):
    """The different labels of a text with `;` between them, or of a list, sorted: tuple of texts, None of others."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";")] if value.strip() else []
    labels = [_name(label) for label in (value if isinstance(value, (list, tuple)) else [value])]
    return None if None in labels else tuple(sorted(set(labels)))


def _weight(value):
    """A finite number of at least 0, float; None of anything else."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < math.inf else None


_JUDGES = {"path": ("the path of an image", _text), "label": ("a label, text or a whole number", _name),
           "split": ("the name of a split", _text), "weight": ("a weight, a number of at least 0", _weight),
           "group": ("a group, text or a whole number", _name)}
_JUDGES_OF_SEVERAL = {"label": ("labels, text such as cat;dog or a list", _several)}
_SAID = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True, "false": False, "true": True}


def _once(table, numbers, columns):
    """The rows with each image once: (numbers, columns, notes). Rows that say the same again count for nothing."""
    first = {}
    for place, path in enumerate(columns["path"]):
        before = first.setdefault(path, place)
        for column, values in columns.items():
            if values[before] != values[place]:
                raise UserError(f"{table}: row {numbers[place]}: expected one {column} for each image, found "
                                f"{values[place]!r} for {path}, and {values[before]!r} in row {numbers[before]}")
    repeated = len(numbers) - len(first)
    if not repeated:
        return numbers, columns, ()
    kept = list(first.values())
    columns = {column: [values[place] for place in kept] for column, values in columns.items()}
    return [numbers[place] for place in kept], columns, (
        f"left out: {repeated:,} row{'s' * (repeated > 1)} that repeat{'s' * (repeated == 1)} another",)


def _split_names(config, present, wanted):
    """{split: its name in the table}, of the splits `wanted` (None: all); without a column of splits {"train": None}.

    Args:
        config: DataConfig.
        present: Counter of the names in the table, in its order; None where it has no such column.
        wanted: of `tree.Part.listed`.
    """
    named = _unsplit(config) if present is None else _assigned(config, present, wanted is None or "train" in wanted)
    for split in wanted or ():
        if split not in named:
            raise UserError(f"--data_dir: expected rows of the {split} split in {config.data_dir}, found none")
    return {split: name for split, name in named.items() if wanted is None or split in wanted}


def _unsplit(config):
    for flag in ("train_split", "test_split"):
        if getattr(config, flag) != flag.removesuffix("_split"):
            raise UserError(f"--{flag}: expected a column of splits in {config.data_dir}, found none")
    if not config.holds_out:
        raise UserError(f"--validation_fraction: expected above 0, or --fold, for {config.data_dir} has no column "
                        "of splits, found 0")
    return {"train": None}


def _assigned(config, present, with_train):
    """`_split_names` of all, of a table with splits. `with_train`: whether there must be rows to train on."""
    table, train, test = config.data_dir, config.train_split, config.test_split
    found = ", ".join(map(repr, list(present)[:6])) + (" ..." if len(present) > 6 else "")
    if train not in present and with_train:
        raise UserError(f"--train_split: expected rows of the split {train!r} in {table}, found {found}"
                        + nearest(train, present))
    named = tree.assigned(present, train, test)
    if "test" not in named and test != "test":
        raise UserError(f"--test_split: expected rows of the split {test!r} in {table}, found {found}"
                        + nearest(test, present))
    if "test" not in named and not config.holds_out:
        raise UserError(f"--data_dir: expected rows of the split test or val beside {train} in {table}, or "
                        f"--validation_fraction above 0, or --fold, found {found}")
    if test == train:
        raise UserError(f"--test_split: expected another split than --train_split, found {test!r}")
    return named


def _classes(config, train_labels, part):
    """{label: name} of the classes, in order, where no --class_names gives it."""
    if part is not None and part.classes is not None:
        return {name: name for name in part.classes}
    found = sorted(set(_flat(train_labels)), key=str.encode)
    if len(found) < 2:
        raise UserError(f"--data_dir: expected at least two classes in {config.data_dir}, found "
                        + (f"one, {found[0]!r}" if found else "none"))
    return {name: name for name in found}


def _flat(labels):
    """The texts of a sequence of labels, each a text or a tuple of texts."""
    return itertools.chain.from_iterable((label,) if isinstance(label, str) else label for label in labels)


def _labels(config, numbers, labels, known, used):
    """As `source.Split` has the labels of all rows, judged at the places `used`; -1, or nothing, elsewhere."""
    if config.task == "multilabel":
        pairs = [(place, label) for place in used for label in labels[place]]
        chosen, rows = [label for _, label in pairs], [place for place, _ in pairs]
        matrix = np.zeros([len(numbers), len(known)], np.uint8)
        matrix[rows, _numbered(config, numbers, chosen, known, rows)] = 1
        return matrix
    found = np.full(len(numbers), -1, np.int32)
    found[used] = _numbered(config, numbers, [labels[place] for place in used], known, used)
    return found


def _numbered(config, numbers, labels, known, places):
    """int32 class numbers of labels that stand in the rows at `places`; each must be known."""
    found = class_names_lib.numbered(labels, known)
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        first = min(unknown, key=lambda index: places[index])
        expected = class_names_lib.expected(known) if config.class_names else "a class of the training rows"
        raise UserError(f"{config.data_dir}: row {numbers[places[first]]}: expected {expected}, found "
                        f"{labels[first]!r}" + nearest(labels[first], known))
    return found


def _files(config, root, numbers, columns, members, stream):
    """{split: `files.Files` in the order of the table}."""
    paths, used = columns["path"], [place for split in members.values() for place in split]
    sizes, times, lost = _looked_for(root, [paths[place] for place in used], config.data_dir, stream)
    if lost and config.on_bad_image == "stop":
        place = min(lost, key=lambda place: numbers[used[place]])
        raise UserError(f"{config.data_dir}: row {numbers[used[place]]}: expected an image, found "
                        f"{os.path.join(root, paths[used[place]])} ({lost[place]}); --image_root names the folder that "
                        "paths are relative to")
    files, start = {}, 0
    for split, places in members.items():
        end = start + len(places)
        weights, groups = (columns.get(column) for column in ("weight", "group"))
        files[split] = files_lib.Files(
            files_lib.bytes_array([os.fsencode(paths[place]) for place in places]), sizes[start:end], times[start:end],
            np.array([numbers[place] for place in places], np.int32),
            weights and np.array([weights[place] for place in places], np.float64),
            groups and np.array([groups[place] for place in places], object))
        start = end
    return files


def _looked_for(root, paths, table, stream):
    """(sizes, times as in `files.Files`, 0 where a file is not there; {place: reason} of those)."""
    sizes, times, lost = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64), {}

    def look(start):
        for place, path in enumerate(paths[start:start + _BLOCK], start):
            try:
                found = remote_files.stat(os.path.join(root, path))
            except OSError as error:
                if remote_files.is_remote(root) and storage_fault(error):
                    raise  # the server's: worth another try
                lost[place] = error.strerror
                continue
            if stat.S_ISDIR(found.st_mode):
                lost[place] = "a folder"
                continue
            sizes[place], times[place] = found.st_size, found.st_mtime_ns

    with concurrent.futures.ThreadPoolExecutor(tree.THREADS) as pool, progress.count(
            len(paths), f"looking for the images of {table}", stream if len(paths) > _MANY else None) as advance:
        starts = range(0, len(paths), _BLOCK)
        for start, _ in zip(starts, pool.map(look, starts), strict=True):
            advance(min(_BLOCK, len(paths) - start))
    return sizes, times, lost


def _notes(config, present, named, known):
    """Lines for the plan."""
    notes = tuple(f"left out: {number:,} row{'s' * (number > 1)} of the split {name}"
                  for name, number in (present or {}).items() if name not in named.values())
    if config.holds_out and "validation" in named:
        notes += (f"the split {named['validation']} is not used: --validation_fraction holds out training images "
                  "instead",)
    elif named.get("test") in tree.VALIDATION_NAMES and config.test_split == "test":
        notes += (f"the split {named['test']} is the test split, for there is no test",)
    several = [label for label in known if ";" in label]
    if config.task == "single" and several:
        notes += (f"the label {several[0]!r} is a class of its own; with --task=multilabel it is several",)
    if not config.class_names and all(label.isdecimal() for label in known) and list(known) != sorted(known, key=int):
        second = list(known)[1]
        notes += (f"classes are sorted as text, so {second!r} comes second; --class_names gives them in their order",)
    return notes
