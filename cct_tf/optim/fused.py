"""An update by one kernel a variable.

Keras writes an update as some forty operations a variable. Each is traced, optimised and scheduled, and many of them
pass over the whole variable. Where TensorFlow has one kernel for the formula, on CPUs and GPUs, the kernel takes their
place here; what is the same for all variables is computed once. The optimizer's variables stay Keras' own, so a run can
change between the two. Results agree up to rounding. The largest difference: in float32 a kernel computes 1 - beta_2
from the rounded beta_2, where Keras rounds the difference. With beta_2 = 0.999 the second moment differs by a relative
1.3e-5 at most, a step by half of that.
"""

import functools

import keras
import tensorflow as tf


class FusedUpdate:
    """Mix-in for a keras.optimizers.Optimizer whose gradients are the same on every replica.

    Attributes:
        fused: bool, False for Keras' own operations.
        rate_factors: what multiplies the learning rate of each variable, in the order it was built with.
        cautious: bool, whether weight decay is cautious, see `against`.
        corrected: for each variable, likewise, whether its decay is also multiplied by learning rate / `peak_rate`
            (AdamC, arXiv:2506.02285); empty for none.
        peak_rate: float, the highest learning rate of the schedule.
    """

    fused = True
    cautious, corrected, peak_rate = False, (), 1.0

    masks = False  # whether `apply_gradients` takes `applies`: every variable has a kernel that can change nothing

    def _has_kernel(self, index):
        """Whether `_kernel` can update the variable of this index."""
        return False

    def _decays_by_kernel(self, index):
        """Whether the variable of this index decays by one kernel, which multiplies rate and decay first."""
        return True

    def _constants(self, dtype, applies):
        """The kernel's arguments that are the same for all variables of a dtype: dict of scalars.

        Args:
            dtype: of the variables.
            applies: bool scalar, or None for True; see `apply_gradients`.
        """
        raise NotImplementedError

    def _kernel(self, variable, index, gradient, rate, constants):
        """Update this replica's copy of a tf.Variable; `rate` is its learning rate, a scalar of its type."""
        raise NotImplementedError

    @tf.autograph.experimental.do_not_convert  # no control flow to convert; looking for it takes time
    def apply_gradients(self, grads_and_vars, applies=None):
        """Update all variables. Call it in replica context, where it changes that replica's copies.

        Args:
            grads_and_vars: pairs of a gradient, equal on all replicas, and a keras.Variable.
            applies: bool scalar tensor, only where `masks`; where it is False, nothing changes. It selects values and
                branches nowhere: a GPU would have to finish the gradients before the host could queue what follows.
                The gradients must be finite in any case. None means True.

        Raises:
            RuntimeError: called outside `run` of the strategy that the optimizer was built for.
        """
        rest = list(grads_and_vars)
        if self.fused:
            if tf.distribute.get_strategy() is not self._distribution_strategy:
                raise RuntimeError("apply_gradients: outside strategy.run only the first replica would be updated")
            with tf.name_scope(self.name):
                rest = self._apply_kernels(rest, applies)
        if rest:
            super().apply_gradients(rest)  # counts the update
        else:
            one = tf.constant(True) if applies is None else applies
            tf.raw_ops.AssignAddVariableOp(resource=self.iterations.value.handle,
                                           value=tf.cast(one, self.iterations.dtype))

    def _apply_kernels(self, pairs, applies):
        """Update what has a kernel; returns the other pairs."""
        constants, rest = functools.cache(lambda dtype: self._constants(dtype, applies)), []

        def rate(dtype, factor):
            value = self._rate(dtype, factor)
            return value if applies is None else tf.where(applies, value, tf.zeros([], dtype))

        rates = functools.cache(rate)
        decays = functools.cache(lambda dtype, factor, corrected: rates(dtype, factor) * self._decay(dtype, corrected))
        for gradient, variable in pairs:
            index = self._get_variable_index(variable)
            if not self._has_kernel(index):
                rest.append((gradient, variable))
                continue
            variable, dtype, factor = variable.value, variable.dtype, self.rate_factors[index]
            before, corrected = None, self._is_corrected(index)

            def decay(variable, values, index=index, dtype=dtype, factor=factor, corrected=corrected):
                if self._decays_by_kernel(index):
                    descend(variable, decays(dtype, factor, corrected), values)
                else:
                    subtract(variable, values * self._decay(dtype, corrected) * rates(dtype, factor))

            if self.weight_decay and self._use_weight_decay(variable):
                if self.cautious:
                    before = tf.convert_to_tensor(variable)
                else:
                    decay(variable, tf.convert_to_tensor(variable))
            self._kernel(variable, index, tf.cast(gradient, dtype), rates(dtype, factor), constants(dtype))
            if before is not None:
                decay(variable, against(before, variable))
        return rest

    def _rate(self, dtype, factor):
        return keras.ops.cast(self.learning_rate, dtype) * factor

    def _is_corrected(self, index):
        return bool(self.corrected) and self.corrected[index]

    def _decay(self, dtype, corrected):
        """What a variable's learning rate is multiplied by for its weight decay: a float, or a scalar of `dtype`."""
        if not corrected:
            return self.weight_decay
        return keras.ops.cast(self.learning_rate, dtype) * (self.weight_decay / self.peak_rate)


def adam_constants(iterations, beta_1, beta_2, epsilon, dtype, applies=None):
    """What `adam` takes beside the variable's own: dict of scalars. `iterations` counts the updates before this one.

    With `applies` False the moments decay by a factor of 1: they stay what they are, if the gradient is finite.
    """
    step = keras.ops.cast(iterations + 1, dtype)
    beta_1, beta_2, epsilon = (tf.constant(value, dtype) for value in (beta_1, beta_2, epsilon))
    powers = {"beta1_power": beta_1**step, "beta2_power": beta_2**step}
    if applies is not None:
        beta_1, beta_2 = (tf.where(applies, value, tf.ones([], dtype)) for value in (beta_1, beta_2))
    return {"beta1": beta_1, "beta2": beta_2, "epsilon": epsilon, **powers}


def adam(variable, momentum, velocity, gradient, rate, constants):
    """Adam (arXiv:1412.6980, the formula before its section 2.1) on one replica's copies.

    The moments are keras.Variables.
    """
    tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=momentum.value.handle, v=velocity.value.handle, grad=gradient,
                                 lr=rate, **constants)


def nesterov(variable, momentum, gradient, rate, constants):
    """Nesterov's momentum on one replica's copies; `momentum`, a keras.Variable, accumulates steps (not gradients)."""
    tf.raw_ops.ResourceApplyKerasMomentum(var=variable.handle, accum=momentum.value.handle, grad=gradient, lr=rate,
                                          use_nesterov=True, **constants)


def against(before, after):
    """What decays of a variable with cautious weight decay (arXiv:2510.12402 Algorithm 1): I(u x >= 0) x.

    x is the variable before its update u, which is subtracted. Its sign is that of what it changed, so the same code
    serves every optimizer.

    Args:
        before, after: the variable before and after the update.

    Returns:
        Tensor: `before` where the update moved it towards 0 or past it, or changed nothing; 0 elsewhere.
    """
    opposed = tf.sign(before - after) * tf.sign(before) < 0  # of signs, whose product can't underflow
    return tf.where(opposed, tf.zeros_like(before), before)


def add(variable, delta):
    """variable += delta on one replica's copy of a tf.Variable."""
    tf.raw_ops.AssignAddVariableOp(resource=variable.handle, value=delta)


def subtract(variable, delta):
    """variable -= delta on one replica's copy of a tf.Variable."""
    tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=delta)


def descend(variable, rate, delta):
    """variable -= rate * delta on one replica's copy of a tf.Variable."""
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=delta)
