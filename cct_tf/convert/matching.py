"""Matches a state dict in the authors' names with a network of ours, and finds the network it belongs to.

No TensorFlow here: the shapes follow from the variant.
"""

import dataclasses

import numpy as np

from cct_tf.convert import names
from cct_tf.errors import UserError, nearest
from cct_tf.layers.sines import sine_positions
from cct_tf.models import variants

_MOST_NAMED = 8
_MOST_SINES = 2**22  # elements; those of CCT-14 at 384 pixels are 221,184
# Largest error of a sine: in float32 the angle 577 alone is off by 3e-5. Smaller types add their rounding.
_PRECISION = 1e-4
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclasses.dataclass(frozen=True)
class Match:
    """A state dict with exactly the weights of a network.

    Attributes:
        used: list of (`names.Weight`, NumPy float32 array in our order of axes), each weight of the network once.
        checked: names of constants whose values were compared with ours.
        left: names of counters, which are no weights and were left out.
    """

    used: list
    checked: list
    left: list


def num_classes(state):
    """Classes of a `StateDict`, by the shape of its head; 10 if it has none, which `match` refuses."""
    head = state.arrays.get("classifier.fc.weight")
    return head.shape[0] if head is not None and head.ndim == 2 else 10


def match(state, variant, classes):
    """Match a state dict with a network: every weight must be there with its shape, and nothing else.

    Args:
        state: `state.StateDict`.
        variant: `Variant`.
        classes: int, width of the logits.

    Returns:
        Match.

    Raises:
        UserError: the network is none of the authors', or names are missing or left over, shapes or constants differ,
            or values are not finite; naming them.
    """
    if not names.is_authors(variant):
        raise UserError(f"{state.path}: expected one of the authors' networks (cct_..., cvt_..., vit_..., "
                        f"norm_order=authors, qk_norm=false), found {variant.name} with "
                        f"norm_order={variant.norm_order}, qk_norm={str(variant.qk_norm).lower()}")
    table = {weight.authors: weight for weight in names.weights(variant, classes)}
    shapes = {name: weight.shape for name, weight in table.items()}
    if variant.positional_embedding == "sine":
        shapes[names.POSITIONS] = (1, variant.num_tokens, variant.embed_dim)
    left = [name for name in state.arrays if name not in shapes and name.endswith(names.COUNTER)]
    problems = _differences(state, shapes, left)
    if not problems:
        problems = _wrong_values(state, variant, shapes)
    if problems:
        raise UserError(f"{state.path}: expected the weights of {variant.name} ({variant.positional_embedding} "
                        f"positions, {classes} classes), found {'; '.join(problems)}")
    used = [(weight, weight.to_ours(_float32(state.arrays[name]))) for name, weight in table.items()]
    return Match(used, [name for name in shapes if name not in table], left)


def _float32(array):
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def listed(found):
    """The first names of a list as text, and how many more there are."""
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more


def _differences(state, shapes, left):
    """Names that are missing, left over, of another shape or no floats: a list of text."""
    missing = [name for name in shapes if name not in state.arrays]
    unused = [name for name in state.arrays if name not in shapes and name not in left]
    wrong = [f"{name} {list(state.arrays[name].shape)} instead of {list(shape)}" for name, shape in shapes.items()
             if name in state.arrays and state.arrays[name].shape != shape]
    whole = [name for name in shapes if name in state.arrays and state.dtypes[name] == "int64"]
    problems = []
    if missing:
        problems.append("missing: " + listed(missing))
    if unused:
        hints = [repr(name) + nearest(name, missing or shapes, 1).replace("; did", " (did").replace("?", "?)")
                 for name in unused[:_MOST_NAMED]]
        problems.append("unused: " + listed(hints + unused[_MOST_NAMED:]))
    if wrong:
        problems.append("of another shape: " + listed(wrong))
    if whole:
        problems.append("integers: " + listed(whole))
    return problems


def _wrong_values(state, variant, shapes):
    """Values that are not finite as float32, and sine positions other than ours: a list of text."""
    broken = [name for name in shapes if not np.isfinite(_float32(state.arrays[name])).all()]
    if broken:
        return ["values that are not finite (in float32): " + listed(broken)]
    if variant.positional_embedding == "sine" and not has_sines(state):
        return [f"other values of {names.POSITIONS} than the sines (--positional_embedding=learnable takes any)"]
    return []


def has_sines(state):
    """Whether the positions in a state dict are the fixed sine positions."""
    found = state.arrays.get(names.POSITIONS)
    if found is None or found.ndim != 3 or found.shape[0] != 1 or found.size > _MOST_SINES:
        return False
    rounding = _ROUNDING.get(state.dtypes[names.POSITIONS], 0.0)
    return np.allclose(found[0], sine_positions(*found.shape[1:]), rtol=0, atol=_PRECISION + rounding)


def infer(state, flag="--infer_model", way_out="name it with --model"):
    """The published network that a state dict belongs to, by its shapes (sine positions: by their values).

    The shapes don't show the number of heads; it is that of the published network.

    Args:
        state: `state.StateDict`.
        flag: the flag that asks for it, and way_out: what to do instead, for messages.

    Returns:
        Variant; its `positional_embedding` is "none" if the state dict has no positions.

    Raises:
        UserError: no published network has these shapes, or several have; those are listed.
    """
    if names.POSITIONS not in state.arrays:
        positions = "none"
    else:
        positions = "sine" if has_sines(state) else "learnable"
    matching = []
    for name in variants.PUBLISHED:
        plain = variants.resolve(name)
        variant = dataclasses.replace(plain, positional_embedding=positions)
        is_own = plain.positional_embedding == ("sine" if positions == "sine" else "learnable")
        if is_own and names.is_authors(variant) and _has_shapes_of(state, variant):
            matching.append(variant)
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"{flag}: expected shapes of one published network, found those of "
                        f"{' and '.join(variant.name for variant in matching)} in {state.path}; {way_out}")
    raise UserError(f"{flag}: expected the shapes of a published network, found {_sketch(state)} in "
                    f"{state.path}; {way_out} if it is one of {variants.GRAMMAR}")


def _has_shapes_of(state, variant):
    shapes = {weight.authors: weight.shape for weight in names.weights(variant, num_classes(state))}
    if variant.positional_embedding == "sine":
        shapes[names.POSITIONS] = (1, variant.num_tokens, variant.embed_dim)
    return shapes == {name: array.shape for name, array in state.arrays.items() if not name.endswith(names.COUNTER)}


def _sketch(state):
    """What the shapes in a state dict show of its network, for a message."""
    blocks = {name.split(".")[2] for name in state.arrays if name.startswith("classifier.blocks.")}
    parts = [f"{len(state.arrays)} tensors", f"{len(blocks)} blocks"]
    for name in ("tokenizer.conv_layers.0.0.weight", names.POSITIONS):
        parts.append(f"{name} {list(state.arrays[name].shape)}" if name in state.arrays else f"no {name}")
    return ", ".join(parts)
