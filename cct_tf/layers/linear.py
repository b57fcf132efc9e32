"""A linear layer whose initial weights are keyed by its path."""

import tensorflow as tf

from cct_tf.layers.initializers import keyed
from cct_tf.machine.backend import keras


@keras.saving.register_keras_serializable("cct_tf")
class Linear(keras.layers.Layer):
    """y = x W + b on the last axis.

    Args:
        units: width of the output.
        use_bias: add b (initially 0).
        initializer: scheme of `cct_tf.layers.initializers`.
        fans: (fan in, fan out) for the initial scale where W stands for another layer's kernel; default its shape.
        seed: the run's seed.

    Shapes: [..., D] -> [..., units].
    """

    def __init__(self, units, use_bias=True, initializer="authors", fans=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer = initializer
        self.fans = fans
        self.seed = seed

    def build(self, input_shape):
        width = input_shape[-1]
        fans = self.fans or (width, self.units)
        self.kernel = self.add_weight(
            name="kernel", shape=(width, self.units),
            initializer=keyed(self.initializer, "linear", fans, self.seed, f"{self.path}/kernel"))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros") if self.use_bias else None

    def call(self, x):
        # One product of matrices: a batched one would multiply each example by its own copy of W.
        y = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), self.kernel)
        if self.use_bias:
            y = tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))
        return y if x.shape.rank == 2 else tf.reshape(y, [-1, *x.shape[1:-1], self.units])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias,
                "initializer": self.initializer, "fans": self.fans, "seed": self.seed}
