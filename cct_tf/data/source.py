"""What a data set is to the rest: splits, labels, class names, and a reader of images for each split.

Legend: n examples of the split.
"""

import dataclasses
import hashlib
import itertools

import numpy as np

# Pixels of an image. Up to here batches are resized faster by products of matrices than one by one by Pillow.
_SMALL = 64 * 64


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a data set is read where versions of cct_tf differ. A run keeps the rules it began with; run.json has them.

    Attributes:
        split: int, how --validation_fraction chooses its images, see `holding_out`.
        bit_depth: int, bits per channel that images of more than 8 bits use, see `decode`; None, before the set is
            opened: as many as its images need.
        npz_validation: whether the validation arrays of an .npz archive are the validation split.
        resize_block: see `transform.Transform`.
        table_weights: bool, whether the weights of a table's examples count in training.
        own_weights: bool, whether those of a user's own Source count towards its fingerprint.
        resampler: "matrix" or "pillow", what brings images to the network's size, see `settled`; None, before the set
            is opened.
        width_first: bool, whether --resize=fast resizes the width first whatever Pillow does, see `simd_resize`.
    """

    split: int = 2
    bit_depth: int | None = None
    npz_validation: bool = True
    table_weights: bool = True
    own_weights: bool = True
    resize_block: int | None = None
    resampler: str | None = None
    width_first: bool = False

    @property
    def settled_depth(self):
        """The bit depth, with what counts where there is nothing to find out, int."""
        return self.bit_depth or 16

    def settled(self, image_shape):
        """The rules with every field known, once the set is open. What was recorded stays.

        Args:
            image_shape: (H, W) of the training images; None where they are of mixed sizes.
        """
        small = image_shape is not None and image_shape[0] * image_shape[1] <= _SMALL
        return dataclasses.replace(self, bit_depth=self.settled_depth,
                                   resampler=self.resampler or ("matrix" if small else "pillow"))


def rules_of(resolved):
    """The `Rules` of a run, from the `resolved.Resolved` of its record; new ones for None, a new run."""
    if resolved is None:
        return Rules()
    if resolved.data_rules is None:  # what version 0 did, without recording
        return Rules(split=1, bit_depth=16, npz_validation=False, table_weights=False, own_weights=False,
                     resize_block=256, resampler="matrix", width_first=True)
    # What there was before it was recorded.
    return Rules(**{"resampler": "matrix", "table_weights": False, "own_weights": False, "width_first": True}
                 | resolved.data_rules)


@dataclasses.dataclass(frozen=True, slots=True)  # there may be a million
class File:
    """An image file.

    Attributes:
        path: bytes, relative to the root of its data set.
        size: int, bytes.
    """

    path: bytes
    size: int


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: "train", "validation" or "test".
        reader: `readers.reader.Reader` of its images.
        num_examples: int n.
        labels: NumPy array in the order of the reader, int32 [n], or with --task=multilabel uint8 [n, K] of 0 and 1;
            None where the reader alone knows them.
        files: `files.Files` in the same order; None where the images are no files.
        room: float, bytes an image that it may be held in at the network's size, see `with_room`.
        weights: float64 [n] of a table's examples, in the same order; None where it has no such column, or where they
            do not count.
        groups: object [n] of str, likewise.
        masked: bool [n], where an evaluated image is broken, of a reader that holds what was decoded; None: nowhere.
    """

    name: str
    reader: object
    num_examples: int
    labels: np.ndarray | None
    files: np.ndarray | None = None
    room: float = 0.0
    masked: np.ndarray | None = None
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def images(self, places):
        """Yield (uint8 or uint16 NumPy array [H, W, C], label) of the images at some places, one after the other.

        A label is an int, or uint8 [K] where an image may have several.
        """
        for image, label, place in self.reader.found(places):
            yield image, self.label_of(place, label)

    def label_of(self, place, label=None):
        """The label of the image at a place, see `images`; `label` is what its reader gave."""
        label = self.labels[place] if label is None else label
        return label if np.ndim(label) else int(label)

    def select(self, places):
        """The split of some of its images: int64 [k] of `Reader.spread`."""
        columns = {name: getattr(self, name) for name in ("labels", "files", "masked", "weights", "groups")}
        return dataclasses.replace(self, reader=self.reader.select(places), num_examples=len(places),
                                   **{name: None if column is None else column[places]
                                      for name, column in columns.items()})


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, opened.

    Attributes:
        name: the --dataset value.
        class_names: tuple of K strings.
        splits: dict of Split by name; "train" and at least one of "validation", "test".
        mean, std: known channel statistics of the training images in [0, 1] (tuples of 3), or None.
        fingerprint: hex digest: n per split, class names, labels in source order; for folders also sorted relative
            paths and sizes, and by what images were held out. None where only some splits were opened.
        notes: tuple of lines for the plan ("validation split unstratified ...").
        order: "indexed" or "windowed".
        rules: `Rules` in force, every field known.
        broken: tuple of (path, reason) of the images that --on_bad_image=skip left out.
        folds_fingerprint: as `fingerprint`, of the set that --fold divides: that of all its folds. None without.
        left_out: rows of the same for the record of an image folder, see `recorded_files`; None where none may be.
    """

    name: str
    class_names: tuple
    splits: dict
    mean: tuple | None
    std: tuple | None
    fingerprint: str
    notes: tuple
    order: str
    rules: Rules
    broken: tuple = ()
    left_out: tuple | None = None
    folds_fingerprint: str | None = None

    @property
    def num_classes(self):
        return len(self.class_names)

    def with_room(self, num_bytes):
        """The source whose splits may hold images at the network's size, in `num_bytes` less what is held already.

        The evaluated splits come first, for theirs are prepared the same way each time; then all of them.
        """
        free = num_bytes - max(split.reader.held_bytes for split in self.splits.values())
        everything = sum(split.num_examples for split in self.splits.values())
        evaluated = sum(split.num_examples for name, split in self.splits.items() if name != "train")
        rooms = {name: max(free, 0) / (everything if name == "train" else evaluated) for name in self.splits}
        return dataclasses.replace(self, splits={name: dataclasses.replace(split, room=rooms[name])
                                                 for name, split in self.splits.items()})

    @property
    def evaluated_split(self):
        """The split that `eval/*` and the best checkpoint use: validation if there is one, else test."""
        return "validation" if "validation" in self.splits else "test"

    @property
    def is_part(self):
        """Whether only some of the splits were opened."""
        return self.fingerprint is None

    @property
    def has_files(self):
        """Whether the images are files of a folder."""
        return all(split.files is not None for split in self.splits.values())

    @property
    def evaluated_fingerprint(self):
        """As `fingerprint`, of the evaluated split alone: evaluations are comparable where it is the same."""
        return self.split_fingerprint(self.evaluated_split)

    def split_fingerprint(self, name):
        """As `fingerprint`, of one split."""
        split = self.splits[name]
        files = (f"file {file.path!r} {file.size}" for file in split.files) if self.has_files else ()
        return fingerprint(self.class_names, [split], files)


def fingerprint(class_names, splits, extra=()):
    """Hex digest of what identifies the data: counts, class names, labels in source order, and `extra` strings.

    Args:
        class_names: sequence of strings.
        splits: sequence of Split, or of (name, count, labels or None).
        extra: iterable of strings, such as relative paths and sizes.
    """
    digest = hashlib.sha256()
    for name in class_names:
        digest.update(f"class {name}\n".encode())
    for split in splits:
        digest.update(f"split {split.name} {split.num_examples}\n".encode())
        if split.labels is not None:
            digest.update(np.ascontiguousarray(split.labels, "<i4").tobytes())
    extra = iter(extra)
    while lines := list(itertools.islice(extra, 4096)):  # one by one they take twice the time
        digest.update("".join(f"{line}\n" for line in lines).encode())
    return digest.hexdigest()
