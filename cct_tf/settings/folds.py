"""--fold: `2/5`, the second of five parts of the training images is the validation split. No TensorFlow here."""

import re

from cct_tf.errors import UserError


def parse(text):
    """(number from 1, of how many) of a value of the flag.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    number, count = (int(part) for part in found.groups()) if found else (0, 0)
    if count < 2 or number > count:
        raise UserError(f"--fold: expected a fold of two or more, such as 2/5, found {text!r}")
    return number, count


def any_of(text):
    """`*/5` of `2/5`: what the folds of one set have in common; None of None."""
    return text and f"*/{parse(text)[1]}"
