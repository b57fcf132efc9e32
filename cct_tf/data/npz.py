"""`--dataset=npz`: one NumPy archive with x_train, y_train, x_test, y_test, as keras.datasets uses to make them.

    x    uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3]
    y    integers [n] or [n, 1], from 0
    class_names    strings [K], optional

`check` looks at the file without TensorFlow and without reading the images.
"""

import dataclasses
import os
import zipfile
import zlib

import numpy as np

from cct_tf.data import holding_out
from cct_tf.errors import UserError, nearest

KEYS = ("x_train", "y_train", "x_test", "y_test")
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Contents:
    """What an archive holds, less the pixels.

    Attributes:
        labels: dict of int32 [n] by "train", "test".
        class_names: tuple of K strings.
        num_bytes: size of all the images as [n, H, W, 3] uint8.
    """

    labels: dict
    class_names: tuple
    num_bytes: int


def check(config):
    """Judge an archive by its labels and the headers of its images.

    Args:
        config: DataConfig.

    Returns:
        Contents.

    Raises:
        UserError: naming the file, the key, what was expected and what was found.
    """
    path = config.data_dir
    if not path:
        raise UserError("--data_dir: expected an .npz file with --dataset=npz, found nothing")
    if not os.path.isfile(path):
        raise UserError(f"--data_dir: expected an .npz file, found "
                        f"{'a folder' if os.path.isdir(path) else 'nothing'} at {path}")
    with _reading(path), _open(path) as archive:
        for key in KEYS:
            if key not in archive.files:
                raise UserError(f"{path}: expected the keys {', '.join(KEYS)}, found no {key}"
                                + nearest(key, archive.files))
        shapes = {split: _image_shape(path, archive, f"x_{split}") for split in ("train", "test")}
        if shapes["train"][1:3] != shapes["test"][1:3]:
            raise UserError(f"{path}: x_test: expected images of {_size(shapes['train'])} as in x_train, found "
                            f"{_size(shapes['test'])}")
        labels = {split: _labels(path, archive, f"y_{split}", shapes[split][0]) for split in ("train", "test")}
        class_names = _class_names(path, archive, labels["train"])
    unknown = np.setdiff1d(labels["test"], labels["train"])
    if len(unknown):
        raise UserError(f"{path}: y_test: expected the classes of y_train, found {unknown[0]}")
    if config.validation_fraction:
        holding_out.check(np.bincount(labels["train"]), config.validation_fraction, rule=2)  # what it refuses, all do
    number = shapes["train"][0] + shapes["test"][0]
    contents = Contents(labels, class_names, number * shapes["train"][1] * shapes["train"][2] * 3)
    if contents.num_bytes > config.in_memory_gib * _GIB:
        raise UserError(f"--in_memory_gib: expected at least {contents.num_bytes / _GIB:.2f}, the size of the images "
                        f"in {path} (an .npz is always held in memory), found {config.in_memory_gib:g}")
    return contents


def open_npz(config, rules):
    """Open an archive: source.Source, held. Args and errors: as for `check`; `rules` is source.Rules."""
    from cct_tf.data import loading, source, splits

    contents = check(config)
    loading.require_memory(2 * contents.num_bytes, config.data_dir)  # twice: NumPy reads an array as a whole
    parts = {}
    for split, labels in contents.labels.items():
        with _reading(config.data_dir), _open(config.data_dir) as archive:
            images = archive[f"x_{split}"]
        held = loading.empty_images([*images.shape[:3], 3])
        held[:] = images[..., None] if images.ndim == 3 else images
        held = loading.as_tensor(held)
        parts[split] = splits.Part(lambda indices, held=held: source.Held(held, indices),
                                   np.arange(len(labels)), labels)
    return splits.indexed_source(config, rules, contents.class_names, parts)


def _open(path):
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{path}: expected an .npz archive with the keys {', '.join(KEYS)}, found a single array")
    return archive


class _reading:  # noqa: N801 (a context manager, used like a function)
    """Turn what NumPy and zipfile raise on a file that is no sound archive into a UserError."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)):
            raise UserError(f"{self.path}: expected a sound .npz archive without pickled objects, found: "
                            f"{' '.join(str(error).split())[:120]}") from error


def _header(archive, key):
    """(shape, dtype) of an array without reading it."""
    with archive.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _image_shape(path, archive, key):
    shape, dtype = _header(archive, key)
    if dtype != np.uint8:
        hint = " (multiply images in 0-1 by 255 and round)" if dtype.kind == "f" else ""
        raise UserError(f"{path}: {key}: expected uint8, found {dtype}{hint}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape:
        raise UserError(f"{path}: {key}: expected the shape [n, H, W], [n, H, W, 1] or [n, H, W, 3], found "
                        f"{list(shape)}")
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
                        f"{list(labels.shape)}")
    if labels.min() < 0 or labels.max() > 2**31 - 1:
        raise UserError(f"{path}: {key}: expected labels from 0 on, found {labels.min()} to {labels.max()}")
    return labels.reshape(number).astype(np.int32)


def _class_names(path, archive, labels):
    """The names given, or the numbers from 0 to the largest training label."""
    number = int(labels.max()) + 1
    present = np.unique(labels)
    if len(present) < number:
        missing = int(np.argmax(present != np.arange(len(present))))
        raise UserError(f"{path}: y_train: expected an image of every class from 0 to {number - 1}, found none of "
                        f"{missing}")
    if "class_names" not in archive.files:
        return tuple(str(label) for label in range(number))
    names = archive["class_names"]
    if names.shape != (number,) or names.dtype.kind not in "US":
        raise UserError(f"{path}: class_names: expected {number} strings, found {names.dtype} {list(names.shape)}")
    return tuple(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
                 for name in names.tolist())
