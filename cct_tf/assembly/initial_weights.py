"""The weights that a new run starts from, where --init_from names some.

Judged without TensorFlow as far as they can be: a file of PyTorch's wholly, a work folder by its record.
"""

import contextlib
import os
import pathlib
import re

import numpy as np

from cct_tf.convert import transfer
from cct_tf.convert.state import read_state
from cct_tf.convert.weights import by_path
from cct_tf.errors import UserError
from cct_tf.models import variants
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import config as config_lib

_STATES = {"auto": "auto", "raw": "model", "ema": "ema"}


def find(config):
    """The weights that --init_from names.

    Args:
        config: `config.Config` of the run that starts.

    Returns:
        None without --init_from; else a function () -> `transfer.Source`, which may import TensorFlow.

    Raises:
        UserError: there are none, they can't be read, or are another network's; from the function too.
    """
    name, variant = os.path.expanduser(config.model.init_from or ""), _variant(config)
    if not name:
        return None
    if config.run.workdir and _is_inside(name, config.run.workdir):
        raise UserError(f"--init_from: expected weights outside the work folder of this run, found {name!r}")
    if os.path.isdir(name):
        return _find_checkpoint(name, config.model.init_weights, variant)
    if not os.path.isfile(name):
        found = "another kind of file" if os.path.exists(name) else "nothing"
        raise UserError(f"--init_from: expected a work folder, a checkpoint folder (step_...), a .keras, .pth or "
                        f".safetensors file, found {found} at {name!r}")
    if name.endswith(".keras"):
        return _find_keras(name, config.model.init_weights)
    return _find_torch(name, _STATES[config.model.init_weights], variant)


def assign(source, model, classes=()):
    """Give a network the weights of a `transfer.Source`; call it under the strategy's scope.

    Args:
        source: the weights.
        model: a model of `cct_tf.create_model`.
        classes: names of the classes it is to tell apart, if they are known.

    Returns:
        `transfer.Fit`.

    Raises:
        UserError: they don't fit; the model is left as it was.
    """
    variables = by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    found = transfer.fit(source, shapes, model.variant, classes)
    for path, array in found.arrays.items():
        variables[path].assign(array)
    return found


def _variant(config):
    model = config.model
    return variants.resolve(model.model, config.augment.image_size, model.positional_embedding, model.norm_order)


def _is_inside(name, folder):
    path, folder = pathlib.Path(name).resolve(), pathlib.Path(folder).resolve()
    return path == folder or folder in path.parents


def _find_checkpoint(name, weights, variant):
    asked = name if run_record.step_of(name) is not None else "best"

    if asked == "best" and not run_record.list_checkpoints(Workdir(name).best):
        raise UserError("--init_from: expected a work folder with a best checkpoint, or a checkpoint folder "
                        f"(step_...), found neither in {name!r}")

    def choose():
        with _named_init_from():
            return run_record.find_checkpoint(Workdir(name), asked)

    path, record = choose()
    with _named_init_from():
        chosen = run_record.choose_weights(record, weights)
    before = config_lib.from_dict(record.config | {"num_replicas": None, "accumulate_steps": None, "init_from": None})
    transfer.check_network(str(path), _variant(before), variant)

    def load():
        from cct_tf.assembly import networks
        resolved = record.resolved
        loaded = networks.load_model(before, resolved.num_classes, choose, chosen)
        text = f"{loaded.path} (step {loaded.record.step:,}, {'EMA' if chosen == 'ema' else 'raw'} weights)"
        return transfer.of_arrays(text, _arrays(loaded.model), loaded.model.variant, resolved.classes)

    return load


@contextlib.contextmanager
def _named_init_from():
    """Has errors of what reads checkpoints name our flags."""
    try:
        yield
    except UserError as error:
        text = re.sub("--(workdir|checkpoint)", "--init_from", str(error)).replace("--weights", "--init_weights")
        raise UserError(text) from None


def _find_keras(name, weights):
    if weights == "ema":
        raise UserError(f"--init_weights: expected auto or raw for a .keras file, which holds one set, found 'ema' for "
                        f"{name}")

    def load():
        from cct_tf.assembly import keras_file
        try:
            model = keras_file.load(name)
        except UserError as error:
            raise UserError(f"--init_from: {error}") from None
        return transfer.of_arrays(name, _arrays(model), model.variant)

    return load


def _find_torch(name, state, variant):
    try:
        source = transfer.of_state(read_state(name, state), variant)
    except UserError as error:
        text = str(error).replace("--state=model", "--init_weights=raw").replace("--state=ema", "--init_weights=ema")
        raise UserError(text if text.startswith("--") else f"--init_from: {text}") from None
    transfer.fit(source, transfer.shapes_of(variant), variant)
    return lambda: source


def _arrays(model):
    # Of a file that was saved in bfloat16, too, which is no type of NumPy's own.
    return {path: np.asarray(variable.value).astype(np.float32) for path, variable in by_path(model).items()}
