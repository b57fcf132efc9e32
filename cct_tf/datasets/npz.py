"""`--dataset=npz`: one NumPy archive with x_train, y_train, x_test, y_test, as keras.datasets uses to make them.

    x    uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3]; with --channels=C [n, H, W, C], with --bits=16 uint16 too
    y    integers [n] or [n, 1], from 0; with --task=multilabel 0 or 1 [n, K], whether an image has a class
    x_val, y_val    optional, the validation split
    class_names    strings [K], optional

MedMNIST's names are read too: train_images, train_labels, val_images ... (arXiv:2110.14795).

`check` looks at the file without TensorFlow and without reading the images.
"""

import contextlib
import dataclasses
import zipfile
import zlib

import numpy as np

from cct_tf.data import folds, label_kinds
from cct_tf.errors import UserError, nearest, storage_fault
from cct_tf.images import pixel_type
from cct_tf.machine import files

KEYS = ("x_train", "y_train", "x_test", "y_test")
_OURS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
_MEDMNIST = {"train": ("train_images", "train_labels"), "validation": ("val_images", "val_labels"),
             "test": ("test_images", "test_labels")}
_GIB = 2**30
_BLOCK = 1024  # images that are converted at a time


@dataclasses.dataclass(frozen=True)
class Contents:
    """What an archive holds, less the pixels.

    Attributes:
        images: dict of the images' keys by "train", "test" and, where it has one, "validation".
        labels: dict of int32 [n] or uint8 [n, K], in the same way.
        class_names: tuple of K strings.
        num_bytes: size of all the images as they are held.
        notes: lines for the plan.
    """

    images: dict
    labels: dict
    class_names: tuple
    num_bytes: int
    notes: tuple


def check(config, with_validation=True, arrays=None):
    """Judge an archive by its labels and the headers of its images.

    Args:
        config: DataConfig.
        with_validation: whether its validation split is read.
        arrays: mapping of arrays that stands for the file; --data_dir is what messages call it.

    Returns:
        Contents.

    Raises:
        UserError: naming the file, the key, what was expected and what was found.
    """
    path = config.data_dir
    if not path:
        raise UserError("--data_dir: expected an .npz file with --dataset=npz, found nothing")
    if arrays is None and not files.is_file(path):
        raise UserError(f"--data_dir: expected an .npz file, found "
                        f"{'a folder' if files.is_dir(path) else 'nothing'} at {path}")
    with _reading(path), _open(path, arrays) as archive:
        keys, notes = _keys(path, archive.files, config, with_validation)
        kind = pixel_type.of_config(config)
        shapes = {split: _image_shape(path, archive, images, kind) for split, (images, _) in keys.items()}
        read = _labels if config.task == "single" else _label_matrix
        labels = {split: read(path, archive, key, shapes[split][0]) for split, (_, key) in keys.items()}
        class_names = _class_names(path, archive, labels["train"], keys["train"][1])
    for split, (image_key, label_key) in keys.items():
        if shapes[split][1:3] != shapes["train"][1:3]:
            raise UserError(f"{path}: {image_key}: expected images of {_size(shapes['train'])} as in "
                            f"{keys['train'][0]}, found {_size(shapes[split])}")
        if labels[split].shape[1:] != labels["train"].shape[1:]:
            raise UserError(f"{path}: {label_key}: expected {len(class_names)} columns as {keys['train'][1]}, found "
                            f"{labels[split].shape[1]}")
        unknown = () if labels[split].ndim == 2 else np.setdiff1d(labels[split], labels["train"])
        if len(unknown):
            raise UserError(f"{path}: {label_key}: expected the classes of {keys['train'][1]}, found {unknown[0]}")
    folds.check(config, labels["train"], None, class_names)  # what rule 2 refuses, all do
    number = sum(shape[0] for shape in shapes.values())
    contents = Contents({split: images for split, (images, _) in keys.items()}, labels, class_names,
                        number * shapes["train"][1] * shapes["train"][2] * kind.num_bytes, notes)
    if contents.num_bytes > config.in_memory_gib * _GIB:
        raise UserError(f"--in_memory_gib: expected at least {contents.num_bytes / _GIB:.2f}, the size of the images "
                        f"in {path} (an .npz is always held in memory), found {config.in_memory_gib:g}")
    return contents


def open_npz(config, rules, arrays=None):
    """Open an archive: source.Source, held. Args and errors: as for `check`; `rules` is source.Rules."""
    from cct_tf.data import splits
    from cct_tf.readers import tensors
    from cct_tf.readers.held import Held

    contents = check(config, rules.npz_validation, arrays)
    tensors.require_memory(2 * contents.num_bytes, config.data_dir)  # twice: NumPy reads an array as a whole
    subsets, narrow = {}, []
    for split, labels in contents.labels.items():
        with _reading(config.data_dir), _open(config.data_dir, arrays) as archive:
            images = archive[contents.images[split]]
        narrow += [contents.images[split]] * (images.dtype == np.uint8)
        kind = pixel_type.of_config(config)
        held = tensors.empty_images([*images.shape[:3], kind.channels], kind.dtype)
        for start in range(0, len(images), _BLOCK):
            block = images[start:start + _BLOCK]
            held[start:start + _BLOCK] = pixel_type.levels_of(kind, block[..., None] if block.ndim == 3 else block)
        held = tensors.as_tensor(held)
        subsets[split] = splits.Subset(lambda indices, held=held: Held(held, indices),
                                       np.arange(len(labels)), labels)
    notes = contents.notes
    if config.bits == 16 and 0 < len(narrow) < len(subsets):
        notes += (f"{' and '.join(narrow)}: 8 bits, other images 16; a level l of 8 bits becomes 257 l",)
    return splits.indexed_source(config, rules, contents.class_names, subsets, notes=notes)


def _keys(path, present, config, with_validation):
    """({split: (key of the images, key of the labels)}, lines for the plan)."""
    keys = dict(_MEDMNIST if _MEDMNIST["train"][0] in present and _OURS["train"][0] not in present else _OURS)
    notes, validation = (), keys["validation"]
    if not with_validation or not set(validation) & set(present):
        del keys["validation"]
    elif config.fold:
        raise UserError(f"--fold: expected no validation split beside the folds, found {validation[0]} in {path}")
    elif config.validation_fraction:
        notes = (f"{validation[0]} is not used: --validation_fraction holds out training images instead",)
        del keys["validation"]
    for key in (key for pair in keys.values() for key in pair):
        if key not in present:
            expected = ", ".join(key for pair in keys.values() for key in pair)
            raise UserError(f"{path}: expected the keys {expected}, found no {key}" + nearest(key, present))
    return keys, notes


class _Given(dict):
    """Arrays by key, as an archive has them."""

    @property
    def files(self):
        return list(self)


def _open(path, arrays=None):
    if arrays is not None:
        return contextlib.nullcontext(_Given({key: np.asarray(value) for key, value in arrays.items()}))
    archive = np.load(files.local(path), allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{path}: expected an .npz archive with the keys {', '.join(KEYS)}, found a single array")
    return archive


@contextlib.contextmanager
def _reading(path):
    """Turn what NumPy and zipfile raise on a file that is no sound archive into a UserError."""
    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if files.is_remote(path) and storage_fault(error):
            raise  # the server's: worth another try
        raise UserError(f"{path}: expected a sound .npz archive without pickled objects, found: "
                        f"{' '.join(str(error).split())[:120]}") from error


def _header(archive, key):
    """(shape, dtype) of an array without reading it."""
    if isinstance(archive, _Given):
        return archive[key].shape, archive[key].dtype
    with archive.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _image_shape(path, archive, key, kind):
    shape, dtype = _header(archive, key)
    if dtype != np.uint8 and not (dtype == np.uint16 and kind.bits == 16):
        hint = {"f": f" (multiply images in 0-1 by {kind.white} and round)",
                "u": " (--bits=16 keeps 16 bits)" if dtype == np.uint16 else ""}.get(dtype.kind, "")
        raise UserError(f"{path}: {key}: expected uint8{' or uint16' * (kind.bits == 16)}, found {dtype}{hint}")
    if kind.is_colour_or_grey:
        fits, expected = len(shape) == 3 or shape[3:] in ((1,), (3,)), "[n, H, W], [n, H, W, 1] or [n, H, W, 3]"
    else:
        fits, expected = shape[3:] == (kind.channels,), f"[n, H, W, {kind.channels}]"
    if not fits or 0 in shape:
        hint = f" (--channels={shape[3]} takes them as they are)" if len(shape) == 4 and shape[3] > 1 else ""
        raise UserError(f"{path}: {key}: expected the shape {expected}, found {list(shape)}{hint}")
    return shape


def _size(shape):
    return f"{shape[1]}x{shape[2]}"


def _labels(path, archive, key, number):
    """int32 [n], checked."""
    labels = archive[key]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {key}: expected integers, found {labels.dtype}")
    if labels.shape not in ((number,), (number, 1)):
        raise UserError(f"{path}: {key}: expected the shape [{number}] or [{number}, 1], as many as images, found "
                        f"{list(labels.shape)}{_several(labels, number)}")
    if labels.min() < 0 or labels.max() > 2**31 - 1:
        raise UserError(f"{path}: {key}: expected labels from 0 on, found {labels.min()} to {labels.max()}")
    return labels.reshape(number).astype(np.int32)


def _several(labels, number):
    """A hint on labels [n, K]."""
    if labels.ndim != 2 or len(labels) != number:
        return ""
    if labels.min() >= 0 and (labels.sum(axis=1) == 1).all():
        return " (of one-hot labels give the argmax)"
    return " (several labels an image, as in ChestMNIST, are --task=multilabel)"


def _label_matrix(path, archive, key, number):
    """uint8 [n, K], checked."""
    labels = archive[key]
    if labels.ndim != 2 or len(labels) != number or labels.shape[1] < 2:
        raise UserError(f"{path}: {key}: expected the shape [{number}, K] with --task=multilabel, a column for each of "
                        f"two or more classes, found {list(labels.shape)}")
    wrong = np.argwhere((labels != 0) & (labels != 1)) if labels.dtype.kind in "iubf" else [(0, 0)]
    if len(wrong):
        row, column = wrong[0]
        raise UserError(f"{path}: {key}: expected 0 and 1 with --task=multilabel, found {labels[row, column]} in row "
                        f"{row}, column {column} (from 0)")
    return labels.astype(np.uint8)


def _class_names(path, archive, labels, key):
    """The names given, or the numbers from 0 to the largest training label."""
    number = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    missing = label_kinds.missing(labels, number)
    if len(missing):
        raise UserError(f"{path}: {key}: expected an image of every class from 0 to {number - 1}, found none of "
                        f"{missing[0]}")
    if "class_names" not in archive.files:
        return tuple(str(label) for label in range(number))
    names = archive["class_names"]
    if names.shape != (number,) or names.dtype.kind not in "US":
        raise UserError(f"{path}: class_names: expected {number} strings, found {names.dtype} {list(names.shape)}")
    return tuple(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
                 for name in names.tolist())
