"""What lies in an image folder: split folders, classes, files. No TensorFlow, no decoding.

    root/train/<class>/*.jpg    root/test/<class>/*    root/val/<class>/*        (or validation/, valid/)
    root/<class>/*.jpg                                                          (one tree)

Classes and files sort by the bytes of their relative paths. Below a class, folders are searched too. Hidden entries
and files that are no images by their suffix are ignored and counted.
"""

import collections
import dataclasses
import importlib.util
import os

from cct_tf.data import holding_out
from cct_tf.errors import UserError, nearest

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
            ".pnm", ".jp2", ".avif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # of iPhones, and of some cameras
VALIDATION_NAMES = ("val", "validation", "valid")


@dataclasses.dataclass(frozen=True)
class Tree:
    """An image folder, listed.

    Attributes:
        root: its path.
        class_names: tuple of the K class folders of the training split, sorted.
        files: dict by split ("train", "validation", "test") of lists of (path relative to root, label, bytes),
            sorted. One tree has "train" alone.
        ignored: collections.Counter of what was left out: by suffix, "hidden", "without a suffix", "link to a folder
            above".
        notes: lines for the plan.
    """

    root: str
    class_names: tuple
    files: dict
    ignored: collections.Counter
    notes: tuple


def shown(name):
    """A file name for people and digests: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def suffixes():
    """How the names of images end, in small letters: those of HEIF too where pillow-heif is installed."""
    return SUFFIXES + (HEIF_SUFFIXES if importlib.util.find_spec("pillow_heif") else ())


def _left_out(ignored, most=6):
    """`3 .heic, 1 hidden (...)` of a Counter of `Tree.ignored`, the most frequent first; "" of an empty one."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    counts = [f"{number:,} {kind}" for kind, number in ordered[:most]]
    others = sum(number for _, number in ordered[most:])
    text = ", ".join(counts + ([f"{others:,} others"] if others else []))
    if any(suffix in ignored for suffix in HEIF_SUFFIXES):
        text += "; pip install pillow-heif, and HEIF images are read"
    return text


def scan(config):
    """List the folder of --data_dir.

    Args:
        config: DataConfig.

    Returns:
        Tree.

    Raises:
        UserError: no such folder; fewer than two classes; a class unknown to training; a split that is not there; one
            tree without --validation_fraction, or without an image to hold out.
    """
    try:
        return _scan(config.data_dir, config)
    except OSError as error:
        raise UserError(f"{error.filename}: expected a readable folder, found: {error.strerror}") from error


def _scan(root, config):
    if not root:
        raise UserError("--data_dir: expected the root of the image folder with --dataset=folder, found nothing")
    if not os.path.isdir(root):
        raise UserError(f"--data_dir: expected the root of an image folder, found "
                        f"{'a file' if os.path.exists(root) else 'nothing'} at {root}")
    folders = _split_folders(root, config)
    class_names, hidden = _folders(os.path.join(root, folders["train"]))
    where = os.path.join(root, folders["train"])
    if len(class_names) < 2:
        found = f"one, {shown(class_names[0])!r}" if class_names else "none"
        raise UserError(f"--data_dir: expected at least two class folders in {where}, found {found}")
    ignored, files = collections.Counter(hidden), {}
    for split, folder in folders.items():
        files[split], skipped = _split_files(root, folder, class_names, split)
        ignored += skipped
    if config.validation_fraction:
        counts = collections.Counter(label for _, label, _ in files["train"])
        holding_out.check(list(counts.values()), config.validation_fraction, rule=2)  # what it refuses, all rules do
    notes = ()
    if ignored:
        notes += (f"left out: {_left_out(ignored)}",)
    if config.validation_fraction and "validation" in folders:
        notes += (f"{folders['validation']}/ is not used: --validation_fraction holds out training images instead",)
        del files["validation"]
    elif folders.get("test") in VALIDATION_NAMES and config.test_split == "test":
        notes += (f"{folders['test']}/ is the test split, for there is no test/",)
    return Tree(root, tuple(shown(name) for name in class_names), files, ignored, notes)


def _split_folders(root, config):
    """{"train": folder, ...} relative to root; "train" is "" for one tree."""
    present, _ = _folders(root)
    validation = next((name for name in VALIDATION_NAMES if name in present), None)
    if config.train_split not in present:
        return _one_tree(root, present, config)
    folders = {"train": config.train_split}
    if config.test_split in present:
        folders["test"] = config.test_split
        if validation and validation != config.test_split:
            folders["validation"] = validation
    elif config.test_split != "test":
        raise UserError(f"--test_split: expected a folder in {root}, found no {config.test_split!r}"
                        + nearest(config.test_split, present))
    elif validation:
        folders["test"] = validation
    elif not config.validation_fraction:
        raise UserError(f"--data_dir: expected test/ or val/ beside {config.train_split}/ in {root}, or "
                        "--validation_fraction above 0, found neither")
    if config.test_split == config.train_split:
        raise UserError(f"--test_split: expected another folder than --train_split, found {config.test_split!r}")
    if folders.get("validation") == config.train_split:
        del folders["validation"]
    return folders


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
    if not config.validation_fraction:
        raise UserError(f"--validation_fraction: expected above 0, for {root} is one tree of classes without train/, "
                        "found 0")
    return {"train": ""}


def _folders(path):
    """(names of the folders in `path`, sorted by bytes; Counter of the other entries by kind)."""
    with os.scandir(path) as entries:
        entries = list(entries)
    names = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    others = collections.Counter(_kind(entry.name) for entry in entries if entry.name not in names)
    return sorted(names, key=os.fsencode), others


def _kind(name):
    """What a name that is left out counts as."""
    if name.startswith("."):
        return "hidden"
    return shown(os.path.splitext(name)[1].lower()) or "without a suffix"


def _split_files(root, folder, class_names, split):
    """([(relative path, label, bytes)] of one split, Counter of what was left out)."""
    path = os.path.join(root, folder)
    names, ignored = _folders(path) if split != "train" else (class_names, {})
    ignored = collections.Counter(ignored)
    unknown = [name for name in names if name not in set(class_names)]
    if unknown:
        raise UserError(f"{os.path.join(path, shown(unknown[0]))}: expected a class of the training folder, found an "
                        f"unknown one" + nearest(unknown[0], class_names))
    files = []
    for name in names:
        found, skipped = images_below(os.path.join(path, name))
        ignored += skipped
        label = class_names.index(name)
        if split == "train" and not found:
            others = f" ({_left_out(skipped)})" if skipped else ""
            raise UserError(f"{os.path.join(path, shown(name))}: expected at least one image in every class folder, "
                            f"found none{others}")
        files += [(os.path.relpath(file, root), label, size) for file, size in found]
    if not files:
        raise UserError(f"{path}: expected images in its class folders, found none")
    return sorted(files, key=lambda file: os.fsencode(file[0])), ignored


def images_below(folder, above=()):
    """([(path, bytes)] of the images in a folder and the folders below it, Counter of what was left out).

    `above` holds the real paths of the folders on the way here: links back to them are ignored.
    """
    above = (*above, os.path.realpath(folder))
    found, ignored, endings = [], collections.Counter(), suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_dir() and os.path.realpath(entry.path) in above:
                ignored["link to a folder above"] += 1
            elif entry.is_dir():
                deeper, skipped = images_below(entry.path, above)
                found += deeper
                ignored += skipped
            elif entry.name.lower().endswith(endings):
                found.append((entry.path, _size(entry)))
            else:
                ignored[_kind(entry.name)] += 1
    return found, ignored


def _size(entry):
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing; decoding will name it
        return 0
