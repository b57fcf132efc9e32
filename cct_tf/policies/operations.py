"""One operation of a policy for each image of a batch, each image its own."""

import functools

import tensorflow as tf

from cct_tf.policies import affine, levels, slots
from cct_tf.policies.notation import BICUBIC, NEAREST, Op


def apply(images, operation, fill, geometry_alone=False):
    """Apply one operation to each image.

    Args:
        images: uint8 [B, H, W, C], C 1 or 3, of known shape; with `geometry_alone` uint16 too, and any C.
        operation: dict {"op": int32 [B], `policies.Op`; "argument": float64 [B], in the op's unit; "interpolation":
            int32 [B], of the geometric operations}.
        fill: C levels, for places where a geometric operation finds no pixel.
        geometry_alone: whether there are no other operations.

    Returns:
        The same [B, H, W, C].
    """
    op, argument, sides = operation["op"], operation["argument"], tuple(images.shape[1:3])
    matrix = affine.matrices(op, argument, sides)
    fill = tf.constant(fill, images.dtype)
    move = _move if geometry_alone else functools.partial(_apply, argument=argument)
    return move(images, op, interpolation=operation["interpolation"], steps=affine.nearest_steps(matrix),
                terms=affine.smooth_terms(matrix, sides), fill=fill)


def _is_one_of(op, codes):
    return tf.reduce_any(op[:, None] == tf.constant([int(code) for code in codes]), axis=1)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _apply(images, op, interpolation, steps, terms, fill, argument):
    """All groups of operations in one XLA program: starting one takes as long as ten images of 32 x 32."""
    images = slots.apply_where(levels.level_ops, images, _is_one_of(op, levels.LEVEL_OPS), op, argument)
    images = slots.apply_where(levels.auto_contrast, images, op == Op.AUTO_CONTRAST, slot=4)
    images = slots.apply_where(levels.equalize, images, op == Op.EQUALIZE, slot=2)
    return _moved(images, op, interpolation, steps, terms, fill)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _move(images, op, interpolation, steps, terms, fill):
    return _moved(images, op, interpolation, steps, terms, fill)


def _moved(images, op, interpolation, steps, terms, fill):
    moved, on_grid = _is_one_of(op, affine.OPS), interpolation == NEAREST
    images = slots.apply_where(lambda chosen, *params: affine.nearest(chosen, *params, fill), images, moved & on_grid,
                               steps)
    return slots.apply_where(lambda chosen, *params: affine.smooth(chosen, *params, fill), images, moved & ~on_grid,
                             terms, interpolation == BICUBIC)
