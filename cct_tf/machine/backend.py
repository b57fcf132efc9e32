"""Keras with TensorFlow's backend, or an error that says so. Keras chooses its backend for good at its first import.

    from cct_tf.machine.backend import keras    instead of `import keras`, in what users import: layers and models

`import cct_tf` sets KERAS_BACKEND where it is not set (`prefer_tensorflow`), so a keras.json has no effect.
"""

import importlib
import os
import sys

from cct_tf.errors import UserError


def prefer_tensorflow():
    """Set KERAS_BACKEND to tensorflow if it is not set and Keras is not imported yet."""
    if "keras" not in sys.modules and not os.environ.get("KERAS_BACKEND"):
        os.environ["KERAS_BACKEND"] = "tensorflow"


def check():
    """Refuse another Keras backend by name, before TensorFlow is imported; set ours where none is named.

    Raises:
        UserError: KERAS_BACKEND names another backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UserError(f"KERAS_BACKEND: expected tensorflow or nothing, found {backend!r}")
    os.environ["KERAS_BACKEND"] = backend


def _keras():
    """The module, running on TensorFlow, or UserError."""
    if "keras" not in sys.modules:
        check()
    hint = "set KERAS_BACKEND=tensorflow, or import cct_tf before TensorFlow and Keras"
    try:
        keras = importlib.import_module("keras")
    except (ImportError, ValueError) as error:  # a first import, with another backend, has failed: Keras remembers
        raise UserError(f"Keras: expected one that runs on TensorFlow, found an import that fails ({error}); "
                        f"{hint}") from error
    if keras.config.backend() != "tensorflow":
        raise UserError(f"Keras: expected one that runs on TensorFlow, found it imported with the backend "
                        f"{keras.config.backend()!r}; {hint}")
    return keras


def __getattr__(name):
    if name == "keras":
        return _keras()
    raise AttributeError(f"module 'cct_tf.machine.backend' has no attribute {name!r}")
