"""The formats of exports: suffixes, packages, tolerances. No TensorFlow here."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib

from cct_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of exports.

    Attributes:
        name: the value of --format.
        suffix: of the file; "" for a folder.
        writes_with: packages, by the names to import, that writing and checking an export needs beside those of
            training.
        reads_with: those that running an export needs.
        tolerance: largest allowed difference of a probability from the network's, if nothing is quantised.
    """

    name: str
    suffix: str
    writes_with: tuple
    reads_with: tuple
    tolerance: float


FORMATS = {each.name: each for each in (
    Format("saved_model", "", (), (), 1e-5),
    Format("keras", ".keras", (), (), 1e-5),
    Format("litert", ".tflite", ("ai_edge_litert",), ("ai_edge_litert",), 1e-4),
    Format("onnx", ".onnx", ("tf2onnx", "onnx", "onnxruntime"), ("onnxruntime",), 1e-5),
)}


def of_path(flag, path):
    """The Format of an existing export, by its path.

    Args:
        flag: the flag that names it, with dashes.
        path: text.

    Raises:
        UserError: there is nothing, or no export.
    """
    found = pathlib.Path(path)
    if not os.path.exists(path):
        raise UserError(f"{flag}: expected what cct_tf.export wrote, found nothing at {path!r}")
    if os.path.isdir(path):
        if not os.path.isfile(found / "saved_model.pb"):
            raise UserError(f"{flag}: expected the folder of a SavedModel, found no saved_model.pb in {path!r}")
        return FORMATS["saved_model"]
    for each in FORMATS.values():
        if each.suffix and found.suffix == each.suffix:
            return each
    suffixes = ", ".join(each.suffix for each in FORMATS.values() if each.suffix)
    raise UserError(f"{flag}: expected the folder of a SavedModel or a file that ends in {suffixes}, found {path!r}")


@contextlib.contextmanager
def images_help():
    """Context manager that adds to errors about the data set that images can be named instead."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; without the data set, name images to compare with: IMAGE|FOLDER|PATTERN") from None


def require(flag, packages):
    """Raise UserError if one of `packages` (names to import) is not installed; `flag` is the flag that needs them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{flag}: expected {', '.join(packages)} to be installed, found no {', '.join(missing)}; pip "
                        "install -r launch/requirements-export.txt, or the extra cct-tf[export]")
