"""Loss and correctness, one value per example. B batch, K classes."""

import numpy as np
import tensorflow as tf


def cross_entropy(labels, logits):
    """Cross-entropy of soft targets: float32 [B, K], float32 [B, K] -> float32 [B]."""
    return -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=1)


def rank_of_label(labels, logits):
    """How many classes the network places before the labelled one.

    Ties go to the lower class index, as in argmax; a row that is not finite ranks last.

    Args:
        labels: float32 [B, K], the largest entry of a row is its class.
        logits: float32 [B, K].

    Returns:
        int64 [B]; 0 means the prediction is right.
    """
    # Not int32, which is computed on the host where the rest is on a GPU.
    num_classes = logits.shape[1]
    label = tf.argmax(labels, axis=1)
    own = tf.gather(logits, label, axis=1, batch_dims=1)[:, None]
    before = tf.constant(np.arange(num_classes))[None, :] < label[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    rank = tf.reduce_sum(tf.cast(ahead, tf.float32), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.cast(tf.where(finite, rank, float(num_classes)), tf.int64)
