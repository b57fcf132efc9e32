"""cct_tf: Compact Convolutional Transformers (arXiv:2104.05704), trained from scratch with TensorFlow.

`import cct_tf` is light: TensorFlow is imported by the first name that needs it. From Python:

    import cct_tf
    run = cct_tf.run(flagfile="configs/quickstart.cfg", workdir="runs/first")    trains; cct_tf.load(workdir) looks
    model = cct_tf.create_model("cct_2_3x2_32", num_classes=10)
    names = cct_tf.list_models()
"""

import importlib

from cct_tf.machine import backend

__version__ = "0.1.0"

_LAZY = {"create_model": "cct_tf.models", "list_models": "cct_tf.models", "load": "cct_tf.api", "run": "cct_tf.api",
         "stop": "cct_tf.api"}
__all__ = ["__version__", *_LAZY]


backend.prefer_tensorflow()


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cct_tf' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
