"""The description in every export: classes, how to prepare images, where the weights are from. No TensorFlow here.

It is one JSON object, stored where other tools ignore it:

    SavedModel       assets.extra/cct_tf.json
    .keras           cct_tf.json, another entry of the zip archive
    .tflite          cct_tf.json and labels.txt in a zip archive behind the flatbuffer, as in TFLite Metadata
    .onnx            metadata_props: cct_tf, and the class names as JSON under `classes`
"""

import dataclasses
import json
import math
import pathlib
import zipfile

from cct_tf import sizes
from cct_tf.errors import UserError
from cct_tf.images.pixel_type import PixelType

NAME = "cct_tf.json"
KEY = "cct_tf"
LABELS = "labels.txt"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The description of an export.

    Attributes:
        classes: list of K names, in the order of the probabilities.
        image_size: int, side of the network's input, or (height, width), see `cct_tf.sizes`.
        crop_pct: float, see `image_ops.center_fit`.
        mean, std: lists of one float, or of one a channel, of levels as shares of the highest.
        model: name of the network.
        checkpoint: name of the checkpoint's folder.
        step: int, of the checkpoint.
        weights: "raw", "ema" or "average".
        quantize: "none" or "int8".
        cct_tf: version of cct_tf that wrote the export.
        bit_depth: int, bits per channel that images of more than 8 bits use, see `cct_tf.images.decode`.
        resampler: "matrix" or "pillow", what brought the images of the run to size, see `cct_tf.augment`. The graph of
            a SavedModel always does it by matrices; its pixels are at most one level from Pillow's.
        task: "single", or "multilabel": the probability of each class is by itself, and an image has those that reach
            their thresholds. Not written for "single".
        thresholds: list of K floats with "multilabel"; else None.
        fit: "crop", "pad" or "stretch", how images come to size, see `image_ops.fit`. Not written for "crop".
        channels: int, of the images the export takes: 3, 1 for grey, or another number. Not written for 3.
        bits: 8, or 16: it takes uint16. Not written for 8.
    """

    classes: list
    image_size: int | tuple
    crop_pct: float
    mean: list
    std: list
    model: str
    checkpoint: str
    step: int
    weights: str
    quantize: str
    cct_tf: str
    bit_depth: int = 16
    resampler: str = "matrix"
    task: str = "single"
    thresholds: list | None = None
    fit: str = "crop"
    channels: int = 3
    bits: int = 8

    @property
    def is_multilabel(self):
        return self.task == "multilabel"

    @property
    def pixel_type(self):
        """`pixel_type.PixelType` of the images that the export takes."""
        return PixelType(self.channels, self.bits)

    def as_json(self):
        values = dataclasses.asdict(self)
        if not self.is_multilabel:
            del values["task"], values["thresholds"]
        if self.fit == "crop":
            del values["fit"]
        if self.channels == 3:
            del values["channels"]
        if self.bits == 8:
            del values["bits"]
        return json.dumps({"format": 1} | values, indent=1)


def parse(text):
    """The Metadata in a text of `as_json`. Raises ValueError or TypeError for any other text."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.pop("format", None) != 1:
        raise ValueError("not of format 1")
    values["image_size"] = sizes.as_size(values.get("image_size"))
    found = Metadata(**values)
    strings = (*found.classes, found.model, found.checkpoint, found.weights, found.quantize)
    numbers = (found.crop_pct, *found.mean, *found.std)
    if not found.classes or not all(isinstance(each, str) for each in strings):
        raise ValueError("no names of classes")
    if not isinstance(found.bit_depth, int) or not 8 <= found.bit_depth <= 31:
        raise ValueError("no depth of images")
    if found.resampler not in ("matrix", "pillow"):
        raise ValueError("no resampler of images")
    if type(found.channels) is not int or found.channels < 1 or found.bits not in (8, 16):
        raise ValueError("no channels of images")
    if found.fit not in ("crop", "pad", "stretch"):
        raise ValueError("no way of images to their size")
    if found.task not in ("single", "multilabel") or found.is_multilabel and (
            len(found.thresholds) != len(found.classes) or not all(0 <= each <= 1 for each in found.thresholds)):
        raise ValueError("no thresholds of the classes")
    sides = sizes.sides(found.image_size)
    if len(sides) != 2 or not all(type(side) is int for side in sides):
        raise ValueError("no size of images")
    if not all(map(math.isfinite, numbers)) or found.crop_pct > 1:
        raise ValueError("no preparation of images")
    if not min(*sides, found.crop_pct, *found.std) > 0 or not len(found.mean) == len(found.std) in (1, found.channels):
        raise ValueError("no preparation of images")
    return found


def add_to_zip(metadata, path, labels=False):
    """Add the description to a zip archive, or append an archive to another file; `labels` adds the class names."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(NAME, metadata.as_json())
        if labels:
            archive.writestr(LABELS, "".join(f"{name}\n" for name in metadata.classes))


def read(flag, path, kind):
    """The Metadata of an export.

    Args:
        flag: the flag that names it, with dashes.
        path: text.
        kind: name of its `formats.Format`.

    Raises:
        UserError: it can't be read, or `cct_tf.export` did not write it.
    """
    try:
        return parse(_text(pathlib.Path(path), kind))
    except Exception as error:  # zipfile, json and onnxruntime raise many kinds
        reason = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{flag}: expected what cct_tf.export wrote, found {path!r} without a description of its own "
                        f"that can be read ({reason[0][:200]})") from None


def _text(path, kind):
    if kind == "saved_model":
        return (path / "assets.extra" / NAME).read_text(encoding="utf-8")
    if kind == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map[KEY]
    with zipfile.ZipFile(path) as archive:
        return archive.read(NAME).decode()
