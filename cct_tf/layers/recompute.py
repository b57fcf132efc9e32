"""Computing a block's activations again in the backward pass instead of keeping them (arXiv:1604.06174 Sec. 4).

The forward pass keeps only the input of each block; the backward pass runs the block once more and takes its gradients.
The second run computes the same values, dropout masks included, because these are hashes of the same seeds. With XLA
the results were equal to the bit. Without, they were equal up to rounding: grappler merges two constant factors into
one where the backward pass does not need the product with one of them.
"""

import contextlib
import contextvars

import tensorflow as tf

from cct_tf.machine.backend import keras

_recomputing = contextvars.ContextVar("recomputing", default=None)


@contextlib.contextmanager
def recomputing(scope):
    """A context for a network's forward pass: its blocks are computed again in the backward pass.

    Args:
        scope: keras.StatelessScope with a tensor for each variable of the blocks; gradients flow to these tensors.
            None: the blocks are computed once.
    """
    token = _recomputing.set(scope)
    try:
        yield
    finally:
        _recomputing.reset(token)


def run(function, block, x, seeds):
    """`function(block, x, seeds)`. Within `recomputing`, the backward pass computes it again.

    Args:
        function: gives a float tensor, from nothing but its arguments and the block's variables.
        block: keras.layers.Layer, built.
        x: float tensor.
        seeds: uint32 [B], or None.
    """
    scope = _recomputing.get()
    if scope is None:
        return function(block, x, seeds)

    def of_weights(x, seeds, weights):
        with keras.StatelessScope(state_mapping=list(zip(block.variables, weights, strict=True))):
            return function(block, x, seeds)

    @tf.custom_gradient
    def computed(x, *weights):
        def gradient(upstream):
            again, seeds_again = _after(upstream, x, seeds)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([again, weights])
                y = of_weights(again, seeds_again, weights)
            return tape.gradient(y, [again, *weights], output_gradients=upstream)

        return of_weights(x, seeds, weights), gradient

    # Read from the scope: a variable that is read within a layer is rounded to the layer's precision.
    return computed(x, *[scope.get_current_value(variable) for variable in block.variables])


def _after(upstream, x, seeds):
    """x and seeds, unchanged, but depending on `upstream`, the gradient that arrives from the next block.

    Without this dependency the compiler may run the second computation early, or see that it equals the first and keep
    the activations of that. Either way nothing is saved. A barrier does not help: XLA on CPUs removes barriers before
    it chooses the order of operations. So x is selected by whether the first element of `upstream` is NaN. If it is,
    zeros take the place of x; the gradients are NaN anyway.
    """
    is_nan = tf.math.is_nan(tf.reshape(upstream, [-1])[0])

    def held(tensor):
        return tf.where(is_nan, tf.zeros([], tensor.dtype), tensor)

    return held(x), None if seeds is None else held(seeds)
