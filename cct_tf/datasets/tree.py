"""What lies in an image folder: split folders, classes, files. No TensorFlow, no decoding.

    root/train/<class>/*.jpg    root/test/<class>/*    root/val/<class>/*        (or validation/, valid/)
    root/<class>/*.jpg                                                          (one tree)

Classes and files sort by the bytes of their relative paths. Below a class, folders are searched too. Hidden entries
and files that are no images by their suffix are ignored and counted.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import importlib.util
import os

import numpy as np

from cct_tf.data import folds
from cct_tf.datasets import files as files_lib
from cct_tf.errors import UserError, nearest, storage_fault
from cct_tf.machine import files as remote_files
from cct_tf.readers import progress

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
            ".pnm", ".jp2", ".avif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # of iPhones, and of some cameras
VALIDATION_NAMES = ("val", "validation", "valid")
THREADS = 8  # that list folders and look at files: on a network file system each answer takes long


@dataclasses.dataclass(frozen=True)
class Part:
    """Some splits of an image folder or a table, for a command that needs no other.

    Attributes:
        splits: tuple of their names.
        classes: tuple of the names of the run's classes. None: those of the training images; then the whole set is
            listed and judged, and the images of these splits alone are opened.
        held: whether images of one size are held decoded; None, as the whole set would be.
    """

    splits: tuple
    classes: tuple | None = None
    held: bool | None = None

    def listed(self, config):
        """Names of the splits to be listed, before any image is held out; None for all."""
        if self.classes is None:
            return None
        from_training = ("train", "validation") if config.holds_out else ("train",)
        return {"train" if split in from_training else split for split in self.splits}


@dataclasses.dataclass(frozen=True)
class Tree:
    """An image folder or a table, listed.

    Attributes:
        root: the folder that paths are relative to.
        class_names: tuple of K names; of a folder the class folders of the training split, sorted.
        files: dict by split ("train", "validation", "test") of `files.Files`, sorted by path. One tree, or a table
            without splits, has "train" alone.
        labels: dict by split of int32 arrays, in the same order; uint8 [n, K] of 0 and 1 with --task=multilabel.
        ignored: collections.Counter of what was left out: by suffix, "hidden", "without a suffix", "link to a folder
            above".
        notes: lines for the plan.
        every_class: whether each class has to have an image to train on.
    """

    root: str
    class_names: tuple
    files: dict
    labels: dict
    ignored: collections.Counter
    notes: tuple
    every_class: bool = True


def shown(name):
    """A file name for people and digests: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def suffixes():
    """How the names of images end, in small letters: those of HEIF too where pillow-heif is installed."""
    return SUFFIXES + (HEIF_SUFFIXES if importlib.util.find_spec("pillow_heif") else ())


def left_out(ignored, most=6):
    """`3 .heic, 1 hidden (...)` of a Counter of `Tree.ignored`, the most frequent first; "" of an empty one."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    counts = [f"{number:,} {kind}" for kind, number in ordered[:most]]
    others = sum(number for _, number in ordered[most:])
    text = ", ".join(counts + ([f"{others:,} others"] if others else []))
    if any(suffix in ignored for suffix in HEIF_SUFFIXES):
        text += "; pip install pillow-heif, and HEIF images are read"
    return text


def scan(config, part=None, stream=None):
    """List the folder of --data_dir.

    Args:
        config: DataConfig.
        part: Part, or None for all of it.
        stream: text stream for progress, or None.

    Returns:
        Tree.

    Raises:
        UserError: no such folder; fewer than two classes; a class unknown to training; a split that is not there; one
            tree without --validation_fraction or --fold, or without an image to hold out.
    """
    try:
        return _scan(config.data_dir, config, part.listed(config) if part else None, part, stream)
    except OSError as error:
        if remote_files.is_remote(config.data_dir) and storage_fault(error):
            raise  # the server's: worth another try
        raise UserError(f"{error.filename}: expected a readable folder, found: {error.strerror}") from error


def scan_all(root):
    """The Tree of all splits of a folder, whether or not it can be trained on; each goes by the name of its folder.

    Raises:
        UserError: fewer than two classes; a class unknown to training; a split or class without images.
        OSError: it can't be read.
    """
    present, _ = _folders(root)
    named = assigned(present, "train", "test") if "train" in present else {"": ""}
    names, ignored = _class_folders(os.path.join(root, named.get("train", "")))
    known, files, labels = {name: label for label, name in enumerate(names)}, {}, {}
    for folder in named.values():
        files[folder], labels[folder], skipped = _split_files(
            root, folder, known, "train" if folder in ("", "train") else folder, None)
        ignored += skipped
    return Tree(root, tuple(shown(name) for name in names), files, labels, ignored, ())


def _scan(root, config, wanted, part, stream):
    if not root:
        raise UserError("--data_dir: expected the root of the image folder with --dataset=folder, found nothing")
    if not remote_files.is_dir(root):
        found = "a file (--dataset=table reads a table)" if remote_files.exists(root) else "nothing"
        raise UserError(f"--data_dir: expected the root of an image folder, found {found} at {root}")
    folders = _split_folders(root, config, wanted)
    ignored, files, labels = collections.Counter(), {}, {}
    if "train" in folders:
        class_names, ignored = _class_folders(os.path.join(root, folders["train"]))
        known = {name: label for label, name in enumerate(class_names)}
    else:
        class_names, known = part.classes, {name: label for label, name in enumerate(part.classes)}
    for split, folder in folders.items():
        files[split], labels[split], skipped = _split_files(root, folder, known, split, stream)
        ignored += skipped
    if "validation" in folders:
        refuse_validation(config, folders["validation"], root)
    if "train" in folders:
        folds.check(config, labels["train"], None, class_names)  # what rule 2 refuses, all do
    notes = ()
    if ignored:
        notes += (f"left out: {left_out(ignored)}",)
    if config.holds_out and "validation" in folders:
        notes += (f"{folders['validation']}/ is not used: --validation_fraction holds out training images instead",)
        del files["validation"], labels["validation"]
    elif folders.get("test") in VALIDATION_NAMES and config.test_split == "test":
        notes += (f"{folders['test']}/ is the test split, for there is no test/",)
    return Tree(root, tuple(shown(name) for name in class_names), files, labels, ignored, notes)


def refuse_validation(config, name, where):
    """Raise UserError if --fold is given beside a validation split of that name."""
    if config.fold:
        raise UserError(f"--fold: expected no validation split beside the folds, found {name} in {where}; "
                        f"--test_split={name} tests on it")


def _class_folders(path):
    """(names of the class folders of the training split, sorted; Counter of what was left out beside them)."""
    class_names, ignored = _folders(path)
    if len(class_names) < 2:
        found = f"one, {shown(class_names[0])!r}" if class_names else "none"
        raise UserError(f"--data_dir: expected at least two class folders in {path}, found {found}")
    return class_names, collections.Counter(ignored)


def _split_folders(root, config, wanted):
    """{"train": folder, ...} relative to root, of the splits `wanted` (None: all); "train" is "" for one tree."""
    present, _ = _folders(root)
    if wanted is None:
        return _all_folders(root, present, config)
    # The training folder need not be there for the others.
    folders = _all_folders(root, present if "train" in wanted else [*present, config.train_split], config)
    for split in wanted:
        if split not in folders:
            raise UserError(f"--data_dir: expected a folder of the {split} split in {root}, found none")
    return {split: folder for split, folder in folders.items() if split in wanted}


def _all_folders(root, present, config):
    """`_split_folders` of all splits, from the names of the folders in root."""
    if config.train_split not in present:
        return _one_tree(root, present, config)
    folders = assigned(present, config.train_split, config.test_split)
    if "test" not in folders and config.test_split != "test":
        raise UserError(f"--test_split: expected a folder in {root}, found no {config.test_split!r}"
                        + nearest(config.test_split, present))
    if "test" not in folders and not config.holds_out:
        raise UserError(f"--data_dir: expected test/ or val/ beside {config.train_split}/ in {root}, or "
                        "--validation_fraction above 0, or --fold, found none of them")
    if config.test_split == config.train_split:
        raise UserError(f"--test_split: expected another folder than --train_split, found {config.test_split!r}")
    return folders


def assigned(present, train, test):
    """{split: its name in the data set}, {"train": "train", "validation": "val", ...}.

    Args:
        present: the names that there are.
        train: that of the training split, one of them.
        test: that of the test split. If it is "test" and there is none, the validation split is the test split.
    """
    validation = next((name for name in VALIDATION_NAMES if name in present), None)
    if test in present:
        others = {"validation": validation} if validation not in (None, test, train) else {}
        return {"train": train, "test": test} | others
    return {"train": train} | ({"test": validation} if test == "test" and validation else {})


def _one_tree(root, present, config):
    others = [name for name in ("test", *VALIDATION_NAMES) if name in present]
    if config.train_split != "train" or others:
        beside = f" beside {others[0]}/" if others else ""
        raise UserError(f"--train_split: expected the folder {config.train_split}/{beside} in {root}, found none"
                        + nearest(config.train_split, present))
    if not present:
        raise UserError(f"--data_dir: expected train/<class>/ or <class>/ folders in {root}, found none")
    if config.test_split != "test":
        raise UserError(f"--test_split: expected train/ and {config.test_split}/ in {root}, found one tree of classes")
    if not config.holds_out:
        raise UserError(f"--validation_fraction: expected above 0, or --fold, for {root} is one tree of classes "
                        "without train/, found 0")
    return {"train": ""}


def _folders(path):
    """(names of the folders in `path`, sorted by bytes; Counter of the other entries by kind)."""
    with remote_files.scandir(path) as entries:
        entries = list(entries)
    names = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    others = collections.Counter(_kind(entry.name) for entry in entries if entry.name not in names)
    return sorted(names, key=os.fsencode), others


def _kind(name):
    """What a name that is left out counts as."""
    if name.startswith("."):
        return "hidden"
    return shown(os.path.splitext(name)[1].lower()) or "without a suffix"


def _split_files(root, folder, known, split, stream):
    """(Files of one split, int32 [n] labels, Counter of what was left out); `known` has the labels by class."""
    path = os.path.join(root, folder)
    names, ignored = _folders(path) if split != "train" else (list(known), {})
    ignored, labels = collections.Counter(ignored), [known.get(name, known.get(shown(name))) for name in names]
    unknown = [name for name, label in zip(names, labels, strict=True) if label is None]
    if unknown:
        raise UserError(f"{os.path.join(path, shown(unknown[0]))}: expected a class of the training folder, found an "
                        f"unknown one" + nearest(unknown[0], known))
    parts = []
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool, \
            progress.count(len(names), f"listing {shown(path)}", stream, "folders") as advance:
        listed = pool.map(functools.partial(_class_files, path), names)
        for name, (files, skipped) in zip(names, listed, strict=True):
            ignored += skipped
            if split == "train" and not len(files):
                others = f" ({left_out(skipped)})" if skipped else ""
                raise UserError(f"{os.path.join(path, shown(name))}: expected at least one image in every class "
                                f"folder, found none{others}")
            parts.append(files)
            advance(1)
    if not sum(map(len, parts)):
        raise UserError(f"{path}: expected images in its class folders, found none")
    files = files_lib.joined(parts)
    files = dataclasses.replace(files, paths=files_lib.below(folder, files.paths))
    order = np.argsort(files.paths, kind="stable")
    return files[order], np.repeat(labels, [len(part) for part in parts]).astype(np.int32)[order], ignored


def _class_files(path, name):
    """(Files of one class, their paths relative to `path`; Counter of what was left out)."""
    found, skipped = images_below(os.path.join(path, name))
    start = len(os.path.join(path, ""))
    paths = files_lib.bytes_array([os.fsencode(file[start:]) for file, _, _ in found])
    sizes, times = (np.array([each[place] for each in found], np.int64) for place in (1, 2))
    return files_lib.Files(paths, sizes, times), skipped


def images_below(folder, above=()):
    """([(path, bytes, time)] of the images in a folder and the folders below it, Counter of what was left out).

    `time` is when the file was last modified, in nanoseconds. `above` holds the real paths of the folders on the way
    here: links back to them are ignored.
    """
    above = (*above, remote_files.realpath(folder))
    found, ignored, endings = [], collections.Counter(), suffixes()
    with remote_files.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_dir() and remote_files.realpath(entry.path) in above:
                ignored["link to a folder above"] += 1
            elif entry.is_dir():
                deeper, skipped = images_below(entry.path, above)
                found += deeper
                ignored += skipped
            elif entry.name.lower().endswith(endings):
                found.append((entry.path, *_size_and_time(entry)))
            else:
                ignored[_kind(entry.name)] += 1
    return found, ignored


def _size_and_time(entry):
    try:
        found = entry.stat()
    except OSError:  # a link to nothing; decoding will name it
        return 0, 0
    return found.st_size, found.st_mtime_ns
