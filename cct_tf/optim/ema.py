"""Exponential moving average of the weights."""

import tensorflow as tf

from cct_tf.optim.fused import descend


class Average:
    """Averages of a network's weights: the trainable variables of a second network of the same kind, so that they can
    be evaluated, saved and mirrored like any network's.

    Args:
        strategy: tf.distribute.Strategy under whose scope both networks were built.
        weights, averages: lists of keras.Variable, in the same order.
    """

    def __init__(self, strategy, weights, averages):
        self._strategy = strategy
        # tf.Variables: what `descend` and extended.update take.
        self._pairs = [(average.value, weight.value) for average, weight in zip(averages, weights, strict=True)]

    def start(self):
        """Set the averages to the weights."""
        for average, weight in self._pairs:
            # Each replica from its own copy of the weight: nothing is sent.
            self._strategy.extended.update(average, lambda average, weight: average.assign(weight), args=(weight,))


class Ema(Average):
    """Averages that follow a network's weights: after update t, average = d average + (1 - d) weight.

    d = min(decay, (1 + t) / (10 + t)) with warm-up, as in TensorFlow's ExponentialMovingAverage, else decay; t counts
    the updates that were done, from 0.

    Args:
        decay: float in (0, 1).
        warmup: bool.
        strategy, weights, averages: see `Average`.
    """

    def __init__(self, strategy, decay, warmup, weights, averages):
        super().__init__(strategy, weights, averages)
        self._decay = decay
        self._warmup = warmup

    def update(self, updates, applies=True):
        """Follow the weights after an update; call it in cross-replica context.

        Args:
            updates: int64 scalar t, the updates done before this one.
            applies: bool scalar, or one per replica; where it is False, nothing changes.
        """
        share = tf.constant(1.0 - self._decay, tf.float64)
        if self._warmup:
            share = tf.maximum(share, 9.0 / (10.0 + tf.cast(updates, tf.float64)))  # 1 - (1 + t) / (10 + t)
        self._strategy.run(self._follow, args=(tf.cast(share, tf.float32), applies))

    @tf.autograph.experimental.do_not_convert
    def _follow(self, share, applies):
        """One replica's averages from its own weights: nothing is sent."""
        share = tf.where(applies, share, tf.zeros_like(share))
        for average, weight in self._pairs:
            # The difference is small where d is near 1, so little is lost in float32.
            descend(average, share, average - weight)
