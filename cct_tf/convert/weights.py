"""Weights from the authors' PyTorch networks to ours, and back."""

import numpy as np

from cct_tf.convert import names
from cct_tf.convert.matching import match
from cct_tf.convert.state import read_state
from cct_tf.layers.sines import sine_positions


def by_path(model):
    """{path without the model's name: keras.Variable} of a network's weights; seed generators are not among them."""
    return {variable.path.partition("/")[2]: variable for variable in model.weights}


def load_torch_weights(model, path, state="auto"):
    """Load a state dict of the authors into a network. Needs no PyTorch and runs nothing in the file.

    Args:
        model: a model of `cct_tf.create_model`, one of the authors' networks, with the file's number of classes.
        path: .pth file (zip or legacy format) or .safetensors file: a state dict, or a checkpoint with one.
        state: "model", "ema" (the moving average), or "auto" if the file has only one.

    Returns:
        `matching.Match`: every weight of the network, under both names.

    Raises:
        UserError: the file can't be read, or its weights are not the network's; the model is left as it was.
    """
    found = match(read_state(path, state), model.variant, model.num_classes)
    assign(model, found)
    return found


def assign(model, found):
    """Give a network the weights of a `matching.Match` for its variant."""
    variables = by_path(model)
    for weight, array in found.used:
        variables[weight.ours].assign(array)


def to_torch(model):
    """The state dict of a network, which the authors' code loads with `load_state_dict(..., strict=True)`.

    Args:
        model: a model of `cct_tf.create_model`, one of the authors' networks.

    Returns:
        dict name -> NumPy float32 array, axes in the authors' order; sine positions included, if the network has them.

    Raises:
        UserError: the network is none of the authors'.
    """
    variant, variables = model.variant, by_path(model)
    names.check_authors("--to_torch", variant)
    arrays = {}
    if variant.positional_embedding == "sine":
        arrays[names.POSITIONS] = sine_positions(variant.num_tokens, variant.embed_dim)[None]
    for weight in names.weights(variant, model.num_classes):
        arrays[weight.authors] = weight.to_authors(np.asarray(variables[weight.ours].value, np.float32))
    return arrays
