"""--class_weights: `none`, `balanced`, `cat=2,dog=1`, or a JSON file {"cat": 2, "dog": 1}. No TensorFlow here."""

import json
import math
import os

from cct_tf.errors import UserError, nearest

_EXPECTED = "--class_weights: expected none, balanced, CLASS=NUMBER,... or a .json file"
_LISTED = 8  # classes, in a message


def is_file(text):
    """Whether a value of the flag names a file."""
    return text.endswith(".json")


def read(text):
    """{class name: weight} of a value of the flag; {} of `none` and `balanced`.

    Raises:
        UserError: it is none of what the flag takes, or the file can't be read.
    """
    if text in ("none", "balanced"):
        return {}
    return _of_file(text) if is_file(text) else _of_pairs(text)


def _of_pairs(text):
    found = {}
    for pair in text.split(","):
        name, equals, number = pair.rpartition("=")
        if not equals or not name:
            raise UserError(f"{_EXPECTED}, found {text!r}")
        if name in found:
            raise UserError(f"--class_weights: expected each class once, found {name!r} twice")
        found[name] = _weight(name, number, "--class_weights")
    return found


def _of_file(text):
    path = os.path.expanduser(text)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise UserError(f"--class_weights: expected a file that can be read, found {text} ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--class_weights: expected a JSON object in {text}, found: {error}") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f'--class_weights: expected an object such as {{"cat": 2}} in {text}, found '
                        f"{json.dumps(found)[:40]}")
    return {name: _weight(name, value, text) for name, value in found.items()}


def _weight(name, value, where):
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"{where}: expected a weight of {name!r}, a number of at least 0, found {value!r}")
    return number


def of_classes(text, class_names):
    """The weight of each class, 1 of those that are not named: tuple of K floats; None of `none` and `balanced`.

    Args:
        text: value of the flag.
        class_names: sequence of K strings.

    Raises:
        UserError: as of `read`; a name that is no class; all weights 0.
    """
    found = read(text)
    if not found:
        return None
    for name in found:
        if name not in class_names:
            listed = ", ".join(class_names[:_LISTED]) + (" ..." if len(class_names) > _LISTED else "")
            raise UserError(f"--class_weights: expected classes of the data set ({listed}), found {name!r}"
                            + nearest(name, class_names))
    weights = tuple(found.get(name, 1.0) for name in class_names)
    if not any(weights):
        raise UserError(f"--class_weights: expected a class of a weight above 0, found none in {text}")
    return weights
