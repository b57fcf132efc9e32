"""Keras' optimizers, told that their gradients are already summed over the replicas.

A Keras optimizer in replica context clips each replica's gradient and sums afterwards, which is wrong for more than
one replica. Here the step sums first, once, then clips and checks; so the optimizer's own sum must not happen again.
"""

import keras

from cct_tf.optim import decay_mask


class SummedGradients:
    """Mix-in for a keras.optimizers.Optimizer whose gradients are the same on every replica."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)


class AdamW(SummedGradients, keras.optimizers.AdamW):
    """AdamW (arXiv:1711.05101) for gradients that are already summed over the replicas."""


def make_optimizer(optim, variables):
    """The optimizer of a run, built. Call it under the strategy's scope.

    The learning rate is assigned before every update by the step; the initial one is never used. Clipping is the
    step's business too.

    Args:
        optim: `config.OptimConfig`.
        variables: list of trainable keras.Variable.

    Returns:
        keras.optimizers.Optimizer.
    """
    optimizer = AdamW(learning_rate=optim.learning_rate, weight_decay=optim.weight_decay, epsilon=optim.adam_epsilon,
                      name="optimizer")
    excluded = decay_mask.undecayed(variables, optim.weight_decay_mask)
    if excluded:
        optimizer.exclude_from_weight_decay(var_list=excluded)
    optimizer.build(variables)
    return optimizer
