"""Keras' optimizers, changed to take gradients that are already summed over the replicas.

A Keras optimizer in replica context clips each replica's gradient and sums afterwards, which is wrong for more than
one replica. Here the step sums first, once, then clips and checks; so the optimizer's own sum must not happen again.

Weight decay is decoupled (arXiv:1711.05101) and multiplied by the learning rate, for every optimizer; LAMB's trust
ratio scales the update without it. The variable decays, then is updated; cautious decay needs the update first, and
takes its share of the variable before it. Corrected decay is multiplied by the learning rate over its peak once more.
"""

import math
import re

import keras
import tensorflow as tf

from cct_tf.optim import decay_mask, layer_decay, schedules
from cct_tf.optim.fused import FusedUpdate, adam, adam_constants, add, against, descend, nesterov, subtract
from cct_tf.optim.schedule_free import ScheduleFreeAdamW
from cct_tf.settings import averages

# Matrices that Muon leaves to Adam, beside positions and class token (Keras knows those by "embedding"): the layer that
# gives the logits, and the scores of the pooling, [D, 1], whose one column has nothing to orthogonalise.
_NOT_MUON = ["/head/", "/pooling/"]
_QKV = "/attention/qkv/kernel"


class SummedGradients(FusedUpdate):
    """Mix-in for a keras.optimizers.Optimizer whose gradients are the same on every replica.

    Variables without a kernel (all of them if `fused` is False) are decayed, then updated by Keras' operations.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)

    def _apply_weight_decay(self, variables):
        """Nothing: `_apply_kernels` or `update_step` does it, where the variable's factor is known."""

    def update_step(self, gradient, variable, learning_rate):
        """Decay and update one device's copy of a variable."""
        learning_rate = keras.ops.cast(learning_rate, variable.dtype)
        index = self._get_variable_index(variable)
        factor, decay = self.rate_factors[index], self._decay(variable.dtype, self._is_corrected(index))
        if factor != 1.0:
            learning_rate = learning_rate * factor
        before = None
        if self.weight_decay and self._use_weight_decay(variable):
            if self.cautious:
                before = tf.convert_to_tensor(variable)
            else:
                self.assign_sub(variable, variable * decay * learning_rate)
        super().update_step(gradient, variable, learning_rate)
        if before is not None:
            decayed = against(before, tf.convert_to_tensor(variable))
            self.assign_sub(variable, decayed * decay * learning_rate)


class AdamW(SummedGradients, keras.optimizers.AdamW):
    """AdamW (arXiv:1711.05101) for gradients that are already summed over the replicas."""

    @property
    def masks(self):
        return self.fused

    def _has_kernel(self, index):
        return True

    def _constants(self, dtype, applies):
        return adam_constants(self.iterations, self.beta_1, self.beta_2, self.epsilon, dtype, applies)

    def _kernel(self, variable, index, gradient, rate, constants):
        adam(variable, self._momentums[index], self._velocities[index], gradient, rate, constants)


class SGD(SummedGradients, keras.optimizers.SGD):
    """SGD with momentum, likewise. The momentum accumulates steps, so a new learning rate scales new gradients only."""

    def _has_kernel(self, index):
        return True

    def _constants(self, dtype, applies):
        return {"momentum": tf.constant(self.momentum, dtype)}

    def _kernel(self, variable, index, gradient, rate, constants):
        if self.momentum:
            nesterov(variable, self.momentums[index], gradient, rate, constants)
        else:
            descend(variable, rate, gradient)


class Lion(SummedGradients, keras.optimizers.Lion):
    """Lion (arXiv:2302.06675), likewise."""


class Lamb(SummedGradients, keras.optimizers.Lamb):
    """LAMB (arXiv:1904.00962), likewise."""


class Muon(SummedGradients, keras.optimizers.Muon):
    """Muon with the scale of arXiv:2502.16982, likewise: learning rate and decay are those of AdamW.

    Keras updates by Adam what has not two dimensions (biases, norms, convolution kernels) and what is excluded.
    Matrices have no kernel. They are updated by the operations that Keras has for them, in the same order, but for the
    scale (`lr_adjust`); and here an update can be masked, and a variable can hold matrices that are orthogonalised each
    by itself.

    Args:
        convolutions: kernels of convolutions are matrices too, [height x width x channels, filters]. Those of depthwise
            ones, with one filter a channel, are left to Adam.
        split_qkv: the kernel of queries, keys and values is three matrices, one after the other.
        kwargs: of keras.optimizers.Muon.
    """

    def __init__(self, convolutions=False, split_qkv=False, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = convolutions
        self.split_qkv = split_qkv

    def build(self, variables):
        if not self.built:
            self._counts = [3 if self.split_qkv and variable.path.endswith(_QKV) else 1 for variable in variables]
        super().build(variables)

    @property
    def masks(self):
        return self.fused

    def lr_adjust(self, x):
        """`x` times 0.2 sqrt(longer side), as one constant; x: an update [rows, columns], learning rate included.

        Keras multiplies by the root and then by 0.2. TensorFlow's graph optimiser may merge the two factors on one
        replica and not on another: the copies of a variable then drift apart by the last bit, and a run that goes on
        from a checkpoint, which holds the first copy, differs from one that was never stopped.
        """
        return x * tf.constant(self.rms_rate * math.sqrt(max(x.shape)), x.dtype)

    def _has_kernel(self, index):
        return True

    def _should_use_adamw(self, variable):
        if self.convolutions and len(variable.shape) == 4 and variable.shape[-1] > 1:
            return any(re.search(layer, variable.path) for layer in self.exclude_layers)
        return super()._should_use_adamw(variable)

    def _is_matrix(self, index):
        return self.adam_velocities[index] is None

    def _decays_by_kernel(self, index):
        return not self._is_matrix(index)

    def _constants(self, dtype, applies):
        taken, fading = tf.ones([], dtype), tf.constant(self.momentum - 1, dtype)  # rounded once, as Keras does it
        if applies is not None:
            taken, fading = (tf.where(applies, value, tf.zeros([], dtype)) for value in (taken, fading))
        adams = adam_constants(self.iterations, self.adam_beta_1, self.adam_beta_2, self.epsilon, dtype, applies)
        return {"adam": adams, "taken": taken, "fading": fading}

    def _kernel(self, variable, index, gradient, rate, constants):
        if not self._is_matrix(index):
            adam(variable, self.momentums[index], self.adam_velocities[index], gradient, rate, constants["adam"])
            return
        momentum, gradient = self.momentums[index].value, gradient * constants["taken"]
        add(momentum, gradient + tf.convert_to_tensor(momentum) * constants["fading"])
        ahead = gradient + self.momentum * tf.convert_to_tensor(momentum)
        subtract(variable, self._orthogonal(ahead, index, rate))

    def _muon_update_step(self, gradient, variable, lr, m):
        index = self._get_variable_index(variable)
        if len(variable.shape) == 2 and self._counts[index] == 1:
            super()._muon_update_step(gradient, variable, lr, m)
            return
        self.assign_add(m, gradient + m * (self.momentum - 1))
        self.assign_sub(variable, self._orthogonal(gradient + self.momentum * m, index, lr))

    def _orthogonal(self, ahead, index, rate):
        """What is subtracted: the matrices of `ahead`, shaped as the variable, orthogonalised and scaled."""
        def update(matrix):
            return self.lr_adjust(rate * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))

        if len(ahead.shape) == 4:
            return tf.reshape(update(tf.reshape(ahead, [-1, ahead.shape[-1]])), ahead.shape)
        count = self._counts[index]
        return update(ahead) if count == 1 else tf.concat(list(map(update, tf.split(ahead, count, axis=1))), axis=1)


def make_optimizer(optim, variables, fused=True, depth=None):
    """The optimizer of a run, built. Call it under the strategy's scope.

    The learning rate is assigned before every update by the step; the initial one is never used. Clipping is the
    step's business too.

    Args:
        optim: `config.OptimConfig`.
        variables: list of trainable keras.Variable.
        fused: bool, update a variable by one kernel where there is one; False: always by Keras' operations.
        depth: int, the network's number of blocks, see `layer_decay.rate_factors`; needed where blocks are frozen.

    Returns:
        keras.optimizers.Optimizer.
    """
    optimizer = _new(optim)
    optimizer.fused = fused or isinstance(optimizer, ScheduleFreeAdamW)  # of one form
    optimizer.cautious = optim.cautious_weight_decay
    if optim.corrected_weight_decay:
        optimizer.corrected = tuple(decay_mask.is_corrected(variable.path) for variable in variables)
        optimizer.peak_rate = optim.learning_rate * schedules.rate_scale(optim)
    excluded = decay_mask.undecayed(variables, optim.weight_decay_mask)
    if excluded:
        optimizer.exclude_from_weight_decay(var_list=excluded)
    optimizer.build(variables)
    optimizer.rate_factors = tuple(layer_decay.rate_factors(variables, optim.layer_decay, depth))
    return optimizer


def _new(optim):
    common = {"learning_rate": optim.learning_rate, "weight_decay": optim.weight_decay, "name": "optimizer"}
    if optim.optimizer == "sgd":
        return SGD(momentum=optim.momentum, nesterov=True, **common)
    if optim.optimizer == "lion":
        return Lion(beta_1=optim.beta_1, beta_2=optim.beta_2, **common)
    if optim.optimizer == "lamb":
        return Lamb(beta_1=optim.beta_1, beta_2=optim.beta_2, epsilon=optim.adam_epsilon, **common)
    if optim.optimizer == "muon":
        return Muon(momentum=optim.momentum, adam_beta_1=optim.beta_1, adam_beta_2=optim.beta_2,
                    epsilon=optim.adam_epsilon, exclude_layers=_NOT_MUON, convolutions=optim.muon_convolutions,
                    split_qkv=optim.muon_split_qkv, **common)
    if optim.optimizer == averages.SCHEDULE_FREE:
        del common["weight_decay"]
        return ScheduleFreeAdamW(optim.beta_1, optim.beta_2, optim.adam_epsilon, optim.weight_decay, **common)
    if optim.optimizer == "adamw":
        return AdamW(beta_1=optim.beta_1, beta_2=optim.beta_2, epsilon=optim.adam_epsilon, **common)
    raise ValueError(f"optimizer: expected one that is made here, found {optim.optimizer!r}")
