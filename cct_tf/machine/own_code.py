"""Code of a user's own that a flag names: `./mine.py:load` or `package.module:load`. No TensorFlow here."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
import zlib

from cct_tf.errors import UserError, nearest

_INSTALLED = sysconfig.get_paths()["purelib"] + os.sep
_SPEC = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def is_named(value):
    """Whether the value of a flag names code: a file or a module, a colon, and a name."""
    return bool(_SPEC.fullmatch(value or ""))


def check(flag, value):
    """Judge what a flag names without running it.

    Args:
        flag: str, without dashes.
        value: str, see the module's docstring.

    Returns:
        str, path of the file.

    Raises:
        UserError: there is no such file or name, or it is no Python.
    """
    place, name = _SPEC.fullmatch(value).groups()
    path = os.path.expanduser(place) if place.endswith(".py") else _origin(flag, place)
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except OSError as error:
        raise UserError(f"--{flag}: expected a Python file, found {path} ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise UserError(f"--{flag}: expected a Python file without errors, found {path}{where}: "
                        f"{getattr(error, 'msg', error)}") from None
    names = set(_names(tree))
    if name not in names and "*" not in names:
        raise UserError(f"--{flag}: expected a name of {path}, found {name!r}" + nearest(name, sorted(names)))
    return path


def _origin(flag, module):
    """Path of a module's file."""
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.has_location:
        raise UserError(f"--{flag}: expected a module that can be imported, or a path that ends in .py, found "
                        f"{module!r}")
    return found.origin


def _names(tree):
    """What a module defines at its top level, or imports; "*" where that can't be told."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def load(flag, value):
    """What a flag names, imported.

    Args:
        flag, value: as for `check`.

    Raises:
        UserError: as `check`; or the code raised an error, whose traceback is in its `details`.
    """
    path = check(flag, value)
    place, name = _SPEC.fullmatch(value).groups()
    with errors_shown(flag, value):
        if place.endswith(".py"):
            module = _from_file(path)
        else:
            module = importlib.import_module(place)
        return getattr(module, name)


def _from_file(path):
    """The module of a file, imported once a process. It can import its neighbours."""
    path = os.path.realpath(path)
    name = f"cct_tf_own_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        if os.path.dirname(path) not in sys.path:
            sys.path.append(os.path.dirname(path))
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@contextlib.contextmanager
def errors_shown(flag, value):
    """Turn an error of the code into a UserError with its own traceback, without the frames that led to it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [number for number, frame in enumerate(frames) if not _is_ours(frame.filename)]
        own = [number for number in own if not frames[number].filename.startswith(_INSTALLED)] or own
        last = traceback.format_exception_only(error)
        shown = UserError(f"--{flag}: expected code that runs, found an error in {value}: {_in_a_line(last[-1])}")
        shown.details = "".join([*traceback.format_list(frames[own[0]:] if own else []), *last]).rstrip()
        raise shown from error


def _in_a_line(text):
    """An error's text without what Keras puts around it: the layer it was called in, colours, all arguments."""
    lines = [line for line in re.sub("\x1b\\[[0-9;]*m", "", text).splitlines() if line.strip()]
    kind, _, around = lines[0].partition(": ")
    return f"{kind}: {lines[1]}" if around.startswith("Exception encountered when") and lines[1:] else lines[0]


def _is_ours(filename):
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return filename.startswith((package + os.sep, "<frozen importlib")) or os.path.basename(filename) == "contextlib.py"


def checksum(flag, value):
    """CRC-32 of the file that a flag names, eight hex digits; errors as `check`."""
    with open(check(flag, value), "rb") as file:
        return f"{zlib.crc32(file.read()):08x}"
