"""What all commands share: one line for an error, and the exit status; for a call from Python, an exception."""

import contextlib
import sys
import traceback

from cct_tf.errors import OUTSIDE_FAULT, WRONG_INPUT, Interrupted, OutsideFault, UserError, exit_status
from cct_tf.machine import streams
from cct_tf.settings import flags

# Flags that several commands have.
CHECKPOINT = flags.command_field("checkpoint", str, "best", "best, last, or the path of a checkpoint folder", path=True)
WEIGHTS = flags.command_field("weights", str, "auto", "raw, ema (their moving average), average (another one), or "
                              "auto: an average where the run kept one", choices=("auto", "raw", "ema", "average"))
JSON = flags.command_field("json", bool, False, "print one JSON object on one line, and nothing else, on stdout")


def run(main, argv, usage, fields, leave=sys.exit, positional=None):
    """Run a command and leave the process with its status (cct_tf.errors lists them).

    Args:
        main: function of the dict of given flags, returning None.
        argv: list of strings, without the program's name.
        usage: the first lines of --help.
        fields: sequence of `fields.Field`, the command's flags.
        leave: function of the status that ends the process.
        positional: as `flags.parse` takes it, for a command that documents positional arguments.
    """
    streams.open_closed()
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        status = _status(main, argv, usage, fields, positional, debug)
    except Exception:
        traceback.print_exc()
        status = 1
    leave(status)


def _status(main, argv, usage, fields, positional, debug):
    try:
        if flags.wants_help(argv):
            print(flags.help_text(usage, fields))
        else:
            main(flags.parse(argv, fields, positional))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing to say and nobody to say it to.
        streams.silence(sys.stdout)
        return 141
    except BaseException as error:
        status, line = exit_status(error)
        if line is None:
            raise
        return _complain(line, status, debug, getattr(error, "details", ""))
    return 0


@contextlib.contextmanager
def errors_named():
    """Let errors of the block that a command would end with in one line be exceptions of cct_tf.errors with that line.

    Bugs, and KeyboardInterrupt, stay as they are.
    """
    try:
        yield
    except (UserError, OutsideFault, Interrupted) as error:
        error.args = (_in_one_line(error),)
        raise
    except Exception as error:
        status, line = exit_status(error)
        if status not in (OUTSIDE_FAULT, WRONG_INPUT):
            raise
        raise (OutsideFault if status == OUTSIDE_FAULT else UserError)(line) from error


def _in_one_line(message):
    return " ".join(str(message).split())


def _complain(message, status, debug, details):
    if debug:
        traceback.print_exc()
    label = "error" if status == WRONG_INPUT else "stopped"
    with streams.watched(lambda: None):  # the status tells it too
        sys.stdout.flush()
        if details:
            print(details, file=sys.stderr)
        print(f"{label}: {_in_one_line(message)}", file=sys.stderr, flush=True)
    return status
