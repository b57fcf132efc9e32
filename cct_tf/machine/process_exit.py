"""Ending a process at once, without the usual shutdown of Python and TensorFlow."""

import contextlib
import os
import sys

_GENERATED = "__autograph_generated_file"  # modules that TensorFlow writes into the temporary folder


def at_once(status):
    """End this process now, with `status`, from any thread.

    TensorFlow's exit handlers do not run, so the temporary files that they would remove are removed here.
    """
    try:
        for name, module in list(sys.modules.items()):
            if name.startswith(_GENERATED):
                with contextlib.suppress(OSError):
                    os.remove(module.__file__)
    finally:
        os._exit(status)
