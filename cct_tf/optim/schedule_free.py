"""Schedule-free AdamW (The Road Less Scheduled, arXiv:2405.15682 Algorithm 1).

    y = (1 - b) z + b x                     the network's weights: gradients are taken here
    v = b2 v + (1 - b2) g^2
    z = z - r (g / (sqrt(v / (1 - b2^t)) + epsilon) + decay y)
    x = (1 - c) x + c z                     the average: what is evaluated; c = r^2 / (sum of all r^2 so far)

b is beta_1, b2 beta_2, r the learning rate of update t: constant, after a warm-up whose updates weigh less. y and z are
kept. x follows from them: x = (y - (1 - b) z) / b.
"""

import keras
import tensorflow as tf

from cct_tf.optim.ema import Average
from cct_tf.optim.fused import FusedUpdate, descend


class ScheduleFreeAdamW(FusedUpdate, keras.optimizers.Optimizer):
    """The optimizer: it changes the network's weights y and its own z. It has one form, `fused` or not.

    z begins where the weights are when it is built.

    Args:
        beta_1: float in (0, 1); beta_2, epsilon, decay: floats.
        common: arguments of every optimizer. No `weight_decay`: Keras would decay y, not z by y.
    """

    masks = True

    def __init__(self, beta_1, beta_2, epsilon, decay, **common):
        super().__init__(**common)
        self.beta_1, self.beta_2, self.epsilon, self.decay = beta_1, beta_2, epsilon, decay

    def build(self, variables):
        super().build(variables)
        self.bases = [self.add_variable_from_reference(variable, name="base") for variable in variables]
        update = tf.distribute.get_strategy().extended.update  # each replica from its own copy of the weight
        for base, variable in zip(self.bases, variables, strict=True):
            update(base.value, lambda base, weight: base.assign(weight), args=(variable.value,))
        self.velocities = [self.add_variable_from_reference(variable, name="velocity") for variable in variables]
        # In float64: added to one by one for a long run.
        self.squares = self.add_variable(shape=(), dtype="float64", aggregation="only_first_replica",
                                         name="rate_squares")

    def base_of(self, variable):
        """z of a variable, keras.Variable; None of one that is not learned."""
        index = self._trainable_variables_indices.get(self._var_key(variable))
        return None if index is None else self.bases[index]

    def _has_kernel(self, index):
        return True

    def _squares(self, applies):
        """r^2 of this update, and the sum with it: float64 scalars."""
        square = tf.cast(self.learning_rate, tf.float64) ** 2
        if applies is not None:
            square = tf.where(applies, square, tf.zeros_like(square))
        return square, tf.convert_to_tensor(self.squares.value) + square

    def _apply_kernels(self, pairs, applies):
        rest = super()._apply_kernels(pairs, applies)
        _, total = self._squares(applies)
        tf.raw_ops.AssignVariableOp(resource=self.squares.value.handle, value=total)
        return rest

    def _constants(self, dtype, applies):
        part = tf.math.divide_no_nan(*self._squares(applies))  # c; 0 as long as all rates were 0
        share = tf.constant(1.0 - self.beta_2, tf.float64)
        if applies is not None:
            share = tf.where(applies, share, tf.zeros_like(share))
        correction = 1.0 - tf.constant(self.beta_2, tf.float64) ** tf.cast(self.iterations + 1, tf.float64)
        return {name: tf.cast(value, dtype) for name, value in (
            ("share", share), ("part", part), ("correction", correction),
            ("step", 1.0 - self.beta_1 * (1.0 - part)))}

    def _kernel(self, variable, index, gradient, rate, constants):
        base, velocity = self.bases[index].value, self.velocities[index].value
        y, z = tf.convert_to_tensor(variable), tf.convert_to_tensor(base)
        descend(velocity, constants["share"], tf.convert_to_tensor(velocity) - gradient**2)
        update = gradient / (tf.sqrt(tf.convert_to_tensor(velocity) / constants["correction"]) + self.epsilon)
        if self.decay and self._use_weight_decay(variable):
            update += self.decay * y
        # With x as above the new y is y + c (z - y) - r (1 - b (1 - c)) update.
        descend(variable, tf.ones([], variable.dtype), constants["part"] * (y - z) + rate * constants["step"] * update)
        descend(base, rate, update)


class ScheduleFreeAverage(Average):
    """x of every weight. What is not learned stays as it was.

    Args:
        strategy, weights, averages: see `ema.Average`.
        optimizer: ScheduleFreeAdamW, built.
    """

    def __init__(self, strategy, optimizer, weights, averages):
        super().__init__(strategy, weights, averages)
        self._share = (1.0 - optimizer.beta_1) / optimizer.beta_1
        bases = [(pair, optimizer.base_of(weight)) for pair, weight in zip(self._pairs, weights, strict=True)]
        self._followed = [(*pair, base.value) for pair, base in bases if base is not None]

    def update(self, updates, applies=True):
        """Follow the weights after an update; call it in cross-replica context. Arguments: see `ema.Ema.update`."""
        self._strategy.run(self._follow)

    @tf.autograph.experimental.do_not_convert
    def _follow(self):
        for average, weight, base in self._followed:
            y, z = tf.convert_to_tensor(weight), tf.convert_to_tensor(base)
            tf.raw_ops.AssignVariableOp(resource=average.handle, value=y + self._share * (y - z))
