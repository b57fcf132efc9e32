"""Code of a user's own in a run: which flags name some, its stages, and whether it is what it was."""

from cct_tf.errors import UserError
from cct_tf.machine import own_code


def named(config):
    """List of (flag, value) of the code that a config names."""
    found = [("dataset", config.data.dataset)] if own_code.is_named(config.data.dataset) else []
    return found + [("augment", value) for value in _augment(config)]


def _augment(config):
    return config.augment.augment.split(",") if config.augment.augment else []


def check(config):
    """Judge without TensorFlow what names code; raises UserError."""
    for value in _augment(config):
        if not own_code.is_named(value):
            raise UserError(f"--augment: expected FILE.py:STAGE or module:STAGE, found {value!r}")
    for flag, value in named(config):
        own_code.check(flag, value)


def checksums(config):
    """dict of the CRC-32 of each file, eight hex digits, by the value that names it; None without any."""
    return {value: own_code.checksum(flag, value) for flag, value in named(config)} or None


def changes(config, resolved):
    """Text that names the files that changed since `resolved` (`resolved.Resolved`) was recorded; None if none did."""
    before = resolved.own_code or {}
    changed = [value for value, found in (checksums(config) or {}).items() if before.get(value, found) != found]
    return ", ".join(changed) or None


def stages(config):
    """The stages of --augment, made: tuple of `stages.Stage`.

    Raises:
        UserError: there is none, or it is no stage that can be put into the list.
    """
    return tuple(_stage(value) for value in _augment(config))


def _stage(value):
    from cct_tf.augment import stages as stages_lib  # TensorFlow, which `check` does without

    kind = own_code.load("augment", value)
    with own_code.errors_shown("augment", value):
        found = kind()
    places = (stages_lib.BATCH, stages_lib.DEVICE)
    if not isinstance(found, stages_lib.Stage) or found.where not in places or not found.name:
        raise UserError("--augment: expected a subclass of cct_tf.augment.stages.Stage with a name, whose `where` is "
                        f"BATCH or DEVICE, found {value} ({type(found).__name__})")
    return found
