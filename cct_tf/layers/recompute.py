"""Computing a block's activations again in the backward pass instead of keeping them (arXiv:1604.06174 Sec. 4).

The forward pass keeps what goes into each block; the backward pass runs the block once more, for its gradients. The
results are the same, for it computes the same thing, dropout masks included, which are hashes of the same seeds. Seen:
with XLA to the bit; without, up to rounding, since grappler multiplies two constant factors into one where the
backward pass doesn't need the product with one of them.
"""

import contextlib
import contextvars

import tensorflow as tf

from cct_tf.machine.backend import keras

_recomputing = contextvars.ContextVar("recomputing", default=None)


@contextlib.contextmanager
def recomputing(scope):
    """Put it around a network's forward pass to have its blocks computed again in the backward pass.

    Args:
        scope: keras.StatelessScope with a tensor for each variable of the blocks: gradients flow to these. Or None,
            to compute them once.
    """
    token = _recomputing.set(scope)
    try:
        yield
    finally:
        _recomputing.reset(token)


def run(function, block, x, seeds):
    """`function(block, x, seeds)`, which inside `recomputing` the backward pass computes again.

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

    # From the scope: a variable that is read within a layer comes in the layer's precision.
    return computed(x, *[scope.get_current_value(variable) for variable in block.variables])


def _after(upstream, x, seeds):
    """x and seeds as they are, computed from `upstream`.

    So nothing of the block can be computed again before it is needed, nor be found to have been computed already. A
    barrier is not enough: XLA on CPUs takes it away before it chooses the order, and computed both times at once, which
    kept everything. Where `upstream` is NaN the gradients are too.
    """
    is_nan = tf.math.is_nan(tf.reshape(upstream, [-1])[0])

    def held(tensor):
        return tf.where(is_nan, tf.zeros([], tensor.dtype), tensor)

    return held(x), None if seeds is None else held(seeds)
