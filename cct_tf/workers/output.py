"""Lines of several workers in one terminal or log: whole, and each with its worker's index."""

import contextlib
import os
import sys
import threading

_LONG = 5.0  # seconds after which the beginning of a line is shown
_out = None  # stdout as `prefix_lines` made it, whatever is put around it later
_last = None  # stderr, whatever holds back what goes to file descriptor 2


class Prefixed:
    """A text stream that writes whole lines, each behind a prefix.

    A line whose end is long in coming (`compiling the training step ...`) is shown as far as it goes, and whole later.

    Args:
        stream: text stream.
        prefix: string.
    """

    def __init__(self, stream, prefix):
        self._stream = stream
        self._prefix = prefix
        self._held = ""
        self._lock = threading.RLock()

    def write(self, text):
        with self._lock:
            *lines, self._held = (self._held + text).split("\n")
            if lines:
                self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self):
        self._stream.flush()
        if self._held:
            timer = threading.Timer(_LONG, self.show, (self._held,))
            timer.daemon = True
            timer.start()

    def show(self, text=None):
        """Show the line that is held, if it still is `text`, or whatever it is; nothing if nobody reads any more."""
        with self._lock, contextlib.suppress(OSError):
            if self._held and text in (None, self._held):
                self._stream.write(f"{self._prefix}{self._held}\n")
            self._stream.flush()

    def isatty(self):
        """False: no bars among the lines of others."""
        return False

    def __getattr__(self, name):
        return getattr(self._stream, name)


def prefix_lines(cluster):
    """Put the worker's index before each line that this process writes from now on; nothing without a cluster."""
    if cluster is not None:
        global _out, _last
        sys.stdout = _out = Prefixed(sys.stdout, f"[{cluster.index}] ")
        _last = Prefixed(os.fdopen(os.dup(2), "w"), f"[{cluster.index}] ")
        sys.stderr = Prefixed(sys.stderr, f"[{cluster.index}] ")


def say_last(text):
    """A line on stderr before `process_exit.at_once`, which also shows the line that stdout was in the middle of."""
    if _out is not None:
        _out.show()
    print(text, file=_last or sys.stderr, flush=True)
