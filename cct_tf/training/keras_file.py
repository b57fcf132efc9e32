"""Whole networks in .keras files, read with safe mode on: no code of the file's own."""

import os
import zipfile

import keras

from cct_tf.errors import UserError
from cct_tf.models.classifier import TransformerClassifier


def save(model, path):
    """Write a network whole or not at all.

    Args:
        model: a model of `create_model`.
        path: pathlib.Path that ends in .keras; a file that is there is replaced.
    """
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        model.save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path):
    """Read a network of ours.

    Args:
        path: a .keras file that `save`, or `model.save`, wrote.

    Returns:
        `CCT` or `ViT`.

    Raises:
        UserError: the file can't be read, or holds no network of cct_tf.
    """
    import cct_tf.models.cct
    import cct_tf.models.vit  # noqa: F401  registered, so that Keras finds them
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected a .keras file that can be read, found another "
                        f"({str(error).splitlines()[0][:200]})") from None
    if not isinstance(model, TransformerClassifier):
        raise UserError(f"{path}: expected a network of cct_tf, found a {type(model).__name__}")
    return model
