"""Whole networks in .keras files, read with safe mode on: no code of the file's own."""

import os
import warnings

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras says in many lines that it could not build the network
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # on its way through a foreign file Keras raises nearly anything
        reason = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path}: expected a .keras file that can be read, found another ({reason[0][:200]})") from None
    if not isinstance(model, TransformerClassifier):
        raise UserError(f"{path}: expected a network of cct_tf, found a {type(model).__name__}")
    if not model.head.built:  # the last part; of the whole, `built` is true all the same
        raise UserError(f"{path}: expected a .keras file that can be read, found another (a network that can't be "
                        "built)")
    return model
