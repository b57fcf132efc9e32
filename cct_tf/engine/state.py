"""What a run carries from step to step besides weights and optimizer."""

import tensorflow as tf


class TrainState(tf.Module):
    """Counters of the run and sums of the current log interval.

    The sums are added to one step at a time, so where a chunk of steps ended leaves no trace; they are part of the
    checkpoint, so a resumed run logs the same interval.

    Args:
        loss_scale: `loss_scale.LossScale` of a run in float16, else None.
        kind: "CPU" or "GPU", where the counters are held: beside the first replica, so that the host waits for none.

    Attributes:
        loss_scale: as given.
        step: int64, updates done or skipped.
        skipped: int64, updates skipped because loss or gradient was not finite, over the whole run.
        skipped_in_row: int64, updates skipped since the last one done. A skip that made the loss scale fall does not
            count: the lower scale is its remedy.
        interval_steps: int64, steps in the interval; interval_updates: int64, those that were done.
        loss_sum, accuracy_sum, grad_norm_sum: float64, sums over the interval's done updates.
    """

    _INTERVAL = ("interval_steps", "interval_updates", "loss_sum", "accuracy_sum", "grad_norm_sum")

    def __init__(self, loss_scale=None, kind="CPU"):
        super().__init__(name="train_state")
        self.loss_scale = loss_scale

        def make(name, dtype):
            with tf.device(f"{kind}:0"):
                return tf.Variable(0, dtype=dtype, trainable=False, name=name)

        self.step = make("step", tf.int64)
        self.skipped = make("skipped", tf.int64)
        self.skipped_in_row = make("skipped_in_row", tf.int64)
        self.interval_steps = make("interval_steps", tf.int64)
        self.interval_updates = make("interval_updates", tf.int64)
        self.loss_sum = make("loss_sum", tf.float64)
        self.accuracy_sum = make("accuracy_sum", tf.float64)
        self.grad_norm_sum = make("grad_norm_sum", tf.float64)

    def add(self, loss, accuracy, grad_norm, done, counts=True):
        """Count one step; call inside the step.

        Args:
            loss, accuracy, grad_norm: float32 scalars, means over the global batch.
            done: bool scalar, whether there was an update.
            counts: bool scalar; where it is False, nothing changes (`done` is False then).
        """
        step, one = tf.cast(counts, tf.int64), tf.cast(done, tf.int64)

        def if_done(value):
            return tf.where(done, tf.cast(value, tf.float64), tf.zeros([], tf.float64))

        self.step.assign_add(step)
        self.interval_steps.assign_add(step)
        self.interval_updates.assign_add(one)
        self.skipped.assign_add(step - one)
        in_row = step
        if self.loss_scale is not None:
            in_row *= tf.cast(self.loss_scale.is_lowest(), tf.int64)
            self.loss_scale.follow(done, counts)
        self.skipped_in_row.assign((self.skipped_in_row + in_row) * (1 - one))
        self.loss_sum.assign_add(if_done(loss))
        self.accuracy_sum.assign_add(if_done(accuracy))
        self.grad_norm_sum.assign_add(if_done(grad_norm))

    def interval(self):
        """For the log: means over the interval's done updates (NaN where none was done), skips, loss scale; a dict."""
        updates = int(self.interval_updates.numpy())

        def mean(total):
            return float(total.numpy()) / updates if updates else float("nan")

        values = {"train/loss": mean(self.loss_sum), "train/accuracy": mean(self.accuracy_sum),
                  "train/grad_norm": mean(self.grad_norm_sum), "train/skipped_updates": int(self.skipped.numpy())}
        if self.loss_scale is not None:
            values["train/loss_scale"] = float(self.loss_scale.scale.numpy())
        return values

    def row_start(self):
        """Steps completed before the first skipped update of the row; without one, all of them. int.

        The row begins with those that made the loss scale fall, though they count towards no limit: the weights of a
        checkpoint amid them are those that diverged.
        """
        row = int(self.skipped_in_row.numpy())
        if self.loss_scale is not None:
            row = max(row, -int(self.loss_scale.good_updates.numpy()))
        return int(self.step.numpy()) - row

    def start_interval(self):
        """Set the interval's sums to zero."""
        for name in self._INTERVAL:
            variable = getattr(self, name)
            variable.assign(tf.zeros([], variable.dtype))
