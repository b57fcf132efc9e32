"""Run a function on some images of a batch, in slots of a fixed number of images, within one XLA program.

A policy draws an operation for each image. Applying every operation to every image would be wasteful, and XLA needs
fixed shapes; so the images that drew an operation are gathered and sent through it, one slot after the other. As all
slots have one shape, the pixels of an image do not depend on its batch.
"""

import tensorflow as tf

_SLOT, _SLOT_OF_LARGE = 16, 4  # images; half of a slot is wasted on average, and more slots take time of their own
_LARGE = 128  # pixels of a side


def apply_where(function, images, mask, *params, slot=None):
    """`function` of the images where `mask` is True; the others stay as they are.

    Args:
        function: (images [slot, ...], *params [slot, ...]) -> images of the same shape and type.
        images: [B, ...], of known shape.
        mask: bool [B].
        params: tensors [B, ...].
        slot: int, images at a time; None chooses by their size.

    Returns:
        tensor like `images`.
    """
    size = images.shape[0]
    slot = slot or (_SLOT_OF_LARGE if max(images.shape[1:3]) >= _LARGE else _SLOT)
    chosen_first = tf.argsort(tf.cast(~mask, tf.int32), stable=True)
    chosen_first = tf.concat([chosen_first, tf.fill([-size % slot], chosen_first[-1])], 0)
    count = tf.reduce_sum(tf.cast(mask, tf.int32))

    def one_slot(start, result):
        rows = tf.slice(chosen_first, [start], [slot])
        before = tf.gather(images, rows)
        after = function(before, *(tf.gather(param, rows) for param in params))
        wanted = tf.reshape(tf.gather(mask, rows), [slot] + [1] * (before.shape.rank - 1))
        return start + slot, tf.tensor_scatter_nd_update(result, rows[:, None], tf.where(wanted, after, before))

    return tf.while_loop(lambda start, _: start < count, one_slot, (0, images), parallel_iterations=1)[1]
