"""Run a function on some images of a batch, in slots of a fixed number of images, within one XLA program.

A policy draws an operation for each image. Applying every operation to every image would be wasteful, and XLA needs
fixed shapes; so the images that drew an operation are gathered and sent through it, one slot after the other. As all
slots have one shape, the pixels of an image do not depend on its batch.
"""

import tensorflow as tf

SLOTS = 16, 2  # images of a slot, small and large ones; half is wasted on average, and a slot takes time of its own
_LARGE = 128  # pixels of a side


def are_large(images):
    """Whether images [B, H, W, C] are large ones."""
    return max(images.shape[1:3]) >= _LARGE


def apply_where(function, images, mask, *params, slot=SLOTS):
    """`function` of the images where `mask` is True; the others stay as they are.

    Args:
        function: (images [slot, ...], *params [slot, ...]) -> images of the same shape and type.
        images: [B, ...], of known shape.
        mask: bool [B].
        params: tensors [B, ...].
        slot: ints, images at a time, small and large ones.

    Returns:
        tensor like `images`.
    """
    size = images.shape[0]
    slot = slot[are_large(images)]
    chosen_first = tf.argsort(tf.cast(~mask, tf.int32), stable=True)
    chosen_first = tf.concat([chosen_first, tf.fill([-size % slot], chosen_first[-1])], 0)
    count = tf.reduce_sum(tf.cast(mask, tf.int32))

    def one_slot(start, result):
        rows = tf.slice(chosen_first, [start], [slot])
        rows = tf.where(start + tf.range(slot) < count, rows, rows[0])  # a slot that is not full repeats its first
        # From `result`, not `images`, which XLA would copy for each loop; a row is in one slot alone.
        after = function(tf.gather(result, rows), *(tf.gather(param, rows) for param in params))
        return start + slot, tf.tensor_scatter_nd_update(result, rows[:, None], after)

    return tf.while_loop(lambda start, _: start < count, one_slot, (0, images), parallel_iterations=1)[1]
