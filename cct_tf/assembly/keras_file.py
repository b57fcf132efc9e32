"""Networks in .keras files. They are read in safe mode, so no code in a file is run."""

import os
import warnings

import keras

from cct_tf.errors import UserError
from cct_tf.models import own
from cct_tf.models.classifier import TransformerClassifier


def save(model, path):
    """Write a network, atomically.

    Args:
        model: a model of `create_model`, or `own.OwnNetwork`.
        path: pathlib.Path that ends in .keras; a file that is there is replaced.
    """
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        model.save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path):
    """Read a network of cct_tf.

    Args:
        path: a .keras file that `save`, or `model.save`, wrote.

    Returns:
        `CCT` or `ViT`.

    Raises:
        UserError: the file can't be read, or holds no network of cct_tf.
    """
    model = load_any(path)
    if not isinstance(model, TransformerClassifier):
        raise UserError(f"{path}: expected a network of cct_tf, found a {type(model).__name__}")
    return model


def load_any(path):
    """Read a network of cct_tf, or one of Keras' own layers: a keras.Model. Raises UserError if it can't be read."""
    import cct_tf.models.cct
    import cct_tf.models.vit  # noqa: F401  registered, so that Keras finds them
    model = _load(path)
    # The head is built last; the model's own `built` is true even where it could not be.
    if isinstance(model, TransformerClassifier) and not model.head.built:
        raise UserError(f"{path}: expected a .keras file that can be read, found another (a network that can't be "
                        "built)")
    if not isinstance(model, keras.Model):
        raise UserError(f"{path}: expected a .keras file of a keras.Model, found a {type(model).__name__}")
    return model


def load_own(path, value, flag, num_classes, image_size, channels):
    """Read a network of a user's own. Its code is run, as the flags of a run name it.

    Args:
        path: a .keras file that `save` wrote.
        value: str that names its code, such as ./mine.py:build.
        flag: the flag that names the file, without dashes, for messages.
        num_classes, image_size, channels: of the network.

    Returns:
        `own.OwnNetwork`.

    Raises:
        UserError: the file can't be read; there is no such code, or it raises an error.
    """
    return own.OwnNetwork(_load(path, own.classes_of(value, flag)), value, num_classes, image_size, channels)


def _load(path, classes=None):
    """The keras.Model of a file; `classes` by name that it may be made of, beside Keras' and registered ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras says in many lines that it could not build the network
            return keras.models.load_model(path, custom_objects=classes, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly anything on a file that is not its own
        reason = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path}: expected a .keras file that can be read, found another ({reason[0][:200]})") from None
