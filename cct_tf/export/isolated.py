"""Runs an export in a process of its own, without cct_tf: see `running`."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile

from cct_tf.export import running


class Broken(Exception):
    """The export can't be run. The message, part of a line, says why."""


class IsolatedRunner:
    """A runner of `running` in a process of its own. Use it in a `with` block, which ends the process.

    Args:
        kind: `formats.Format`.
        path: pathlib.Path of the export.

    Call: as the runner. Raises Broken if its process has ended.
    """

    def __init__(self, kind, path):
        # Compared with the network on the CPU, and this process may hold the GPU's memory.
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._said = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen([sys.executable, "-P", running.__file__, kind.name, str(path)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                                         env=environment)

    def __call__(self, images):
        try:
            pickle.dump(images, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise Broken(self._end()) from None

    def _end(self):
        """How the process ended, in words."""
        status = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        return f"{ended}: {lines[-1][:300]}" if lines else ended

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()
        self._said.close()
