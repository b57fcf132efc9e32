"""Whether what is being traced will be compiled by XLA: some layers then take a form that XLA is fast at."""

import contextlib
import contextvars

_compiling = contextvars.ContextVar("compiling", default=False)


@contextlib.contextmanager
def compiling():
    """Put it around a call that `tf.function(jit_compile=True)` traces."""
    token = _compiling.set(True)
    try:
        yield
    finally:
        _compiling.reset(token)


def is_compiling():
    """Whether this is inside `compiling()`. Results are the same up to rounding either way."""
    return _compiling.get()
