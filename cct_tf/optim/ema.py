"""Averages of the weights: an exponential moving one, and that of the last epochs."""

import tensorflow as tf

from cct_tf.optim.fused import descend


class Average:
    """Averages of a network's weights: the trainable variables of a second network of the same kind, so that they can
    be evaluated, saved and mirrored like any network's.

    Args:
        strategy: tf.distribute.Strategy under whose scope both networks were built.
        weights, averages: lists of keras.Variable, in the same order.

    Attributes:
        kept: dict of tf.Variable that belong into a checkpoint, beside the averages.
    """

    def __init__(self, strategy, weights, averages):
        self._strategy, self.kept = strategy, {}
        # tf.Variables: what `descend` and extended.update take.
        self._pairs = [(average.value, weight.value) for average, weight in zip(averages, weights, strict=True)]

    def start(self):
        """Set the averages to the weights."""
        for average, weight in self._pairs:
            # Each replica from its own copy of the weight: nothing is sent.
            self._strategy.extended.update(average, lambda average, weight: average.assign(weight), args=(weight,))


    @tf.autograph.experimental.do_not_convert
    def _follow(self, share, applies):
        """One replica's averages from its own weights: nothing is sent."""
        share = tf.where(applies, share, tf.zeros_like(share))
        for average, weight in self._pairs:
            # The difference is small where d is near 1, so little is lost in float32.
            descend(average, share, average - weight)


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


class LastAverage(Average):
    """The mean of the weights after each update that was done from a step on; before it, the weights themselves.

    How many there were is counted: a function of the step alone would count skipped updates too.

    Args:
        step: int64 tf.Variable, updates done or skipped before this one.
        start: int, the first that is averaged, see `plan.average_start`.
        kind: "CPU" or "GPU", where the count is held.
        strategy, weights, averages: see `Average`.
    """

    def __init__(self, strategy, step, start, weights, averages, kind="CPU"):
        super().__init__(strategy, weights, averages)
        self._step, self._start = step, start
        with tf.device(f"{kind}:0"):  # as the counters of `state.TrainState`
            self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="averaged")
        self.kept = {"count": self._count}

    def update(self, updates, applies=True):
        """Follow the weights after an update; call it in cross-replica context. Arguments: see `Ema.update`."""
        done = tf.cast(self._strategy.experimental_local_results(applies)[0], tf.int64)
        within = self._step >= self._start
        self._count.assign(tf.where(within, self._count + done, tf.zeros_like(done)))
        share = 1.0 / tf.cast(tf.maximum(self._count, 1), tf.float32)
        self._strategy.run(self._follow, args=(share, applies))
