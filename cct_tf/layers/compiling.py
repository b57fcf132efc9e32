"""Tells layers, while they are traced, that XLA will compile them, and for which kind of device.

Some layers have a second form that XLA makes faster programs of. Both forms give the same results up to rounding.
"""

import contextlib
import contextvars

from tensorflow.compiler.tf2xla.ops import gen_xla_ops

_compiling = contextvars.ContextVar("compiling", default=None)


@contextlib.contextmanager
def compiling(kind):
    """A context for code that `tf.function(jit_compile=True)` traces: layers called in it take their forms for XLA.

    Args:
        kind: "CPU" or "GPU", where the program will run; None keeps the layers' plain forms.
    """
    token = _compiling.set(kind)
    try:
        yield
    finally:
        _compiling.reset(token)


def is_compiling(kind=None):
    """Whether the caller is within `compiling(kind)`; with kind None, within `compiling` for any device."""
    found = _compiling.get()
    return found is not None if kind is None else found == kind


def barrier(x):
    """The tensor, unchanged: XLA stores it and simplifies nothing across it. Only for code that XLA compiles."""
    return gen_xla_ops.xla_optimization_barrier(input=[x])[0]
