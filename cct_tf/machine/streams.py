"""stdout and stderr that nobody reads: closed from the start, a pipe whose reader left, a terminal that hung up."""

import contextlib
import errno
import os
import sys


def open_closed():
    """Open /dev/null for each of stdin, stdout and stderr that is closed; else the next file opened would become it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, so this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def silence(stream):
    """Discard what is written to a stream from now on, and what it has buffered."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Watched:
    """A text stream that discards its text, instead of raising, once nobody reads it.

    Args:
        stream: text stream, of a file descriptor.
        on_closed: function without arguments, called if the reader has closed the pipe. A terminal that has hung up is
            no reason to call it: SIGHUP tells of that.
    """

    def __init__(self, stream, on_closed):
        self._stream = stream
        self._on_closed = on_closed

    def write(self, text):
        self._try(self._stream.write, text)
        return len(text)

    def flush(self):
        self._try(self._stream.flush)

    def _try(self, call, *args):
        try:
            call(*args)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            silence(self._stream)
            if error.errno == errno.EPIPE:
                self._on_closed()

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def watched(on_closed):
    """Wrap stdout and stderr in `Watched` while the block runs; `on_closed` is called for stdout alone."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Watched(sys.stdout, on_closed), Watched(sys.stderr, lambda: None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
