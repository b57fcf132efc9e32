"""The exceptions that are no bugs, and the exit statuses that go with them.

Every command ends with one of these statuses (cct_tf.settings.command turns the exceptions into them):

    0         finished
    2         wrong input: never worth a restart
    75        a fault from outside (storage full or gone): worth a restart
    129, 130, 143  asked to stop by SIGHUP, SIGINT or SIGTERM, after saving: worth a restart
    141       nobody reads the output any more; a training has saved
    1         a bug of ours
"""

import difflib
import errno
import os
import re
import resource
import signal

FINISHED = 0
WRONG_INPUT = 2
OUTSIDE_FAULT = 75

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
_TOO_MANY_FILES = os.strerror(errno.EMFILE)


class UserError(Exception):
    """Wrong input. The message is one line: the flag or file, what was expected, what was found.

    Attributes:
        details: text that a command prints before the line, such as the traceback of a user's own code.
    """

    exit_status = WRONG_INPUT
    details = ""


class OutsideFault(Exception):
    """A fault that the user's input did not cause and that may be gone at the next try."""

    exit_status = OUTSIDE_FAULT


class Interrupted(BaseException):
    """A signal of STOP_SIGNALS, or a closed output, asked the command to stop, and it has.

    A BaseException, so that no `except Exception` on the way swallows it.

    Args:
        signal_number: such as 15 (SIGTERM, status 143); SIGPIPE of a closed output.
        message: what was saved, for the line on stderr.
    """

    def __init__(self, signal_number, message):
        super().__init__(message)
        self.exit_status = 128 + signal_number


def storage_fault(error):
    """`FILE: what is wrong with the storage`, or None if `error` is about something else.

    TensorFlow's errors (checkpoints, event files) hold the system's text behind the file's name.
    """
    if isinstance(error, OSError):
        return f"{error.filename or 'storage'}: {error.strerror}" if error.errno in _STORAGE_ERRORS else None
    if not type(error).__module__.startswith("tensorflow."):
        return None
    found = next((text for text in map(os.strerror, _STORAGE_ERRORS) if text in str(error)), None)
    path = re.search(r"/[^\s;]+(?=;)|\w+://[^'\s]+(?=')", str(error))  # the latter of `machine.files`
    return found and f"{path.group() if path else 'storage'}: {found}"


def files_fault(error):
    """The line for an error that says that this process may open no more files; None if it is about something else.

    TensorFlow's is a ResourceExhaustedError, as when memory runs out.
    """
    if isinstance(error, OSError):
        is_it, path = error.errno == errno.EMFILE, error.filename
    else:
        is_it = type(error).__module__.startswith("tensorflow.") and _TOO_MANY_FILES in str(error)
        path = is_it and re.search(r"/[^\s;]+(?=;)", str(error))
        path = path and path.group()
    if not is_it:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (f"ulimit -n: expected more open files than the {limit:,} that this process may have, found all in use"
            f"{f' at {path}' if path else ''}; `ulimit -n 65536` before the command allows more")


def exit_status(error):
    """The status of a command that ends by an exception, and the line for a person; (1, None) is a bug of ours."""
    if isinstance(error, (UserError, OutsideFault, Interrupted)):
        return error.exit_status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted"
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE, "nobody reads the output any more"
    if line := files_fault(error):
        return WRONG_INPUT, line
    fault = storage_fault(error)
    if fault is not None:
        return OUTSIDE_FAULT, f"{fault}; the same command goes on from the last checkpoint"
    return 1, None


def nearest(word, known, count=3):
    """`"; did you mean 'a' or 'b'?"` for the names in `known` closest to `word`, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"
