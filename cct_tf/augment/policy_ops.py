"""One operation of a policy on every image of a batch, each image with an operation of its own."""

import tensorflow as tf

from cct_tf.augment import affine, lookup, slots
from cct_tf.augment.policies import BICUBIC, NEAREST

_level_ops = tf.function(lookup.level_ops, jit_compile=True, autograph=False)
_nearest = tf.function(affine.nearest, jit_compile=True, autograph=False)
_smooth = tf.function(affine.smooth, jit_compile=True, autograph=False)


def _is_one_of(op, codes):
    return tf.reduce_any(op[:, None] == tf.constant([int(code) for code in codes]), axis=1)


def apply(images, stage, fill):
    """Do what `stage` says to each image.

    Args:
        images: uint8 [B, S, S, 3], B may be unknown.
        stage: dict {"op": int32 [B], `policies.Op`; "argument": float64 [B], in the op's unit; "interpolation":
            int32 [B], of the geometric operations}.
        fill: three levels, where a geometric operation finds no pixel.

    Returns:
        uint8 [B, S, S, 3].
    """
    op, argument, size = stage["op"], stage["argument"], images.shape[1]
    images = slots.apply_where(_level_ops, images, _is_one_of(op, lookup.LEVEL_OPS), op, argument)
    images = _histogram_ops(images, op)
    moved, on_grid = _is_one_of(op, affine.OPS), stage["interpolation"] == NEAREST
    matrix, bicubic = affine.matrices(op, argument, size), stage["interpolation"] == BICUBIC
    fill = tf.constant(fill, tf.uint8)
    images = slots.apply_where(lambda chosen, steps: _nearest(chosen, steps, fill), images, moved & on_grid,
                               affine.nearest_steps(matrix))
    return slots.apply_where(lambda chosen, *params: _smooth(chosen, *params, fill), images, moved & ~on_grid,
                             affine.smooth_terms(matrix, size), bicubic)


def _histogram_ops(images, op):
    """These are few and not compiled: float64 sums must round as Python's do."""
    rows = tf.where(_is_one_of(op, lookup.HISTOGRAM_OPS))
    done = lookup.histogram_ops(tf.gather(images, rows[:, 0]), tf.gather(op, rows[:, 0]))
    return tf.tensor_scatter_nd_update(images, rows, done)
