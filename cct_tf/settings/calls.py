"""A call from Python: keyword arguments as the flags that a command would have been given."""

import numbers
import os

from cct_tf import sizes
from cct_tf.errors import UserError, nearest
from cct_tf.settings import flags


def given(values, fields, flagfiles=()):
    """What a command is given by a call, as `flags.parse` tells it of a command line.

    Args:
        values: dict of Python values by the names of flags: True, 3, 0.1, "flip", (0.3, 1.0), None for a flag without
            a value; NumPy's scalars and arrays too, and pathlib's paths, in which `~` stands for the home.
        fields: sequence of `fields.Field`.
        flagfiles: sequence of paths; `values` win over them, and a later file over an earlier one.

    Returns:
        dict name -> value.

    Raises:
        UserError: a name that is no flag, or a value that the flag would not take.
    """
    table = {field.name: field for field in fields}
    found = flags.parse([f"--flagfile={os.fspath(path)}" for path in flagfiles], fields)
    for name, value in values.items():
        if name not in table:
            raise UserError(f"--{name}: expected a flag of this command, found none of that name{nearest(name, table)}")
        found[name] = _checked(table[name], value)
    return found


def _checked(field, value):
    try:
        converted = _converted(field, value)
    except OverflowError:  # an integer of more than 308 digits
        converted = ...
    # A remote path: as `flags` judges it.
    if converted is ... or field.problem(converted) or field.is_too_far(converted):
        suggestion = nearest(value, field.choices) if field.choices and isinstance(value, str) else ""
        raise UserError(f"--{field.name}: expected {field.expectation()}, found {value!r}{suggestion}")
    return converted


def _converted(field, value):
    """The value as a config holds it; `...` where it is of another type."""
    if hasattr(value, "tolist"):  # NumPy's
        value = value.tolist()
    if value is None or value == "" and field.optional:
        return None
    if field.kind is tuple:
        parts = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(map(float, parts)) if all(map(_is_number, parts)) else ...
    if field.pair and isinstance(value, (list, tuple)):
        return sizes.as_size(tuple(value)) if all(isinstance(part, int) and _is_number(part) for part in value) else ...
    if field.path and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if field.path and isinstance(value, str):
        return os.path.expanduser(value)
    if field.kind is float:
        return float(value) if _is_number(value) else ...
    if field.kind is int:
        return int(value) if _is_number(value) and isinstance(value, numbers.Integral) else ...
    return value if isinstance(value, field.kind) else ...


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
