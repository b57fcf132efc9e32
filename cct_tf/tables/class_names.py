"""`--class_names=FILE`: the classes of a table in their order. No TensorFlow.

    cat                                 one name a line; a label is a name, or its number from 0
    n01440764 tench, Tinca tinca        ImageNet's: a label is the first word
    ["cat", "dog"]                      JSON (.json), as the lines
    {"n01440764": "tench"}              JSON: label -> name
"""

import collections
import json
import re

import numpy as np

from cct_tf.errors import UserError
from cct_tf.machine import files

_SYNSET = re.compile(r"(n\d{8})\s+(\S.*)")


def read(path):
    """{label: name} of a file, in the order of the classes.

    Raises:
        UserError: it can't be read, or has not two or more different names.
    """
    try:
        with files.open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--class_names: expected a text file that can be read, found {path} ({reason})") from None
    pairs = _of_json(path, text) if path.lower().endswith(".json") else _of_lines(path, text)
    for number, (label, name) in enumerate(pairs, 1):
        if not (isinstance(label, str) and isinstance(name, str) and name.strip()):
            raise UserError(f"{path}: expected a name for each class, found {name!r} (class {number})")
    twice = [label for label, number in collections.Counter(label for label, _ in pairs).items() if number > 1]
    if twice or len(pairs) < 2:
        found = f"{twice[0]!r} twice" if twice else f"{len(pairs)}"
        raise UserError(f"{path}: expected two or more classes, each once, found {found}")
    count = collections.Counter(name for _, name in pairs)
    return {label: name if count[name] == 1 else f"{name} ({label})" for label, name in pairs}


def _of_lines(path, text):
    """[(label, name)] of the lines of a file."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if "" in lines:
        raise UserError(f"{path}: expected a class name in each line, found line {lines.index('') + 1} empty")
    synsets = [_SYNSET.fullmatch(line) for line in lines]
    return [(found[1], found[2]) for found in synsets] if all(synsets) else [(line, line) for line in lines]


def _of_json(path, text):
    """[(label, name)] of a JSON file."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found a file that is none ({error})") from None
    if not isinstance(found, (list, dict)):
        raise UserError(f"{path}: expected a JSON list of names, or an object of label -> name, found {text[:40]!r}")
    return list(found.items()) if isinstance(found, dict) else [(name, name) for name in found]


def numbered(labels, known):
    """Class numbers of labels.

    Args:
        labels: sequence of n texts. They are numbers from 0 to K-1 where all of them are such, and no known label is.
        known: {label: name} of the K classes, in order.

    Returns:
        int32 [n], -1 where a label is no class.
    """
    places, distinct = {label: place for place, label in enumerate(known)}, set(labels)
    if not any(label.isdecimal() for label in known) and all(
            label.isdecimal() and int(label) < len(known) for label in distinct):
        places = {label: int(label) for label in distinct}
    return np.fromiter((places.get(label, -1) for label in labels), np.int32, len(labels))


def expected(known):
    """What a label may be, in words, for a message."""
    numbers = "" if any(label.isdecimal() for label in known) else f", or a number from 0 to {len(known) - 1}"
    return f"one of the {len(known)} classes of --class_names{numbers}"
