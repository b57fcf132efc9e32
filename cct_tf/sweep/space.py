"""SPACE.cfg: a flagfile of ranges. Neither TensorFlow nor Optuna here.

    --learning_rate=log:1e-4:1e-2     between the two, evenly in the logarithm
    --drop_path_rate=0:0.3            between the two; 0:0.3:0.05 in steps
    --auto_augment=none|cifar10       one of these
"""

import dataclasses
import math

from cct_tf.assembly import checks
from cct_tf.errors import UserError
from cct_tf.settings import config, flags

# They define what is measured: figures of trials that differ in one of these could not be compared.
_FIXED = ("dataset", "columns", "task", "train_split", "validation_fraction", "fold", "test_split", "split_seed",
          "channels", "bits", "on_bad_image", "seed", "best_metric")


@dataclasses.dataclass(frozen=True)
class Range:
    """What a flag may be.

    Attributes:
        name: of the flag.
        text: as it was written.
        low, high: numbers, both included; None of choices.
        step: number, or None.
        log: whether it is even in the logarithm.
        whole: whether its numbers are integers.
        choices: tuple of text, empty of a range.
    """

    name: str
    text: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple = ()

    def as_text(self, value):
        """A value as it is written behind `--name=`."""
        return value if isinstance(value, str) else repr(value)


def read(path):
    """The ranges of a file: tuple of Range, in the order of the file.

    Raises:
        UserError: it can't be read, or names what is no flag or no range.
    """
    ranges = {}
    for argument in flags.expand([f"--flagfile={path}"], config.FIELDS):
        name, where = argument.name, f"{argument.origin}--{argument.name}"
        if name not in config.FIELDS or argument.value is None:
            raise UserError(f"{where}: expected a range, such as --{name.removeprefix('no')}=LOW:HIGH or A|B, found "
                            "none")
        if name in ranges:
            raise UserError(f"{where}: expected each flag once, found it again")
        _check_name(config.FIELDS[name], where)
        ranges[name] = _range(config.FIELDS[name], argument.value.strip(), where)
    if not ranges:
        raise UserError(f"--space: expected a file with at least one range, found none in {path}")
    return tuple(ranges.values())


def _check_name(field, where):
    if field.how:
        raise UserError(f"{where}: expected a flag that defines the result, found one that changes no result")
    if field.name in _FIXED:
        raise UserError(f"{where}: expected a flag of the recipe, found one that says what is measured; it belongs "
                        "into the base")


def _range(field, text, where):
    if "|" in text or field.kind not in (int, float):
        return _choices(field, text, where)
    log = text.startswith("log:")
    parts = text.removeprefix("log:").split(":")
    if len(parts) not in (2, 3) or (log and len(parts) == 3):
        raise UserError(f"{where}: expected LOW:HIGH, LOW:HIGH:STEP, log:LOW:HIGH or A|B, found {text!r}")
    low, high = (_value(field, part, where) for part in parts[:2])
    for end in (low, high):  # an optional flag, or two sides of an image
        if not isinstance(end, (int, float)):
            raise UserError(f"{where}: expected numbers at both ends, found {text!r}")
    if low >= high:
        raise UserError(f"{where}: expected LOW below HIGH, found {text!r}")
    if log and low <= 0:
        raise UserError(f"{where}: expected LOW above 0 with log, found {text!r}")
    step = _step(field, parts[2], high - low, where) if len(parts) == 3 else None
    return Range(field.name, text, low, high, step, log, field.kind is int)


def _step(field, text, width, where):
    try:
        step = field.kind(text)
    except ValueError:
        step = math.nan
    if not 0 < step <= width:
        raise UserError(f"{where}: expected a step above 0 and of at most {width:g}, found {text!r}")
    return step


def _choices(field, text, where):
    choices = tuple(part.strip() for part in text.split("|"))
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise UserError(f"{where}: expected two or more different values, A|B, found {text!r}")
    for choice in choices:
        _value(field, choice, where)
    return Range(field.name, text, choices=choices)


def _value(field, text, where):
    """The value of a text, judged as the flag would be."""
    try:
        return flags.parse([f"--{field.name}={text}"], [field])[field.name]
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix(f'--{field.name}: ')}") from None


def with_values(base, space, values):
    """The config of a trial.

    Args:
        base: flat dict, as `Config.as_dict`.
        space: tuple of Range.
        values: dict name -> value, of all or some of them.

    Raises:
        UserError: the values do not agree with one another, or with the base.
    """
    fields = [config.FIELDS[each.name] for each in space]
    argv = [f"--{each.name}={each.as_text(values[each.name])}" for each in space if each.name in values]
    return config.from_dict(base | flags.parse(argv, fields))


def check(base, space):
    """Raise UserError for choices that name no network or no policy, before the first trial.

    Whether values of several flags agree, each trial tells.
    """
    for each in space:
        for choice in each.choices:
            try:
                settings = with_values(base, space, {each.name: choice})
            except UserError:
                continue  # it may agree with a value of another range
            try:
                if each.name == "model":
                    checks.check_model(settings.model, settings.augment.image_size)
                elif each.name == "auto_augment":
                    checks.check_policy(settings)
            except UserError as error:
                raise UserError(f"--space: {each.name}={choice}: {error}") from None
