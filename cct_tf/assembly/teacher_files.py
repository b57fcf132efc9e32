"""Teachers from files: what `cct_tf.export` wrote, other .keras files, and weights of the authors' code.

As much as possible is judged without TensorFlow. Legend: H W C height, width and channels of the network's images,
K classes.
"""

import collections.abc
import contextlib
import dataclasses
import itertools
import os
import zipfile

import numpy as np

from cct_tf import sizes
from cct_tf.convert import matching
from cct_tf.convert.state import read_state
from cct_tf.errors import UserError
from cct_tf.machine import own_code
from cct_tf.models import variants
from cct_tf.runs import export_metadata
from cct_tf.settings import config as config_lib

_STATES = {"model": "cct_tf.convert_torch --state=model", "ema": "cct_tf.convert_torch --state=ema"}
_TOLERANCE = 1e-3  # of a probability; those of another network differ by far more


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network that was found, not loaded.

    Attributes:
        path: str.
        load: function of the number of classes of the run -> its network, which is called as a
            `classifier.TransformerClassifier` in evaluation and has `weights`, `variant` and `image_size` (None if it
            takes any). Imports TensorFlow; raises UserError.
        classes: tuple of the names of its classes; empty if they are not known.
        mean, std: of the pixels that it was trained on, as --mean and --std; None if they are not known.
    """

    path: str
    load: collections.abc.Callable
    classes: tuple = ()
    mean: tuple | None = None
    std: tuple | None = None


def find(path, config):
    """The `Teacher` of a file, or of the folder of a SavedModel.

    Args:
        path: str; there is something.
        config: `config.Config` of the student.

    Raises:
        UserError: it can't be read, or its images are of another kind than the run's.
    """
    if os.path.isdir(path):
        metadata = _described(path, "saved_model", config)
        return _of(path, metadata, lambda classes: _from_saved_model(path, metadata))
    if not path.endswith(".keras"):
        return _in_torch_file(path, config)
    if not zipfile.is_zipfile(path):
        raise UserError(f"--teacher: expected a .keras file, a zip archive, found another file at {path!r}")
    with zipfile.ZipFile(path) as archive:
        is_export = export_metadata.NAME in archive.namelist()
    if not is_export:
        return Teacher(path, lambda classes: _from_keras_file(path, classes, config))
    metadata = _described(path, "keras", config)
    return _of(path, metadata, lambda classes: _from_export(path, metadata))


def check_kind(path, found, config):
    """Raise UserError if a teacher takes other images, or answers another question, than the student.

    Args:
        path: str, of the teacher.
        found: dict of the flags task, channels and bits that it was trained with, of those that are known.
        config: `config.Config` of the student.
    """
    for flag, theirs in found.items():
        if theirs != config.value(flag):
            raise UserError(f"--teacher: expected one trained with --{flag}={config.value(flag)}, as this run, found "
                            f"{path} with {theirs}")


def _described(path, kind, config):
    """`export_metadata.Metadata` of an export."""
    metadata = export_metadata.read("--teacher", path, kind)
    check_kind(path, {flag: getattr(metadata, flag) for flag in ("task", "channels", "bits")}, config)
    return metadata


def _of(path, metadata, load):
    return Teacher(path, load, tuple(metadata.classes), tuple(metadata.mean), tuple(metadata.std))


def _from_export(path, metadata):
    """The network of a .keras file that `cct_tf.export` wrote."""
    from cct_tf.assembly import keras_file
    with _named():
        if own_code.is_named(metadata.model):
            return keras_file.load_own(path, metadata.model, "teacher", len(metadata.classes), metadata.image_size,
                                       metadata.channels)
        return keras_file.load(path)


@contextlib.contextmanager
def _named():
    """Errors about a file name the flag too."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--teacher: {str(error).removeprefix('--teacher: ')}") from None


def _from_keras_file(path, num_classes, config):
    """The network of a .keras file that is no export."""
    from cct_tf.assembly import checks, keras_file
    from cct_tf.models import own
    from cct_tf.models.classifier import TransformerClassifier
    with _named():
        model = keras_file.load_any(path)
    if isinstance(model, TransformerClassifier):
        network, size, channels = model, model.image_size, model.channels
    else:
        height, width, channels = _input_shape(path, model)
        size = None if None in (height, width) else sizes.as_size((height, width))
        network = own.OwnNetwork(model, path, num_classes, size, channels)
    check_kind(path, {"channels": channels} if channels else {}, config)
    _check_logits(path, network, size or checks.shape_of(config).image_size, config.data.channels, num_classes)
    return network


def _input_shape(path, model):
    """(H, W, C) of a keras.Model of images; H and W, or C, are None where it takes any."""
    inputs = model.inputs or ()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = ", ".join(str(list(each.shape)) for each in inputs) or "no inputs that are known"
        raise UserError(f"--teacher: expected a network of images [B, H, W, C], found one of {found} in {path}")
    return tuple(inputs[0].shape[1:])


def _check_logits(path, network, size, channels, num_classes):
    """Raise UserError unless a network gives logits of the classes, tried on two images of noise."""
    images = np.random.default_rng(0).standard_normal([2, *sizes.sides(size), channels], np.float32)
    try:
        logits = np.asarray(network(images, training=False))
    except Exception as error:  # of any layer
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--teacher: expected a network of images of {sizes.shown(size)} pixels, found another in "
                        f"{path} ({reason})") from None
    if logits.shape != (2, num_classes):
        raise UserError(f"--teacher: expected logits of the {num_classes} classes of this run, found an output of "
                        f"shape {list(logits.shape)} for 2 images in {path}")
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise UserError(f"--teacher: expected logits, found probabilities in {path}; leave its softmax out")


def _in_torch_file(path, config):
    """The `Teacher` of weights of the authors' code, whose network their shapes tell."""
    with _named():
        state = read_state(path, arguments=_STATES)
        variant = matching.infer(state, "--teacher", "make it a work folder by cct_tf.convert_torch --model=NAME")
        count = matching.num_classes(state)
        match = matching.match(state, variant, count)
    check_kind(path, {"channels": variant.channels}, config)

    def load(num_classes):
        from cct_tf.convert import weights
        from cct_tf.models.create import build
        if count != num_classes:
            raise UserError(f"--teacher: expected logits of the {num_classes} classes of this run, found {count} in "
                            f"{path}")
        model = build(variant, count)
        weights.assign(model, match)
        return model

    return Teacher(path, load)


def _from_saved_model(path, metadata):
    """The network of a SavedModel that `cct_tf.export` wrote, built anew with its weights.

    The description names the network, not what flags made different in it: of those that the weights fit, it is the one
    that gives the probabilities of the SavedModel.
    """
    arrays, serve = _read_saved_model(path)
    images = _noise(metadata)
    expected = serve(images=images)["probabilities"].numpy()
    for model in _networks(metadata):
        if [tuple(variable.shape) for variable in model.variables] != [array.shape for array in arrays]:
            continue
        for variable, array in zip(model.variables, arrays, strict=True):
            variable.assign(array)
        if np.allclose(_probabilities(model, metadata, images), expected, atol=_TOLERANCE):
            return model
    raise UserError(f"--teacher: expected the network {metadata.model} of {len(metadata.classes)} classes, found "
                    f"another in {path}")


def _read_saved_model(path):
    """(list of its arrays, the function that it serves) of a SavedModel that `cct_tf.export` wrote."""
    import tensorflow as tf
    try:
        reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
        count = sum(name.startswith("weights/") for name in reader.get_variable_to_shape_map())
        arrays = [reader.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE") for index in range(count)]
        return arrays, tf.saved_model.load(path).signatures["serving_default"]
    except Exception as error:  # TensorFlow raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--teacher: expected a SavedModel that can be read, found another at {path!r} ({reason})"
                        ) from None


def _noise(metadata):
    """Two images [2, H, W, C] of random levels, a tensor."""
    import tensorflow as tf
    shape, dtype = [2, *sizes.sides(metadata.image_size), metadata.channels], metadata.pixel_type.dtype
    return tf.constant(np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True))


def _networks(metadata):
    """The networks that a description may mean, the one of its name first."""
    from cct_tf.assembly import networks
    fields = {"model": metadata.model, "image_size": metadata.image_size, "channels": metadata.channels}
    if own_code.is_named(metadata.model):
        with _named():
            yield networks.build_model(config_lib.from_dict(fields), len(metadata.classes))
        return
    plain = variants.resolve(metadata.model)
    positions = (plain.positional_embedding, *variants.POSITIONAL_EMBEDDINGS)
    orders = (plain.norm_order, "authors", "pre")
    for position, order, norm in dict.fromkeys(itertools.product(positions, orders, (False, True))):
        settings = config_lib.from_dict(
            fields | {"positional_embedding": position, "norm_order": order, "qk_norm": norm})
        with contextlib.suppress(UserError):  # not every network has each
            yield networks.build_model(settings, len(metadata.classes))


def _probabilities(model, metadata, images):
    """As the exported function gives them."""
    import tensorflow as tf

    from cct_tf.augment import image_ops
    from cct_tf.policies.rand_augment import mean_levels
    fill = mean_levels(metadata.mean, metadata.pixel_type)
    prepared = image_ops.fit(images, metadata.image_size, metadata.fit, metadata.crop_pct, fill)
    logits = model(image_ops.normalize(prepared, metadata.mean, metadata.std), training=False)
    return tf.nn.softmax(logits).numpy()
