"""How a config field is declared, and what is known of it. No TensorFlow here."""

import dataclasses
import math

from cct_tf.machine.files import is_remote


def option(default, help, *, minimum=None, maximum=None, above=None, below=None, choices=None, how=False,
           transient=False, length=None, path=False, remote=False, pair=False):
    """Declare a config field.

    Args:
        default: its default; None where the type is optional.
        help: one sentence for `--help`, with the unit.
        minimum, maximum: inclusive bounds of a number (or of every number of a tuple).
        above, below: exclusive bounds.
        choices: allowed strings.
        how: True if the field only says how the run is computed; False if it defines the result.
        transient: True if it belongs to one call of the command and not to the run (never written down).
        length: allowed lengths of a tuple.
        path: True of a string that names a file or folder of this machine, or several with commas.
        remote: True of a path that may lie elsewhere, such as gs://bucket/x, see `cct_tf.machine.files`.
        pair: True of an integer that may be two, HEIGHT,WIDTH: a size, see `cct_tf.sizes`.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "above": above, "below": below,
                "choices": choices, "how": how or transient, "transient": transient, "length": length,
                "path": path, "remote": remote, "pair": pair}
    return dataclasses.field(default=default, metadata=metadata)


LOCAL_PATH = "a path of this machine (remote ones are not taken here: copy it, or mount the bucket)"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field as declared: what `flags`, `plan` and the checkpoint need to know of it.

    `kind` is int, float, str, bool or tuple (of floats); `optional` says whether None is allowed; `bare` is the text
    that a flag without `=` stands for, None where it needs a value; `path`, `remote` and `pair` are as in `option`.
    """

    name: str
    part: str
    group: str
    kind: type
    optional: bool
    default: object
    help: str
    minimum: float | None
    maximum: float | None
    above: float | None
    below: float | None
    choices: tuple | None
    how: bool
    transient: bool
    length: tuple | None
    path: bool = False
    remote: bool = False
    pair: bool = False
    bare: str | None = None

    def expectation(self):
        """What a value must be, in words: `an integer of at least 1`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.path and not self.remote:
            return LOCAL_PATH + ("; --backup_dir keeps a copy elsewhere" if self.name == "workdir" else "")
        noun = {int: "an integer", float: "a number", str: "a text", bool: "true or false",
                tuple: " or ".join(str(n) for n in self.length or ()) + " numbers separated by commas"}[self.kind]
        bounds = [f"{words} {bound:g}" for words, bound in (
            ("of at least", self.minimum), ("above", self.above), ("of at most", self.maximum), ("below", self.below))
            if bound is not None]
        return " ".join([noun, " and ".join(bounds)]).strip() + (", or two of them, H,W" if self.pair else "")

    def is_too_far(self, value):
        """Whether a value (text or None) is a remote path where it has to be one of this machine."""
        return self.path and not self.remote and bool(value) and is_remote(value)

    def problem(self, value):
        """None if `value` (of the right type) is allowed, else True."""
        if value is None:
            return not self.optional
        if self.choices:
            return value not in self.choices
        if self.kind is tuple and self.length and len(value) not in self.length:
            return True
        if self.pair and isinstance(value, tuple) and len(value) != 2:
            return True
        for number in value if isinstance(value, tuple) else (value,):
            if self.kind in (int, float, tuple) and not self._within(number):
                return True
        return False

    def _within(self, number):
        return (math.isfinite(number)
                and (self.minimum is None or number >= self.minimum)
                and (self.maximum is None or number <= self.maximum)
                and (self.above is None or number > self.above)
                and (self.below is None or number < self.below))
