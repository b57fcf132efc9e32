"""Trained weights for a network of another image size or other classes. No TensorFlow here.

All other weights must fit, each and exactly: what only resembles a network is no start for it.
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
_HEAD = ("head/kernel", "head/bias")
# What two networks may differ in and still take each other's weights.
_FREE = ("name", "image_size", "positional_embedding", "initializer", "dropout_rate", "attention_dropout_rate",
         "drop_path_rate", "dropout_places")


@dataclasses.dataclass(frozen=True)
class Source:
    """Trained weights.

    Attributes:
        name: str, where they are from, for a person.
        arrays: dict of our path (without the model's name) -> NumPy float array.
        sines: the fixed positions they were trained with, [N, D], or None.
        variant: `Variant` of their network; None where it is known by its shapes alone.
        classes: tuple of class names, or () where they are not known.
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
class Fit:
    """Weights as a network takes them.

    Attributes:
        arrays: dict of our path -> NumPy array of the variable's shape; what is not in it keeps its initial value.
        changes: list of str, what is not as it was trained.
        warnings: list of str, which of that a person has to know.
    """

    arrays: dict
    changes: list
    warnings: list


def of_state(state, variant):
    """`Source` of a `state.StateDict` in the authors' names, for a network whose `Variant` is given.

    Raises:
        UserError: the network is none of the authors', or names are left over.
    """
    if not names.is_authors(variant):
        raise UserError(f"--init_from: expected weights of {variant.name}, which is none of the authors' networks, "
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
    return Source(state.path, arrays, sines)


def of_arrays(name, arrays, variant, classes=()):
    """`Source` of a network of ours; see there."""
    sines = None
    if variant.positional_embedding == "sine":
        sines = sine_positions(variant.num_tokens, variant.embed_dim)
    return Source(name, arrays, sines, variant, tuple(classes))


def shapes_of(variant):
    """{our path: shape} of one of the authors' networks, before it is built; None for the head."""
    shapes = {weight.ours: weight.to_ours(np.broadcast_to(np.float32(0), weight.shape)).shape
              for weight in names.weights(variant)}
    return shapes | dict.fromkeys(_HEAD)


def check_network(name, theirs, variant):
    """Raise UserError if weights of one `Variant` mean something else in another, whatever their shapes."""
    differing = [f"{field.name} {getattr(theirs, field.name)} instead of {getattr(variant, field.name)}"
                 for field in dataclasses.fields(Variant)
                 if field.name not in _FREE and getattr(theirs, field.name) != getattr(variant, field.name)]
    positions = theirs.positional_embedding, variant.positional_embedding
    if positions[0] != positions[1] and positions != ("sine", "learnable"):  # which may learn on
        differing.append(f"positional_embedding {positions[0]} instead of {positions[1]}")
    if differing:
        raise UserError(f"--init_from: expected the weights of a network like {variant.name}, found {theirs.name} in "
                        f"{name} ({', '.join(differing)})")


def fit(source, shapes, variant, classes=()):
    """Bring weights to a network: positions resized, the head left out if it is for another number of classes.

    Args:
        source: Source.
        shapes: dict of our path -> tuple, every weight of the network; of the head None, if its classes are not known
            yet.
        variant: `Variant` of the network.
        classes: names of its classes, if they are known.

    Returns:
        Fit.

    Raises:
        UserError: naming what is missing, left over, of another shape, or not finite.
    """
    if source.variant is not None:
        check_network(source.name, source.variant, variant)
    found, arrays, changes, problems = dict(source.arrays), {}, [], {}
    if POSITIONS in shapes and POSITIONS not in found and source.sines is not None:
        found[POSITIONS] = source.sines
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
        if path == POSITIONS and array.shape != shape:
            array = _resized(array, shape, variant, changes)
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
                        f"positions), found in {source.name} "
                        + "; ".join(f"{what}: {listed(paths)}" for what, paths in problems.items()))
    return Fit(arrays, *_judged(source, shapes, arrays, variant, classes, changes))


def _resized(array, shape, variant, changes):
    """Positions for the network's grid, or as they are if they have none."""
    class_token = not variant.seq_pool
    old, new = (grid_side(size, class_token) for size in (array.shape[0], shape[0]))
    if old is None or array.shape[1] != shape[1]:
        return array
    changes.append(f"positions of {old} x {old} tokens resized to {new} x {new}")
    return resize_positions(array, old, new, class_token)


def _judged(source, shapes, arrays, variant, classes, changes):
    """(changes, warnings) with those of sines and head."""
    changes, warnings = list(changes), []
    if variant.positional_embedding == "sine" and source.sines is not None and len(source.sines) != variant.num_tokens:
        changes.append(f"sine positions of {variant.num_tokens} tokens instead of {len(source.sines)}")
    if shapes[_HEAD[0]] is not None and _HEAD[0] not in arrays:
        changes.append("a new head")
        warnings.append(f"--init_from: the weights of the head are new, for {shapes[_HEAD[0]][1]} classes; those in "
                        f"{source.name} are for {source.arrays[_HEAD[0]].shape[1]}")
    elif source.classes and classes and tuple(classes) != source.classes:
        changes.append("the head of other classes")
        warnings.append(f"--init_from: the head in {source.name} was trained for other classes ("
                        f"{listed(list(source.classes))}); it is kept, for it has as many")
    return changes, warnings
