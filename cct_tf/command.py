"""What all commands share: one line for an error, the exit status, and a quiet start of TensorFlow."""

import errno
import os
import re
import sys
import traceback

from cct_tf import flags
from cct_tf.errors import OUTSIDE_FAULT, WRONG_INPUT, Interrupted, OutsideFault, UserError

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)


def run(main, argv, usage, fields):
    """Run a command and leave the process with its status (cct_tf.errors lists them).

    Args:
        main: function of the dict of given flags, returning None.
        argv: list of strings, without the program's name.
        usage: the first lines of --help.
        fields: sequence of `config.Field`, the command's flags.
    """
    if flags.wants_help(argv):
        print(flags.help_text(usage, fields))
        sys.exit(0)
    debug = "--debug" in argv or "--debug=true" in argv
    sys.exit(_status(main, argv, fields, debug))


def _status(main, argv, fields, debug):
    try:
        main(flags.parse(argv, fields))
        sys.stdout.flush()
    except (UserError, OutsideFault, Interrupted) as error:
        return _complain(str(error), error.exit_status, debug)
    except KeyboardInterrupt:
        return _complain("interrupted", 130, debug)
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing to say and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        fault = _storage_fault(error)
        if fault is None:
            raise
        return _complain(f"{fault}; the same command goes on from the last checkpoint", OUTSIDE_FAULT, debug)
    return 0


def _storage_fault(error):
    """`FILE: what is wrong with the storage`, or None if `error` is about something else.

    TensorFlow's event files raise errors of its own, which hold the system's text behind the file's name.
    """
    if isinstance(error, OSError):
        return f"{error.filename or 'storage'}: {error.strerror}" if error.errno in _STORAGE_ERRORS else None
    if not type(error).__module__.startswith("tensorflow."):
        return None
    found = next((text for text in map(os.strerror, _STORAGE_ERRORS) if text in str(error)), None)
    path = re.search(r"(/[^\s;]+);", str(error))
    return found and f"{path.group(1) if path else 'storage'}: {found}"


def _complain(message, status, debug):
    if debug:
        traceback.print_exc()
    sys.stdout.flush()
    label = "error" if status == WRONG_INPUT else "stopped"
    print(f"{label}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
