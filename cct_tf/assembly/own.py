"""Code of a user's own in a run: which flags name some, its stages, and whether it is what it was."""

import dataclasses

from cct_tf.errors import UserError
from cct_tf.machine import own_code

# What is said of a network by flags that only fit those of cct_tf.models: field -> (default, what does it instead).
_OF_OUR_NETWORKS = (
    dict.fromkeys(("positional_embedding", "norm_order", "dropout_rate", "attention_dropout_rate", "drop_path_rate"),
                  (None, "its code says what it is made of"))
    | dict.fromkeys(("qk_norm", "zero_init_outputs"), (False, "its code says what it is made of"))
    | {"init_from": (None, "its function loads weights"), "freeze": (None, "its layers say trainable=False"),
       "layer_decay": (1.0, "its blocks are not known"),
       "corrected_weight_decay": (False, "its head is not known"),
       "muon_split_qkv": (False, "its attention is not known"), "recompute": (False, "its blocks are not known")})


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is known of a network of the user's own before it is made: `image_size`, see `cct_tf.sizes`."""

    image_size: int | tuple


def is_model(config):
    """Whether --model names code."""
    return own_code.is_named(config.model.model)


def named(config):
    """List of (flag, value) of the code that a config names."""
    values = (("dataset", config.data.dataset), ("model", config.model.model))
    return [(flag, value) for flag, value in values if own_code.is_named(value)] + [
        ("augment", value) for value in _augment(config)]


def _augment(config):
    return config.augment.augment.split(",") if config.augment.augment else []


def check(config):
    """Judge without TensorFlow what names code; raises UserError."""
    for value in _augment(config):
        if not own_code.is_named(value):
            raise UserError(f"--augment: expected FILE.py:STAGE or module:STAGE, found {value!r}")
    if is_model(config):
        _check_flags(config)
    for flag, value in named(config):
        own_code.check(flag, value)


def check_model(value, image_size):
    """Judge without TensorFlow a network of the user's own and the size of its images; raises UserError."""
    own_code.check("model", value)
    if image_size is None:
        raise UserError(f"--image_size: expected the size of the input of --model={value}, found none")


def _check_flags(config):
    for name, (default, instead) in _OF_OUR_NETWORKS.items():
        if config.value(name) != default:
            raise UserError(f"--{name}: expected {'none' if default is None else default} with "
                            f"--model={config.model.model}, for {instead}, found {config.value(name)!r}")
    if config.run.jit == "encoder":
        raise UserError(f"--jit: expected auto, on, off or all with --model={config.model.model}, which has no "
                        "encoder, found 'encoder'")


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
