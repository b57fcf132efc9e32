"""Python functions in graphs: `tf.numpy_function`, without the hang that it may end a process with.

A data set's iterator waits, when it is deleted, for the calls that are under way. Deleted while the interpreter shuts
down it waits for ever: no thread gets the interpreter's lock any more. So before the shutdown begins calls are refused,
and those under way end. Where others keep coming, as with a long buffer to fill, the iterators are not deleted at all.
"""

import atexit
import ctypes
import gc
import threading
import time

import tensorflow as tf

_QUIET, _LONGEST = 0.05, 1.0  # seconds without a call that count as the end of them, and seconds to wait at most

_lock = threading.Lock()
_under_way, _last, _is_over = 0, 0.0, False


def call(function, inputs, dtype, stateful=False):
    """As `tf.numpy_function`; `function` gets and gives NumPy arrays."""
    def guarded(*arrays):
        _enter()
        try:
            return function(*arrays)
        finally:
            _leave()

    return tf.numpy_function(guarded, inputs, dtype, stateful=stateful)


def _enter():
    global _under_way, _last
    with _lock:
        _last = time.monotonic()
        if _is_over:
            raise RuntimeError("the process is ending")
        _under_way += 1


def _leave():
    global _under_way
    with _lock:
        _under_way -= 1


@atexit.register
def _wait():
    """Refuse further calls; return when none is under way and none has come for a moment, or nobody waits for them."""
    global _is_over
    begin = time.monotonic()
    with _lock:
        _is_over = True
        if not _last:  # there never was one
            return
    while time.monotonic() - begin < _LONGEST:
        time.sleep(_QUIET / 2)
        with _lock:
            if not _under_way and time.monotonic() - max(_last, begin) > _QUIET:
                return
    for each in gc.get_objects():
        if isinstance(each, tf.data.Iterator):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))  # never deleted
