"""The networks: `create_model` makes one, `list_models` names them.

Loads lazily: the table of names (`cct_tf.models.variants`) must be readable without importing TensorFlow.
To load a `.keras` file in a new process, import the classes first: `import cct_tf.models.cct, cct_tf.models.vit`.
"""

import importlib

_LAZY = {"create_model": "cct_tf.models.create", "list_models": "cct_tf.models.variants"}
__all__ = list(_LAZY)


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cct_tf.models' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
