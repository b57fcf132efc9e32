"""Data sets by name: which module opens --dataset, and what can be judged before TensorFlow is imported."""

import dataclasses
import os
import re

from cct_tf.errors import UserError, nearest
from cct_tf.machine import files, own_code
from cct_tf.settings.config import PLACES

OURS = ("digits", "folder", "table", "npz")
_OWN = "FILE.py:FUNCTION"
SEVERAL_LABELS = ("table", "npz")  # data sets whose images may have several
_OF_TABLES = ("image_root", "columns", "class_names")


def check_name(config, part=None, stream=None):
    """Judge --dataset and --data_dir without TensorFlow, in about a second.

    Args:
        config: DataConfig.
        part: `tree.Part` of an image folder or a table that will be opened; None for all.
        stream: text stream for progress, or None.

    Returns:
        Sequence of the names of its classes; None where only opening it tells.

    Raises:
        UserError: an unknown name; a folder, a table or an archive that is not there or not as it must be; flags that
            the data set has no use for.
    """
    config = _expanded(config)
    _check_flags(config)
    if config.dataset in ("folder", "table"):
        from cct_tf.datasets import image_files

        return image_files.check(config, part, stream).class_names
    if config.dataset == "npz":
        from cct_tf.datasets import npz

        # Without the validation arrays, which runs of version 0 ignore; `open_npz` judges them.
        return npz.check(config, with_validation=False).class_names
    if own_code.is_named(config.dataset):
        own_code.check("dataset", config.dataset)
    elif config.dataset != "digits":
        _check_tfds_name(config)
    return None


def _expanded(config):
    """The config with a leading ~ of its paths replaced, which a shell leaves alone behind `=`."""
    paths = {name: getattr(config, name) for name in PLACES}
    return dataclasses.replace(config, **{name: path and os.path.expanduser(path) for name, path in paths.items()})


def _check_flags(config):
    """Raise UserError for a task, or flags of splits and tables, that the data set has no use for."""
    is_own = own_code.is_named(config.dataset)
    if config.task == "multilabel" and config.dataset not in SEVERAL_LABELS and not is_own:
        raise UserError(f"--task: expected single with --dataset={config.dataset}, whose images have one label each "
                        f"(several: --dataset={' or '.join(SEVERAL_LABELS)}), found 'multilabel'")
    _check_places(config, is_own)
    for flag in () if config.dataset == "table" or is_own else _OF_TABLES:
        if getattr(config, flag) is not None:
            raise UserError(f"--{flag}: expected it with --dataset=table, found it with --dataset={config.dataset}")
    if config.dataset == "digits" and config.channels not in (1, 3):
        raise UserError(f"--channels: expected 1 or 3 with --dataset=digits, found {config.channels}")
    if config.dataset in ("digits", "npz"):
        for flag in ("train_split", "test_split"):
            value, default = getattr(config, flag), flag.removesuffix("_split")
            if value != default:
                raise UserError(f"--{flag}: expected {default} with --dataset={config.dataset}, which has no other, "
                                f"found {value!r}")


def _check_places(config, is_own):
    """Raise UserError or OutsideFault for a remote place that can't be read; what own code reads is its own affair."""
    if config.data_dir and files.is_remote(config.data_dir) and not is_own and config.dataset not in OURS:
        raise UserError(f"--data_dir: expected a folder of this machine for sets of TFDS, found {config.data_dir!r}; "
                        "copy the prepared set here (gcloud storage cp -r), or mount the bucket")
    for flag in PLACES:
        if not (is_own and flag == "data_dir"):
            files.check(f"--{flag}", getattr(config, flag))


def _check_tfds_name(config):
    """Raise UserError if TFDS has no such set and none lies in the data folder."""
    name = re.split(r"[/:]", config.dataset)[0]
    if config.data_dir and re.fullmatch(r"\w+", name) and os.path.isdir(os.path.join(config.data_dir, name)):
        return  # prepared, perhaps by a builder that TFDS does not know
    import tensorflow_datasets as tfds  # half a second; its list does without TensorFlow

    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        where = f" or a set prepared in {config.data_dir}" if config.data_dir else ""
        raise UserError(f"--dataset: expected {', '.join(OURS)}, the name of a TFDS set{where}, or {_OWN}, found "
                        f"{config.dataset!r}" + nearest(name, [*OURS, *known]))


def open_source(config, stream=None, rules=None, part=None, cache=None, recorded=None):
    """Open the data set of a config.

    Args:
        config: DataConfig.
        stream: text stream for progress (stdout where it is free, else None).
        rules: `source.Rules` of a run that exists; None for a new one.
        part, cache, recorded: of a folder or a table, see `folder.open_folder`; other data sets are opened whole.

    Returns:
        source.Source.

    Raises:
        UserError: see `check_name`, and whatever can be wrong with the data; the message names flag or file.
    """
    from cct_tf.data import source

    config, rules = _expanded(config), rules or source.Rules()
    _check_flags(config)
    return _opened(config, rules, stream, part, cache, recorded).with_room(config.in_memory_gib * 2**30)


def _opened(config, rules, stream, part, cache, recorded):
    if config.dataset == "digits":
        from cct_tf.datasets import digits

        return digits.open_digits(config, rules)
    if config.dataset in ("folder", "table"):
        from cct_tf.datasets import folder

        return folder.open_folder(config, rules, stream, part, cache, recorded)
    if config.dataset == "npz":
        from cct_tf.datasets import npz

        return npz.open_npz(config, rules)
    if own_code.is_named(config.dataset):
        from cct_tf.datasets import own

        return own.open_own(config, rules, stream, part, cache, recorded)
    _check_tfds_name(config)
    from cct_tf.datasets import tfds

    return tfds.open_tfds(config, rules, stream)
