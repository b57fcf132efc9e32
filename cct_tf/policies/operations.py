"""Operations of a policy on a batch, each image its own."""

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
    return apply_all(images, [operation], fill, geometry_alone)


def apply_all(images, operations, fill, geometry_alone=False):
    """`apply` of some operations, one after the other."""
    sides = tuple(images.shape[1:3])
    params = [_params(operation, sides) for operation in operations]
    params = tf.nest.map_structure(lambda *each: tf.stack(each), *params)  # [operations, B, ...] each
    return (_move if geometry_alone else _apply)(images, params, tf.constant(fill, images.dtype))


def _params(operation, sides):
    matrix = affine.matrices(operation["op"], operation["argument"], sides)
    return dict(operation) | {"steps": affine.nearest_steps(matrix), "terms": affine.smooth_terms(matrix, sides)}


def _is_one_of(op, codes):
    return tf.reduce_any(op[:, None] == tf.constant([int(code) for code in codes]), axis=1)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _apply(images, params, fill):
    """All groups of operations in one XLA program: starting one takes as long as ten images of 32 x 32."""
    def one(images, op, argument, **others):
        images = slots.apply_where(levels.level_ops, images, _is_one_of(op, levels.LEVEL_OPS), op, argument)
        images = slots.apply_where(levels.auto_contrast, images, op == Op.AUTO_CONTRAST, slot=(4, 2))
        images = slots.apply_where(levels.equalize, images, op == Op.EQUALIZE, slot=(2, 1))
        return _moved(images, fill, op, **others)

    return _one_by_one(one, images, params)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _move(images, params, fill):
    return _one_by_one(lambda images, argument, **others: _moved(images, fill, **others), images, params)


def _one_by_one(function, images, params):
    """The images after each of the operations; a loop, so that they are compiled once."""
    number = params["op"].shape[0]
    return tf.while_loop(
        lambda place, _: place < number,
        lambda place, images: (place + 1, function(images, **{name: column[place] for name, column in params.items()})),
        (0, images), parallel_iterations=1)[1]


def _moved(images, fill, op, interpolation, steps, terms):
    on_grid = interpolation == NEAREST
    images = slots.apply_where(lambda chosen, *params: affine.nearest(chosen, *params, fill), images,
                               _is_one_of(op, affine.OPS) & on_grid, steps)
    # Small images take less time than more groups would to compile, half a second.
    for axes, ops in affine.OPS_ALONG.items() if slots.are_large(images) else [("xy", affine.OPS)]:
        smooth = functools.partial(affine.smooth, fill=fill, axes=axes)
        images = slots.apply_where(smooth, images, _is_one_of(op, ops) & ~on_grid, terms, interpolation == BICUBIC)
    return images

