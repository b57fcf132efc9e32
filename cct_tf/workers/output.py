"""Lines of several workers in one terminal or log: whole, and each with its worker's index."""

import sys


class Prefixed:
    """A text stream that writes whole lines, each behind a prefix.

    Args:
        stream: text stream.
        prefix: string.
    """

    def __init__(self, stream, prefix):
        self._stream = stream
        self._prefix = prefix
        self._held = ""

    def write(self, text):
        *lines, self._held = (self._held + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self):
        self._stream.flush()

    def isatty(self):
        """False: no bars among the lines of others."""
        return False

    def __getattr__(self, name):
        return getattr(self._stream, name)


def prefix_lines(cluster):
    """Put the worker's index before each line that this process writes from now on; nothing without a cluster."""
    if cluster is not None:
        sys.stdout = Prefixed(sys.stdout, f"[{cluster.index}] ")
        sys.stderr = Prefixed(sys.stderr, f"[{cluster.index}] ")
