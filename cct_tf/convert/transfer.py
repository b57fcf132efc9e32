"""Pretrained weights for a network of another image size or with other classes. No TensorFlow here.

Position embeddings are resized, and the head is left out if the number of classes differs. Every other weight must be
there with exactly the network's shape.
"""

import dataclasses
import zlib

import numpy as np

from cct_tf.convert import names
from cct_tf.convert.matching import has_sines, listed
from cct_tf.errors import UserError, nearest
from cct_tf.layers.position_grid import grid_side, resize_positions
from cct_tf.layers.sines import sine_positions
from cct_tf.models.variants import Variant

POSITIONS = "positions/embedding"
_FIRST_KERNELS = ("tokenizer/conv_0_kernel", "tokenizer/kernel")
_HEAD = ("head/kernel", "head/bias")
# Fields in which two networks may differ and still take each other's weights.
_FREE = ("name", "image_size", "positional_embedding", "initializer", "dropout_rate", "attention_dropout_rate",
         "drop_path_rate", "dropout_places", "channels", "zero_init_outputs")


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """Trained weights, as they were read.

    Attributes:
        name: str, the file or checkpoint, for messages.
        arrays: dict of our path (without the model's name) -> NumPy float array.
        sines: NumPy [N, D], the sine positions that they were trained with, or None.
        variant: `Variant` of their network; None if only the shapes are known.
        classes: tuple of class names, or () if they are not known.
    """

    name: str
    arrays: dict
    sines: np.ndarray | None = None
    variant: Variant | None = None
    classes: tuple = ()

    @property
    def checksum(self):
        """CRC-32 of paths and values as eight hexadecimal digits."""
        crc = 0
        for path, array in sorted(self.arrays.items()):
            crc = zlib.crc32(np.ascontiguousarray(array), zlib.crc32(path.encode(), crc))
        return f"{crc:08x}"


@dataclasses.dataclass(frozen=True)
class AdaptedWeights:
    """Pretrained weights in the shapes of the network that takes them.

    Attributes:
        arrays: dict of our path -> NumPy array of the variable's shape; a variable without one keeps its initial value.
        changes: list of str, what differs from the pretrained weights.
        warnings: list of str, those of the changes that the user has to know.
    """

    arrays: dict
    changes: list
    warnings: list


def from_state_dict(state, variant):
    """The weights of a state dict in the authors' names.

    Args:
        state: `state.StateDict`.
        variant: `Variant` of the network that is to take them; image size and classes may differ.

    Returns:
        PretrainedWeights.

    Raises:
        UserError: the network is none of the authors', a name is not one of its weights, or an array has another number
            of axes.
    """
    if not names.is_authors(variant):
        network = variant.name + " with --qk_norm" * variant.qk_norm
        raise UserError(f"--init_from: expected weights of {network}, which is none of the authors' networks, "
                        f"found PyTorch's in {state.path}")
    learnable = dataclasses.replace(variant, positional_embedding="learnable")
    table = {weight.authors: weight for weight in names.weights(learnable)}
    arrays, sines, left = {}, None, []
    for name, array in state.arrays.items():
        weight = table.get(name)
        if weight is None:
            left += [] if name.endswith(names.COUNTER) else [name]
        elif name == names.POSITIONS and has_sines(state):
            sines = weight.to_ours(array)
        elif array.ndim != len(weight.shape):
            raise UserError(f"--init_from: expected {name} of {state.path} to have {len(weight.shape)} axes, found "
                            f"{list(array.shape)}")
        else:
            arrays[weight.ours] = weight.to_ours(array)
    if left:
        hint = nearest(left[0], [name for name in table if name not in state.arrays] or table, 1)
        raise UserError(f"--init_from: expected the weights of {variant.name} alone, found {listed(left)} in "
                        f"{state.path}{hint}")
    return PretrainedWeights(state.path, arrays, sines)


def from_arrays(name, arrays, variant, classes=()):
    """The weights of one of our own networks; arguments as the attributes of `PretrainedWeights`."""
    sines = None
    if variant.positional_embedding == "sine":
        sines = sine_positions(variant.num_tokens, variant.embed_dim)
    return PretrainedWeights(name, arrays, sines, variant, tuple(classes))


def shapes_of(variant):
    """{our path: shape} of one of the authors' networks, before it is built; None for the head."""
    shapes = {weight.ours: weight.to_ours(np.broadcast_to(np.float32(0), weight.shape)).shape
              for weight in names.weights(variant)}
    return shapes | dict.fromkeys(_HEAD)


def check_network(name, theirs, variant):
    """Raise UserError if two networks differ in more than weights can be adapted to, even where all shapes are equal.

    Args:
        name: where the weights are from, for the message.
        theirs: `Variant` that the weights were trained in.
        variant: `Variant` that is to take them.
    """
    differing = [f"{field.name} {getattr(theirs, field.name)} instead of {getattr(variant, field.name)}"
                 for field in dataclasses.fields(Variant)
                 if field.name not in _FREE and getattr(theirs, field.name) != getattr(variant, field.name)]
    positions = theirs.positional_embedding, variant.positional_embedding
    if positions[0] != positions[1] and positions != ("sine", "learnable"):  # sines may be trained further
        differing.append(f"positional_embedding {positions[0]} instead of {positions[1]}")
    if differing:
        raise UserError(f"--init_from: expected the weights of a network like {variant.name}, found {theirs.name} in "
                        f"{name} ({', '.join(differing)})")


def adapt(pretrained, shapes, variant, classes=()):
    """Adapt weights to a network: resize the positions, and leave out a head for another number of classes.

    Args:
        pretrained: PretrainedWeights.
        shapes: dict of our path -> tuple, every weight of the network; None for those of the head if its classes are
            not known yet.
        variant: `Variant` of the network.
        classes: names of its classes, if they are known.

    Returns:
        AdaptedWeights.

    Raises:
        UserError: naming what is missing, left over, of another shape, or not finite.
    """
    theirs = pretrained.variant
    if theirs is not None:
        check_network(pretrained.name, theirs, variant)
    found, arrays, changes, problems = dict(pretrained.arrays), {}, [], {}
    if POSITIONS in shapes and POSITIONS not in found and pretrained.sines is not None:
        found[POSITIONS] = pretrained.sines
        changes.append("sine positions, learned from here on")
    for path, shape in shapes.items():
        array = found.pop(path, None)
        if array is None:
            problems.setdefault("missing", []).append(path)
            continue
        if array.dtype.kind != "f":
            problems.setdefault("no floating-point numbers", []).append(path)
            continue
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            problems.setdefault("values that are not finite (in float32)", []).append(path)
        if path in _FIRST_KERNELS and array.ndim == 4 and array.shape[2] == 3 and shape[2] != 3:
            # Equal channels give what they would give in colour: of a grey image the sum.
            array = np.repeat(array.sum(axis=2, keepdims=True) / np.float32(shape[2]), shape[2], axis=2)
            changes.append("the first kernel summed over the colours" if shape[2] == 1 else
                           f"the first kernel averaged over the colours for {shape[2]} channels")
        if path == POSITIONS:
            array = _resized(array, shape, variant, theirs, changes)
        if path in _HEAD and (shape is None or array.shape != shape and array.shape[:-1] == shape[:-1]):
            continue
        if array.shape != shape:
            problems.setdefault("of another shape", []).append(f"{path} {list(array.shape)} instead of {list(shape)}")
        arrays[path] = array
    if found:
        problems["left over"] = list(found)
    if len(arrays.keys() & set(_HEAD)) == 1:
        problems["a head of two numbers of classes"] = list(_HEAD)
    if problems:
        raise UserError(f"--init_from: expected the weights of {variant.name} ({variant.positional_embedding} "
                        f"positions), found in {pretrained.name} "
                        + "; ".join(f"{what}: {listed(paths)}" for what, paths in problems.items()))
    return AdaptedWeights(arrays, *_with_sines_and_head(pretrained, shapes, arrays, variant, classes, changes))


def _resized(array, shape, variant, theirs, changes):
    """Positions brought to the network's grid; as they are if it is theirs, or theirs is not known, or not their width.

    Args:
        theirs: `Variant` that they were trained in; None if only their number is known: then their grid is a square.
    """
    class_token, new = not variant.seq_pool, variant.grid
    side = grid_side(array.shape[0], class_token)
    old = theirs.grid if theirs else side and (side, side)
    if old in (None, new) or array.shape[1:] != shape[1:]:
        return array
    changes.append(f"positions of {old[0]} x {old[1]} tokens resized to {new[0]} x {new[1]}")
    return resize_positions(array, old, new, class_token)


def _with_sines_and_head(pretrained, shapes, arrays, variant, classes, changes):
    """(changes, warnings), with what happens to sine positions and to the head."""
    changes, warnings, sines = list(changes), [], pretrained.sines
    if variant.positional_embedding == "sine" and sines is not None and len(sines) != variant.num_tokens:
        changes.append(f"sine positions of {variant.num_tokens} tokens instead of {len(sines)}")
    if shapes[_HEAD[0]] is not None and _HEAD[0] not in arrays:
        changes.append("a new head")
        warnings.append(f"--init_from: the weights of the head are new, for {shapes[_HEAD[0]][1]} classes; those in "
                        f"{pretrained.name} are for {pretrained.arrays[_HEAD[0]].shape[1]}")
    elif pretrained.classes and classes and tuple(classes) != pretrained.classes:
        changes.append("the head of other classes")
        warnings.append(f"--init_from: the head in {pretrained.name} was trained for other classes ("
                        f"{listed(list(pretrained.classes))}); it is kept, for it has as many")
    return changes, warnings
