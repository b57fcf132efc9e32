"""What can be judged of a config before TensorFlow is imported, so that a wrong flag is answered at once."""

import os
import pathlib

from cct_tf.assembly import own, teachers
from cct_tf.augment import simd_resize
from cct_tf.convert import names
from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.machine import files, own_code
from cct_tf.models import variants
from cct_tf.optim import freezing
from cct_tf.policies import notation
from cct_tf.settings import class_weights
from cct_tf.settings.config import FIELDS


def check_workdir(path):
    """Raise UserError if --workdir is missing."""
    if not path:
        raise UserError("--workdir: expected the folder of the run, found none")


def shape_of(config):
    """What knows the `image_size` of a config's network: its `Variant`, or an `own.Shape`."""
    return variant_of(config) or own.Shape(config.augment.image_size)


def variant_of(config):
    """The `Variant` of a config (`config.Config`), with the rates of its table; None of a network of the user's own."""
    model = config.model
    if own.is_model(config):
        return None
    return variants.resolve(model.model, config.augment.image_size, model.positional_embedding, model.norm_order,
                            channels=config.data.channels, qk_norm=model.qk_norm,
                            zero_init_outputs=model.zero_init_outputs)


def check_model(model, image_size):
    """Raise UserError if the network can't be built.

    Args:
        model: `config.ModelConfig`.
        image_size: int or None.
    """
    if own_code.is_named(model.model):
        own.check_model(model.model, image_size)
        return
    if model.model.endswith(".py"):
        raise UserError(f"--model: expected {model.model}:FUNCTION for a network of your own, found no function")
    try:
        variants.resolve(model.model, image_size, model.positional_embedding, model.norm_order, model.dropout_rate,
                         model.attention_dropout_rate, model.drop_path_rate)
    except UserError as error:
        raise UserError(f"--{error}") from None  # the network's fields are called as the flags


def require_ours(flag, value, what):
    """Raise UserError if --model is the user's own, for what only networks of cct_tf.models have.

    Args:
        flag: the flag that asks for it, with dashes.
        value: of --model, str.
        what: why these, in words.
    """
    if own_code.is_named(value):
        raise UserError(f"{flag}: expected a network of cct_tf.models, {what}, found --model={value}")


def check_inputs(config, part=None, stream=None):
    """Judge what a config says of data, images and network.

    Args:
        config: `config.Config`.
        part: `tree.Part` that will be opened; None for all.
        stream: text stream for progress, or None.

    Returns:
        As `registry.check_name`.

    Raises:
        UserError: the first thing found wrong.
    """
    check_model(config.model, config.augment.image_size)
    check_policy(config)
    own.check(config)
    return registry.check_name(config.data, part, stream)


def has_validation(data):
    """Whether a data set, judged before, gets a validation split; None where only opening it tells.

    Args:
        data: `config.DataConfig`.
    """
    if data.holds_out or data.dataset == "digits":
        return data.holds_out
    if data.dataset in ("folder", "table"):
        from cct_tf.datasets import image_files
        return "validation" in image_files.check(data).files
    if data.dataset == "npz":
        from cct_tf.datasets import npz
        return "validation" in npz.check(data).images
    return None


def check_policy(config):
    """Raise UserError if --auto_augment names no policy, or one with operations that the images are not made for."""
    data, name = config.data, config.augment.auto_augment
    policy = notation.resolve(name)
    if policy is None or policy.level_op is None or (data.bits == 8 and data.channels in (1, 3)):
        return
    kind = "--bits=16" if data.bits == 16 else f"--channels={data.channels}"
    raise UserError(f"--auto_augment: expected trivial_geometric or none with {kind}, found {name!r}, which holds "
                    f"{policy.level_op.lower()}, an operation on colours or grey of 8 bits")


def check_config(config, part=None, stream=None):
    """Judge a whole config, of a run; the rest as for `check_inputs`. Raises UserError."""
    check_workdir(config.run.workdir)
    if config.data.resize == "fast":  # here too: `inputs.training_stages` says it after the data was opened
        simd_resize.require_package()
    classes = check_inputs(config, part, stream)
    _check_freeze(config)
    return classes


def check_training(config, stream=None):
    """As `check_config`, with what only training reads."""
    classes = check_config(config, stream=stream)
    teachers.find(config)
    if classes is None:
        class_weights.read(config.optim.class_weights)
    else:
        class_weights.of_classes(config.optim.class_weights, classes)


def _check_freeze(config):
    """Judge --freeze for the authors' networks; for others their variables tell, when they are built."""
    variant = variant_of(config)
    if variant is not None and names.is_authors(variant):
        freezing.frozen_paths([weight.ours for weight in names.weights(variant)], config.model.freeze, variant.name)


def check_output(flag, name, suffix):
    """Raise UserError unless a file can be written.

    Args:
        flag: the flag that names it, with dashes.
        name: its path, text.
        suffix: how it has to end, such as ".png".
    """
    path = pathlib.Path(name)
    if files.is_remote(name):
        files.check_folder(flag, files.dirname(name))
    if path.suffix.lower() != suffix or files.is_dir(name):  # that of pathlib raises if it can't be looked at
        raise UserError(f"{flag}: expected the name of a file that ends in {suffix}, found {name!r}")
    if not files.is_remote(name):
        _probe(path.with_name(f".{path.name}-{os.getpid()}"), f"{flag}: expected a file in a folder that can be "
               f"written, found {name!r}")


def places(config):
    """What a `config.Config` reads that may lie elsewhere: list of paths, some of them None."""
    return [config.value(name) for name, field in FIELDS.items() if field.remote]


def check_new_folder(flag, name):
    """Raise UserError unless a folder can be made, or is there and empty; arguments as for `check_output`."""
    if files.is_remote(name):
        files.check(flag, name)
        if files.is_file(name) or files.is_dir(name) and files.names(name):
            raise UserError(f"{flag}: expected a new or empty folder, found something at {name!r}")
        files.check_folder(flag, name)
        return
    path = pathlib.Path(name)
    try:
        found = ("a link to nothing" if path.is_symlink() and not path.exists() else None if not path.exists()
                 else "a file" if not path.is_dir() else "a folder with files in it" if any(path.iterdir()) else None)
    except OSError as error:
        found = error.strerror
    if found:
        raise UserError(f"{flag}: expected a new or empty folder, found {found} at {name!r}")
    folder = next(each for each in (path, *path.absolute().parents) if each.exists())
    _probe(folder / f".writable-{os.getpid()}", f"{flag}: expected a folder that can be made, found {name!r}")


def make_output_dir(flag, name):
    """Make a folder for results, or raise UserError; arguments as for `check_output`."""
    path, complaint = pathlib.Path(name), f"{flag}: expected a folder that can be written, found {name!r}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{complaint} ({error.strerror})") from None
    _probe(path / f".writable-{os.getpid()}", complaint)


def _probe(path, complaint):
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        raise UserError(f"{complaint} ({error.strerror})") from None
