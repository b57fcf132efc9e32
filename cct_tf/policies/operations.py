"""One operation of a policy for each image of a batch, each image its own."""

import functools

import tensorflow as tf

from cct_tf.policies import affine, levels, slots
from cct_tf.policies.notation import BICUBIC, NEAREST, Op


def apply(images, operation, fill):
    """Apply one operation to each image.

    Args:
        images: uint8 [B, H, W, 3], of known shape.
        operation: dict {"op": int32 [B], `policies.Op`; "argument": float64 [B], in the op's unit; "interpolation":
            int32 [B], of the geometric operations}.
        fill: three levels, for places where a geometric operation finds no pixel.

    Returns:
        uint8 [B, H, W, 3].
    """
    op, argument, sides = operation["op"], operation["argument"], tuple(images.shape[1:3])
    matrix = affine.matrices(op, argument, sides)
    return _apply(images, op, argument, operation["interpolation"], affine.nearest_steps(matrix),
                  affine.smooth_terms(matrix, sides), tf.constant(fill, tf.uint8))


def _is_one_of(op, codes):
    return tf.reduce_any(op[:, None] == tf.constant([int(code) for code in codes]), axis=1)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _apply(images, op, argument, interpolation, steps, terms, fill):
    """All groups of operations in one XLA program: starting one takes as long as ten images of 32 x 32."""
    images = slots.apply_where(levels.level_ops, images, _is_one_of(op, levels.LEVEL_OPS), op, argument)
    images = slots.apply_where(levels.auto_contrast, images, op == Op.AUTO_CONTRAST, slot=4)
    images = slots.apply_where(levels.equalize, images, op == Op.EQUALIZE, slot=2)
    moved, on_grid = _is_one_of(op, affine.OPS), interpolation == NEAREST
    images = slots.apply_where(lambda chosen, *params: affine.nearest(chosen, *params, fill), images, moved & on_grid,
                               steps)
    return slots.apply_where(lambda chosen, *params: affine.smooth(chosen, *params, fill), images, moved & ~on_grid,
                             terms, interpolation == BICUBIC)
