"""The training step: what happens to one global batch.

    per replica   prepare the images: the stages on the device
    per replica   forward and backward of each micro-batch (compiled by XLA if asked), summed
    together      all-reduce sum over the replicas, once
    per replica   in float16 divide by the loss scale; clip by the global norm
    per replica   update, then the weights' average follows; both change nothing if loss or gradient is not finite

The loss is a sum over the examples divided by the global batch, never a mean of means; clipping and the finite check
see the whole gradient, so any number of replicas and micro-batches gives the same update up to summation order.

With AdamW, schedule-free or not, and Muon no branch or loop asks for a loss or a gradient: an accelerator would have to
compute it before the host could queue the next operation. What depends on them is selected instead.

Legend: B global batch, b a replica's share, m = b / accumulate_steps a micro-batch, K classes.
"""

import numpy as np
import tensorflow as tf

from cct_tf.engine import losses
from cct_tf.engine.gradients import Gradients

MOST_STEPS = 1024  # of one call of `run`


class TrainStep:
    """One update, and many of them in one tf.function.

    Args:
        devices: `runtime.Devices`.
        model: keras.Model, built under the strategy's scope.
        optimizer: optimizer of `optim.optimizers`, built under the strategy's scope.
        state: `state.TrainState`.
        batch_size: int B.
        accumulate_steps: int, micro-batches per replica.
        clip_norm: float or None.
        example_loss: function of (labels [m, K], logits [m, K]) -> [m], as `losses.make_loss` returns.
        example_accuracy: the same, as `losses.make_accuracy` returns.
        max_skipped_updates: int, after this many skipped updates in a row the other steps of `run` change nothing.
        jit, fast_forms, recompute: how gradients are computed, see `gradients.Gradients`.
        average: `optim.ema.Average` of the weights, or None.
        prepare: function of a replica's batch dict -> its images as the network takes them, float32 [b, S, S, 3]; None
            where "image" holds them already.
        weighted: bool, whether batches hold the weights of their examples, "weight".
        teachers: `distillation.Teachers`, or None.

    Attributes:
        wait_seconds: float64 variable, time spent waiting for input since it was last set to zero. Deterministic
            devices have no clock.
    """

    def __init__(self, devices, model, optimizer, state, *, batch_size, accumulate_steps=1, clip_norm=None,
                 example_loss=losses.cross_entropy, max_skipped_updates=20, jit="off", fast_forms=True,
                 recompute=False, average=None, prepare=None, example_accuracy=losses.is_first,
                 weighted=False, teachers=None):
        self._devices = devices
        self._model = model
        self._variables = model.trainable_variables
        self._optimizer = optimizer
        self._state = state
        self._batch_size = batch_size
        self._accumulate_steps = accumulate_steps
        self._clip_norm = clip_norm
        self._max_skipped_updates = max_skipped_updates
        self._average = average
        self._prepare = prepare or (lambda batch: batch["image"])
        with tf.device("CPU:0"):  # a clock's time need not go to a GPU and back
            self.wait_seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="wait_seconds")
        self._gradients = Gradients(model, example_loss, batch_size, jit, devices.kind, fast_forms, recompute,
                                    example_accuracy, weighted, teachers and teachers.distillation)
        self._teachers = teachers
        self._columns = ("label", "seed") + (("weight",) if weighted else ())
        self._micro_size, rest = divmod(batch_size, devices.num_replicas * accumulate_steps)
        if rest:
            raise ValueError(f"batch_size: expected a multiple of {devices.num_replicas} x {accumulate_steps}, found "
                             f"{batch_size}")

    def _replica_gradients(self, batch, scale, goes_on):
        """A replica's micro-batches, then the sum over all replicas, clipped.

        Returns:
            (gradients, loss, accuracy, global norm before clipping, whether the update is to be done), equal on all
            replicas. The gradients are zeros where it is not.
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self._gradients.variables]
        parts = (self._prepare(batch), *(batch[name] for name in self._columns))
        if self._accumulate_steps == 1:
            gradients, loss, accuracy = self._micro_batch(weights, parts, scale)
        else:
            gradients, loss, accuracy = self._accumulated(weights, parts, scale)
        # One sum of one long vector, whatever the number of variables.
        flat = tf.concat([tf.reshape(value, [-1]) for value in (*gradients, loss, accuracy)], axis=0)
        flat = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
        flat, loss, accuracy = flat[:-2], flat[-2], flat[-1]
        if self._state.loss_scale is not None:
            flat /= scale
        norm = tf.norm(flat)
        if self._clip_norm is not None:
            flat *= self._clip_norm / tf.maximum(norm, self._clip_norm)
        applies = goes_on & tf.math.is_finite(loss) & tf.math.is_finite(norm)
        flat = tf.where(applies, flat, tf.zeros_like(flat))
        sizes = [gradient.shape.num_elements() for gradient in gradients]
        pieces = tf.split(flat, sizes)
        summed = [tf.reshape(piece, gradient.shape) for piece, gradient in zip(pieces, gradients, strict=True)]
        return summed, loss, accuracy, norm, applies

    def _micro_batch(self, weights, parts, scale):
        told = (self._teachers(parts[0]),) if self._teachers else ()
        return self._gradients.for_size(self._micro_size)(weights, *parts[:3], scale, *parts[3:], *told)

    def _accumulated(self, weights, parts, scale):
        """Sum over the micro-batches, one after the other, in a loop of the graph."""
        size = self._micro_size

        def add(index, sums):
            slices = [part[index * size:(index + 1) * size] for part in parts]
            for part in slices:
                part.set_shape([size, *part.shape[1:]])
            return index + 1, tf.nest.map_structure(tf.add, sums, tuple(self._micro_batch(weights, slices, scale)))

        zeros = ([tf.zeros(variable.shape, variable.dtype) for variable in self._variables], tf.zeros([]), tf.zeros([]))
        _, sums = tf.while_loop(lambda index, _: index < self._accumulate_steps, add, (0, zeros),
                                parallel_iterations=1)
        return sums

    def _update(self, gradients, applies=None):
        self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True), applies)

    def __call__(self, batch, learning_rate):
        """One step in cross-replica context.

        Args:
            batch: batch dict, per replica.
            learning_rate: float32 scalar.
        """
        strategy = self._devices.strategy
        loss_scale = self._state.loss_scale
        scale = tf.ones([]) if loss_scale is None else loss_scale.scale.read_value()
        goes_on = self._state.skipped_in_row < self._max_skipped_updates
        gradients, *found = strategy.run(lambda *parts: self._replica_gradients(*parts), args=(batch, scale, goes_on))
        applies = found[-1]
        self._optimizer.learning_rate.assign(learning_rate)
        updates = self._state.step - self._state.skipped  # done so far
        if self._optimizer.masks:
            strategy.run(lambda *parts: self._update(*parts), args=(gradients, applies))
        else:  # values that are selected afterwards made the replicas' copies differ in the last bit (LAMB)
            def update():
                strategy.run(lambda values: self._update(values), args=(gradients,))
                return 0

            tf.cond(strategy.experimental_local_results(applies)[0], update, lambda: 0)
        if self._average is not None:
            self._average.update(updates, applies)
        # All replicas hold the same reduced values: the first speaks for all.
        self._state.add(*(strategy.experimental_local_results(value)[0] for value in found), goes_on)

    def run(self, iterator, learning_rates):
        """Many steps, without a word to the host.

        Args:
            iterator: from `runtime.distribute`.
            learning_rates: list of at most MOST_STEPS floats, one per step.
        """
        self._gradients.for_size(self._micro_size)
        # Always of one shape, so that the step is traced once.
        rates = np.zeros([MOST_STEPS], np.float32)
        rates[:len(learning_rates)] = learning_rates
        self._run(iterator, tf.constant(rates), tf.constant(len(learning_rates)))

    # A loop of the graph written out: autograph would look through all that a step calls.
    @tf.function(autograph=False)
    def _run(self, iterator, rates, count):
        def step(index):
            self(self._next(iterator), rates[index])
            return index + 1

        tf.while_loop(lambda index: index < count, step, [0])

    def _next(self, iterator):
        """The next batch; the time it took is added to `wait_seconds`."""
        if self._devices.deterministic:
            return next(iterator)
        before = tf.timestamp()
        with tf.control_dependencies([before]):
            batch = next(iterator)
        with tf.control_dependencies(self._devices.strategy.experimental_local_results(batch["mask"])):
            after = tf.timestamp()
        self.wait_seconds.assign_add(after - before)
        return batch
