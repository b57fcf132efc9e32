"""The end of a process that can't wait for Python to take it apart."""

import contextlib
import os
import sys

_GENERATED = "__autograph_generated_file"  # how TensorFlow calls the modules that it writes into the temporary folder


def at_once(status):
    """End this process with `status` now, from any thread. What TensorFlow does in an exit handler is done here."""
    try:
        for name, module in list(sys.modules.items()):
            if name.startswith(_GENERATED):
                with contextlib.suppress(OSError):
                    os.remove(module.__file__)
    finally:
        os._exit(status)
