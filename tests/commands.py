"""Commands called in this process: TensorFlow is imported once for many."""

import importlib
import sys


def run(module, *argv):
    """Exit status of a command (`train`, `evaluate`), run as its entry point does."""
    before = sys.argv
    sys.argv = [f"cct_tf.{module}", *map(str, argv)]
    try:
        _imported(module).run()
    except SystemExit as stopped:
        return stopped.code
    finally:
        sys.argv = before
    return 0


def _imported(module):
    """What `python -m cct_tf.MODULE` runs: a module, or the __main__ of a package."""
    found = importlib.import_module(f"cct_tf.{module}")
    return importlib.import_module(f"{found.__name__}.__main__") if hasattr(found, "__path__") else found


def call(capfd, module, *argv):
    """(exit status, stdout, stderr) of a command, the texts as the file descriptors saw them."""
    capfd.readouterr()
    status = run(module, *argv)
    return status, *capfd.readouterr()


def only_line(err):
    """The one line of an error; fails if there are more."""
    assert err.count("\n") == 1 and err.startswith(("error: ", "stopped: ", "warning: ")), err
    return err
