"""Whether what is being traced will be compiled by XLA, and for what: some layers then take a form that it is fast at.

Results are the same up to rounding in either form.
"""

import contextlib
import contextvars

from tensorflow.compiler.tf2xla.ops import gen_xla_ops

_compiling = contextvars.ContextVar("compiling", default=None)


@contextlib.contextmanager
def compiling(kind):
    """Put it around a call that `tf.function(jit_compile=True)` traces.

    Args:
        kind: "CPU" or "GPU", what it will run on; None for the layers' plain forms.
    """
    token = _compiling.set(kind)
    try:
        yield
    finally:
        _compiling.reset(token)


def is_compiling(kind=None):
    """Whether this is inside `compiling(kind)`, or inside any if kind is None."""
    found = _compiling.get()
    return found is not None if kind is None else found == kind


def barrier(x):
    """The tensor as it is. XLA stores it, and changes nothing across: for code that XLA compiles alone."""
    return gen_xla_ops.xla_optimization_barrier(input=[x])[0]
