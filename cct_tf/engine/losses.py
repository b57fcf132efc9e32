"""Loss and correctness, one value per example. B batch, K classes."""

import numpy as np
import tensorflow as tf

from cct_tf.errors import UserError


def cross_entropy(labels, logits):
    """Cross-entropy of soft targets: float32 [B, K], float32 [B, K] -> float32 [B]."""
    return -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=1)


def confidence(logits):
    """The highest probability of each row: float32 [B, K] -> float32 [B]."""
    return tf.exp(tf.reduce_max(tf.nn.log_softmax(logits), axis=1))  # shares the log-softmax of `cross_entropy`


def binary_cross_entropy(labels, logits, weights=None):
    """Binary cross-entropy of soft targets, the mean over the classes (arXiv:2110.00476): as `cross_entropy`.

    Args:
        labels, logits: float32 [B, K].
        weights: float32 [K], by which the terms of the classes are multiplied, or None.
    """
    terms = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(terms if weights is None else terms * weights, axis=1)


def plain_loss(task):
    """What `eval/loss` is the mean of, a function as `make_loss` gives it; `task`: "single" or "multilabel"."""
    return binary_cross_entropy if task == "multilabel" else cross_entropy


def make_loss(optim, train_split, num_classes, task="single", class_weights=None):
    """The loss of a run, per example. `eval/loss` is plain cross-entropy of the task whatever this is.

    Args:
        optim: `config.OptimConfig`.
        train_split: `source.Split`, whose labels balance the classes if they are to be.
        num_classes: int K.
        task: "single" or "multilabel".
        class_weights: sequence of K floats, where they are given; None: as `optim.class_weights` says, "none" or
            "balanced".

    Returns:
        Function of (labels float32 [B, K], logits float32 [B, K]) -> float32 [B]. Weights multiply an example's loss;
        with "multilabel" they multiply the terms of the classes (torch.nn.MultiLabelSoftMarginLoss).

    Raises:
        UserError: classes to be balanced whose images can't be counted, or that have none.
    """
    loss = {"cross_entropy": cross_entropy, "bce": binary_cross_entropy}[optim.loss]
    loss = plain_loss(task) if task == "multilabel" else loss
    if class_weights is None and optim.class_weights == "none":
        return loss
    weights = balanced_weights(train_split.labels, num_classes) if class_weights is None else np.array(class_weights)
    weights = weights.astype(np.float32)
    if task == "multilabel":
        return lambda labels, logits: binary_cross_entropy(labels, logits, tf.constant(weights))
    smoothing = optim.label_smoothing

    def weighted(labels, logits):
        # By the classes of the images alone: smoothing would lend every class a part of the rarest one's weight.
        own = (labels - smoothing / num_classes) / (1.0 - smoothing)
        return tf.linalg.matvec(own, tf.constant(weights)) * loss(labels, logits)

    return weighted


def balanced_weights(labels, num_classes):
    """n / (K n_k) of each class k with n_k of the n labels: the weights of all labels have mean 1.

    Args:
        labels: NumPy array, int [n] of an image each, or [images, K] of 0 and 1, n of them 1; None where they are not
            known beforehand.
        num_classes: int K.

    Returns:
        float64 [K] NumPy array.

    Raises:
        UserError: no labels, or a class without images.
    """
    if labels is None:
        raise UserError("--class_weights: expected none for a TFDS set that is not held in memory, whose labels "
                        "are not counted beforehand, found balanced")
    counts = np.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(axis=0, dtype=np.int64)
    if counts.min() == 0:
        raise UserError("--class_weights: expected a training image of every class, found none of class "
                        f"{counts.argmin()} (from 0)")
    return counts.sum() / (num_classes * counts)


def is_first(labels, logits):
    """Whether the labelled class is placed first, 1 or 0: float32 [B, K], float32 [B, K] -> float32 [B]."""
    return tf.cast(rank_of_label(labels, logits) == 0, tf.float32)


def share_right(labels, logits):
    """The share of the classes of which it is rightly said, at 0.5, whether an image has them: as `is_first`."""
    return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0.5), tf.float32), axis=1)


def make_accuracy(task):
    """What `train/accuracy` is the mean of: `share_right` with "multilabel", else `is_first`."""
    return share_right if task == "multilabel" else is_first


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
