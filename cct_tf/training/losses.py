"""Loss and correctness, one value per example. B batch, K classes."""

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
        int32 [B]; 0 means the prediction is right.
    """
    num_classes = logits.shape[1]
    label = tf.argmax(labels, axis=1, output_type=tf.int32)
    own = tf.gather(logits, label, axis=1, batch_dims=1)[:, None]
    before = tf.range(num_classes)[None, :] < label[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where(finite, rank, num_classes)
