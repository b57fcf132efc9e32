"""Dynamic loss scaling: what keeps gradients within the range of float16.

Float16 ends at 6e-8, above much of what a gradient consists of. So the loss is multiplied by a scale before its
gradients are taken, and their sum over micro-batches and replicas is divided by it in float32 (arXiv:1710.03740
Section 3.2). A scale that is too large shows as a gradient that is not finite: that update is skipped on all replicas.
Powers of two only, so that scaling rounds nothing.
"""

import tensorflow as tf

# Start and growth are those of Keras' LossScaleOptimizer (PyTorch's GradScaler starts at 2^16). Neither bounds the
# scale. NVIDIA's Apex ends at 2^24; below 1 it would make gradients smaller, not what is too large in the network.
START = 2.0**15
GOOD_UPDATES = 2000  # in a row, before the scale doubles
LOWEST, HIGHEST = 1.0, 2.0**24


class LossScale(tf.Module):
    """The scale of a run, part of its checkpoints.

    Attributes:
        scale: float32, what the loss is multiplied by.
        good_updates: int64, updates done since the scale changed or an update was skipped; below zero, how many were
            skipped in a row, those included that made the scale fall.
    """

    def __init__(self, kind="CPU"):
        super().__init__(name="loss_scale")
        with tf.device(f"{kind}:0"):  # as the counters of `state.TrainState`
            self.scale = tf.Variable(START, dtype=tf.float32, trainable=False, name="scale")
            self.good_updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_updates")

    def is_lowest(self):
        """Whether a smaller scale can't be tried any more, bool."""
        return self.scale <= LOWEST

    def follow(self, done, counts=True):
        """Settle the scale of the next step.

        Args:
            done: bool scalar, whether the update of this one was finite.
            counts: bool scalar; where it is False, nothing changes.
        """
        good = tf.where(done, tf.maximum(self.good_updates, 0) + 1, tf.minimum(self.good_updates, 0) - 1)
        grows = good >= GOOD_UPDATES
        factor = tf.where(done, tf.where(grows, 2.0, 1.0), 0.5)
        scale = tf.clip_by_value(self.scale * factor, LOWEST, HIGHEST)
        self.scale.assign(tf.where(counts, scale, self.scale))
        self.good_updates.assign(tf.where(counts, tf.where(grows, tf.zeros_like(good), good), self.good_updates))
