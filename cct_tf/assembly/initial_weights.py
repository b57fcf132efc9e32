"""The pretrained weights that a new run starts from, if --init_from names some.

As much as possible is checked without TensorFlow: all of a PyTorch file, and the record of a run.
"""

import dataclasses
import os
import pathlib

import numpy as np

from cct_tf.assembly import checks, selection
from cct_tf.convert import transfer
from cct_tf.convert.state import read_state
from cct_tf.convert.weights import by_path
from cct_tf.errors import UserError
from cct_tf.machine import files
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import averages

# --init_weights -> the state dict of a PyTorch file, and back, for messages.
_STATES = {"auto": "auto", "raw": "model", "ema": "ema"}
_ARGUMENTS = {"model": "--init_weights=raw", "ema": "--init_weights=ema"}


def find(config):
    """The weights that --init_from names.

    Args:
        config: `config.Config` of the run that starts.

    Returns:
        None without --init_from; else a function () -> `transfer.PretrainedWeights`, which may import TensorFlow.

    Raises:
        UserError: there are none, they can't be read, or are another network's; the function raises it too.
    """
    asked = os.path.expanduser(config.model.init_from or "")
    if not asked or not files.is_remote(asked):
        return _find(config, asked)
    asked = asked.rstrip("/")
    copy = _fetched(asked)
    with files.named(asked, copy):
        found = _find(config, copy)

    def load():
        with files.named(asked, copy):
            weights = found()
        return dataclasses.replace(weights, name=weights.name.replace(copy, asked))

    return load


def _fetched(asked):
    """The path of a copy of remote weights; of a work folder, one that has its best checkpoint alone."""
    files.check("--init_from", asked)
    if not files.is_dir(asked) or run_record.step_of(asked) is not None:
        return files.local(asked) if files.exists(asked) else asked
    best = f"{asked}/{Workdir('').best.name}"
    if files.is_dir(best):
        return os.path.dirname(files.local(best))
    hint = "; it is a copy of --backup_dir, which an empty --workdir goes on from"
    hint = hint if files.is_dir(f"{asked}/files") else ""
    raise UserError("--init_from: expected a work folder with a best checkpoint, or a checkpoint folder (step_...), "
                    f"found neither in {asked!r}{hint}")


def _find(config, name):
    """`find` of a path of this machine, or "" for none."""
    variant = checks.variant_of(config)
    if not name:
        return None
    if config.run.workdir and _is_inside(name, config.run.workdir):
        raise UserError(f"--init_from: expected weights outside the work folder of this run, found {name!r}")
    if os.path.isdir(name):
        return _in_run(name, config.model.init_weights, variant)
    if not os.path.isfile(name):
        found = "another kind of file" if os.path.exists(name) else "nothing"
        raise UserError(f"--init_from: expected a work folder, a checkpoint folder (step_...), a .keras, .pth or "
                        f".safetensors file, found {found} at {name!r}")
    if name.endswith(".keras"):
        return _in_keras_file(name, config.model.init_weights)
    if config.model.init_weights not in _STATES:
        raise UserError(f"--init_weights: expected {', '.join(_STATES)} for a file of PyTorch's, found "
                        f"{config.model.init_weights!r} for {name}")
    return _in_torch_file(name, _STATES[config.model.init_weights], variant)


def assign(pretrained, model, classes=()):
    """Give a network pretrained weights; call it under the strategy's scope.

    Args:
        pretrained: `transfer.PretrainedWeights`.
        model: a model of `cct_tf.create_model`.
        classes: names of its classes, if they are known.

    Returns:
        `transfer.AdaptedWeights`.

    Raises:
        UserError: they can't be adapted to the network; the model is left as it was.
    """
    variables = by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    adapted = transfer.adapt(pretrained, shapes, model.variant, classes)
    for path, array in adapted.arrays.items():
        variables[path].assign(array)
    return adapted


def _is_inside(name, folder):
    path, folder = pathlib.Path(name).resolve(), pathlib.Path(folder).resolve()
    return path == folder or folder in path.parents


def _in_run(name, weights, variant):
    """As `find`, of a work folder or a checkpoint folder."""
    checkpoint = name if run_record.step_of(name) is not None else "best"
    if checkpoint == "best" and not run_record.list_checkpoints(Workdir(name).best):
        raise UserError("--init_from: expected a work folder with a best checkpoint, or a checkpoint folder "
                        f"(step_...), found neither in {name!r}")

    selected = selection.select(name, checkpoint, weights, changed={"init_from": None}, needs_data=False,
                                workdir_flag="--init_from", checkpoint_flag="--init_from",
                                weights_flag="--init_weights")
    chosen = run_record.choose_weights(selected.record, weights)
    checks.require_ours("--init_from", selected.settings.model.model, "for others have names of their own")
    transfer.check_network(str(selected.path), checks.variant_of(selected.settings), variant)

    def load():
        from cct_tf.assembly import networks
        resolved = selected.record.resolved
        loaded = networks.load_model(selected.settings, resolved.num_classes, selected.find, chosen, flag="--init_from")
        text = f"{loaded.path} (step {loaded.record.step:,}, {averages.WEIGHTS[chosen]} weights)"
        return transfer.from_arrays(text, _arrays(loaded.model), loaded.model.variant, resolved.classes)

    return load


def _in_keras_file(name, weights):
    """As `find`, of a .keras file."""
    if weights not in ("auto", "raw"):
        raise UserError("--init_weights: expected auto or raw for a .keras file, which holds one set, found "
                        f"{weights!r} for {name}")

    def load():
        from cct_tf.assembly import keras_file
        try:
            model = keras_file.load(name)
        except UserError as error:
            raise UserError(f"--init_from: {error}") from None
        return transfer.from_arrays(name, _arrays(model), model.variant)

    return load


def _in_torch_file(name, state, variant):
    """As `find`, of a file of PyTorch's."""
    try:
        found = read_state(name, state, _ARGUMENTS)
    except UserError as error:
        raise UserError(f"--init_from: {error}") from None
    pretrained = transfer.from_state_dict(found, variant)
    transfer.adapt(pretrained, transfer.shapes_of(variant), variant)  # raises now what it would raise later
    return lambda: pretrained


def _arrays(model):
    """{path: float32 array}, also of a file saved in bfloat16, which is no NumPy type."""
    return {path: np.asarray(variable.value).astype(np.float32) for path, variable in by_path(model).items()}
