"""absl flags from config fields, and back: the only reader of flags.

Every command parses the same way: flags only (positional arguments where a command documents some), `--flagfile` nests,
and what names a flagfile wins over it, wherever it stands on the line. Differences from absl's own reading of
flagfiles, each a trap there:

* a nested path is taken from the folder of the file that names it, then from the current folder;
* a `#` after white space starts a comment, also behind a value;
* a flag on the command line wins over the file even if it comes first;
* a file that includes itself is an error.
"""

import dataclasses
import os
import shlex
import sys
import textwrap

from absl import flags as absl_flags

from cct_tf import sizes
from cct_tf.errors import UserError, nearest
from cct_tf.machine.files import is_remote
from cct_tf.settings import config as config_lib
from cct_tf.settings.fields import LOCAL_PATH, Field

REMOTE_ARGUMENTS = ("images", "folder")  # positional arguments that may lie elsewhere


@dataclasses.dataclass(frozen=True)
class Argument:
    """One flag as written somewhere.

    Attributes:
        name: without dashes; as written, so possibly with a leading "no". None of a positional argument.
        value: text, or None where there was no `=`.
        origin: "" for the command line, "FILE:LINE: " for a flagfile.
    """

    name: str | None
    value: str | None
    origin: str


class _FieldParser(absl_flags.ArgumentParser):
    """Text to the value of a config field; empty text is None where the field is optional."""

    syntactic_help = ""

    def __init__(self, field):
        self.field = field

    def flag_type(self):
        return self.field.kind.__name__

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument
        text = argument.strip()
        if text == "" and self.field.optional:
            return None
        try:
            value = self._convert(text)
        except ValueError:
            value = ...
        # Not in `problem`: the records of old runs may hold such a path, which then was taken for a local one.
        if value is ... or self.field.problem(value) or self.field.is_too_far(value):
            suggestion = nearest(text, self.field.choices) if self.field.choices else ""
            raise ValueError(f"expected {self.field.expectation()}, found {argument!r}{suggestion}")
        return value

    def _convert(self, text):
        kind = self.field.kind
        if kind is bool:
            if text.lower() in ("true", "1", "yes"):
                return True
            if text.lower() in ("false", "0", "no"):
                return False
            raise ValueError(text)
        if kind is tuple:
            return tuple(float(part) for part in text.split(","))
        if self.field.pair and "," in text:
            return sizes.as_size(tuple(int(part) for part in text.split(",")))
        return kind(text)


def _make_flags(fields):
    """A private absl FlagValues with one flag per field (absl's global one also holds other libraries' flags)."""
    values = absl_flags.FlagValues()
    for field in fields:
        flag = absl_flags.Flag(parser=_FieldParser(field), serializer=None, name=field.name, default=None,
                               help_string=field.help, boolean=field.kind is bool)
        absl_flags.DEFINE_flag(flag, values)
    return values


def command_field(name, kind, default, help, *, choices=None, minimum=None, maximum=None, optional=False, bare=None,
                  path=False, remote=False):
    """A flag of one command that is no config field (evaluate's --split, say), as a `fields.Field`."""
    return Field(name, "command", "This command.", kind, optional or default is None, default, help, minimum,
                 maximum, None, None, choices, how=True, transient=True, length=None, path=path, remote=remote,
                 bare=bare)


def _read_file(path, origin, stack):
    """Arguments of one flagfile, nested ones expanded."""
    real = os.path.realpath(path)
    if real in stack:
        raise UserError(f"{origin}--flagfile: expected no circle, found {path} including itself")
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{origin}--flagfile: expected a text file, found {path!r}") from None
    except OSError as error:
        folder = os.path.dirname(path) or "."
        known = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
        known = [os.path.normpath(name) for name in known]
        raise UserError(f"{origin}--flagfile: expected a file that can be read, found {path!r} "
                        f"({error.strerror}){nearest(os.path.normpath(path), known)}") from None
    tokens = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith(("#", "//")):
            continue
        for mark in (" #", "\t#"):
            text = text.split(mark)[0].rstrip()
        if not text.startswith("-"):
            raise UserError(f"{path}:{number}: expected --flag=value, found {text!r}")
        tokens.append((text, f"{path}:{number}: "))
    return tokens, real


def _nested_path(value, base):
    """A flagfile named inside another: from that file's folder if it is there, else from the current folder."""
    beside = os.path.join(base, value)
    return beside if os.path.exists(beside) else value


def expand(argv, table, positional=None):
    """All arguments of a command line in the order in which later ones win.

    Args:
        argv: list of strings, without the program's name.
        table: dict of `fields.Field` by name.
        positional: list that takes the positional arguments; None refuses them. Behind `--` all are.

    Returns:
        list of Argument: flagfiles first, the rest after them.

    Raises:
        UserError: a positional argument where there can be none, an unknown flag, a flagfile that can't be read, a
            missing value.
    """
    argv = list(argv)
    if positional is not None and "--" in argv:
        mark = argv.index("--")
        found = _expand([(text, "") for text in argv[:mark]], table, None, (), positional)
        positional += argv[mark + 1:]
        return found
    return _expand([(text, "") for text in argv], table, None, (), positional)


def _flag_of(name, table):
    """The name of the flag meant by `name`, which may be `no` and a switch; None if there is none."""
    if name in table:
        return name
    short = name.removeprefix("no")
    return short if short in table and table[short].kind is bool else None


def _needs_value(name, table):
    return name in table and table[name].kind is not bool and table[name].bare is None


def _unknown(name, value, following, table):
    """What to say of an unknown flag: written with dashes inside, it is spelt out as it must be.

    Args:
        name, value: as in `Argument`; the name may hold a value behind a space, as lines of flagfiles do.
        following: the next argument, or "".
        table: dict of `fields.Field` by name.
    """
    name, _, behind = name.partition(" ")
    expected = f"--{name}: expected a flag of this command, found none of that name"
    meant = name.replace("-", "_")
    if meant.startswith("no_") and meant not in table:
        meant = "no" + meant.removeprefix("no_")
    if _flag_of(meant, table) is None:
        return expected + nearest(name, [*table, "help"])
    value = value or behind.strip()
    if not value and _needs_value(meant, table) and not following.startswith("--"):
        value = following
    return f"{expected}; did you mean --{meant}{'=' if value else ''}{value}?"


def _expand(tokens, table, base, stack, positional=None):
    from_files, own = [], []
    tokens = list(tokens)
    while tokens:
        text, origin = tokens.pop(0)
        if positional is not None and (not text.startswith("-") or text == "-"):
            positional.append(text)
            continue
        if not text.startswith("-") or text in ("-", "--"):
            hint = f" (a config is named with --flagfile={text})" if text.endswith(".cfg") else ""
            raise UserError(f"{origin}expected flags only, found the argument {text!r}{hint}")
        name, equals, value = text.lstrip("-").partition("=")
        if not equals:
            value = None
            if name == "flagfile" or _needs_value(name, table):
                if base is not None or not tokens:
                    raise UserError(f"{origin}--{name}: expected --{name}=VALUE, found no value")
                value = tokens.pop(0)[0]
        if name == "flagfile":
            path = value if base is None else _nested_path(value, base)
            inner, real = _read_file(path, origin, stack)
            from_files += _expand(inner, table, os.path.dirname(path), (*stack, real), positional)
        elif _flag_of(name, table):
            own.append(Argument(name, value, origin))
        else:
            raise UserError(origin + _unknown(name, value, tokens[0][0] if tokens else "", table))
    return from_files + own


def parse(argv, fields, positional=None):
    """Values of a command line.

    Args:
        argv: list of strings, without the program's name.
        fields: sequence of `fields.Field`.
        positional: the name under which the result holds the positional arguments, a list; None refuses them.

    Returns:
        dict of the flags that were given, name -> value; positional arguments are a list of strings.

    Raises:
        UserError: one line naming the flag (and the file and line, if it stands in a flagfile).
    """
    table = {field.name: field for field in fields}
    values = _make_flags(fields)
    given = {positional: []} if positional else {}
    for argument in expand(argv, table, given.get(positional)):
        name = _flag_of(argument.name, table)
        value = table[name].bare if argument.value is None else argument.value
        text = f"--{argument.name}" if value is None else f"--{argument.name}={value}"
        try:
            values(["", text])
        except absl_flags.Error as error:
            message = str(error)
            reason = message[message.index("expected"):] if "expected" in message else message
            raise UserError(f"{argument.origin}--{name}: {reason}") from None
        given[name] = values[name].value
    for text in given.get(positional, ()):  # paths, in each command that takes some
        if is_remote(text) and positional not in REMOTE_ARGUMENTS:
            raise UserError(f"{text!r}: expected {LOCAL_PATH}")
    return given


def wants_help(argv):
    """Whether the command line asks for help."""
    return any(text in ("--help", "-help", "-h", "--helpfull", "--helpshort") for text in argv)


def _show(value):
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(f"{number:.6g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def help_text(usage, fields):
    """The text of --help: usage, then the flags in groups, each with its default."""
    lines = [usage.rstrip(), "", "--flagfile=FILE reads flags from a file (one a line; files nest; the command line "
             "wins)."]
    group = None
    for field in fields:
        if field.group != group:
            group = field.group
            lines += ["", group]
        flag = f"--[no]{field.name}" if field.kind is bool else f"--{field.name}={_show(field.default)}"
        if field.bare is not None:
            flag = f"--{field.name}[={field.bare}]"
        choices = f" ({'|'.join(field.choices)})" if field.choices else ""
        body = textwrap.wrap(field.help + choices, width=76)
        lines.append(f"  {flag}")
        lines += ["        " + line for line in body]
    return "\n".join(lines)


def load_config(argv):
    """Config from a command line, checked as a whole. Raises UserError."""
    return config_lib.from_dict(parse(argv, list(config_lib.FIELDS.values())))


def as_flagfile(config):
    """The text of a flagfile that gives `config` again (without what belongs to one call only)."""
    lines, group = [], None
    for name, value in config.as_dict().items():
        field = config_lib.FIELDS[name]
        if field.group != group:
            group = field.group
            lines += ["", f"# {group}"]
        if isinstance(value, tuple):
            value = ",".join(repr(number) for number in value)
        elif isinstance(value, bool):
            value = str(value).lower()
        lines.append(f"--{name}={'' if value is None else value}")
    return "\n".join(lines[1:]) + "\n"


def as_command_line(module, argv):
    """`python -m module ...` as text that a shell reads back, with the Python that runs now."""
    python = "python" if os.environ.get("VIRTUAL_ENV") or sys.prefix == sys.base_prefix else os.path.relpath(
        os.path.join(sys.prefix, "bin", "python"))
    return " ".join(map(shlex.quote, [python, "-m", module, *argv]))
