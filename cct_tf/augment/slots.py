"""Run a compiled function on some images of a batch, in slots of fixed size.

A policy draws another operation for every image. Doing every operation to every image costs ten times too much, and a
function compiled by XLA wants fixed shapes; so the images that drew an operation are gathered, padded to whole slots,
and sent through it slot by slot. As the shape is always the same, an image's pixels can't depend on its batch.
"""

import tensorflow as tf

SLOT = 16  # images; half of a slot is wasted on average, and a call costs about as much as four images of 32 x 32


def apply_where(function, images, mask, *params, slot=SLOT):
    """`function` of the images where `mask` is True; the others stay as they are.

    Args:
        function: (images [slot, ...], *params [slot, ...]) -> images of the same shape and type, with XLA or without.
        images: [B, ...], B may be unknown.
        mask: bool [B].
        params: tensors [B, ...].

    Returns:
        tensor like `images`.
    """
    rows = tf.where(mask)[:, 0]  # [k]
    padding = tf.repeat(rows[:1], -tf.size(rows) % slot)  # done again, with the same result
    rows = tf.reshape(tf.concat([rows, padding], 0), [-1, slot])

    def one_slot(index, result):
        chosen = tf.ensure_shape(rows[index], [slot])
        done = function(tf.gather(images, chosen), *(tf.gather(param, chosen) for param in params))
        return index + 1, tf.tensor_scatter_nd_update(result, chosen[:, None], done)

    _, result = tf.while_loop(lambda index, _: index < tf.shape(rows)[0], one_slot, (0, images),
                              shape_invariants=(tf.TensorShape([]), images.shape), parallel_iterations=1)
    return result
