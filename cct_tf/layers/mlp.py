"""The two-layer perceptron of a transformer block."""

import math

import tensorflow as tf

from cct_tf.layers import drop
from cct_tf.layers.attention import wide_dtype
from cct_tf.layers.linear import Linear
from cct_tf.machine.backend import keras


def gelu_exact(x):
    """x Phi(x) (arXiv:1606.08415 Eq. 1). With erf, where keras.activations.gelu has Erfc, which ONNX lacks."""
    return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def gelu_tanh(x):
    """The approximation with tanh (arXiv:1606.08415 Eq. 2), Keras' default."""
    return tf.nn.gelu(x, approximate=True)


GELUS = {"exact": gelu_exact, "tanh": gelu_tanh}


@keras.saving.register_keras_serializable("cct_tf")
class MLP(keras.layers.Layer):
    """Linear, GELU, dropout, Linear, dropout.

    Args:
        hidden_dim: width between the two layers.
        gelu: "exact" or "tanh".
        output_activation: GELU after the second layer too.
        dropout_rate: after each layer.
        zero_init_output: the second layer starts at zero.
        block: index of the block, for the dropout's sites.
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: x [B, N, D], seeds uint32 [B] or None, training -> [B, N, D].
    """

    def __init__(self, hidden_dim, gelu="exact", output_activation=False, dropout_rate=0.0,
                 zero_init_output=False, block=0, initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        if gelu not in GELUS:
            raise ValueError(f"gelu: expected one of {', '.join(GELUS)}, found {gelu!r}")
        self.hidden_dim = hidden_dim
        self.gelu = gelu
        self.output_activation = output_activation
        self.dropout_rate = drop.check_rate("dropout_rate", dropout_rate)
        self.zero_init_output = zero_init_output
        self.block = block
        self.initializer = initializer
        self.seed = seed

    def build(self, input_shape):
        options = {"initializer": self.initializer, "seed": self.seed, "dtype": self.dtype_policy}
        self.hidden = Linear(self.hidden_dim, name="hidden", **options)
        of_output = options | {"initializer": "zeros"} if self.zero_init_output else options
        self.output_linear = Linear(input_shape[-1], name="output", **of_output)
        self.hidden.build(input_shape)
        self.output_linear.build((*input_shape[:-1], self.hidden_dim))
        self.hidden_dropout = drop.Dropout(self.dropout_rate, drop.block_site(self.block, drop.MLP_HIDDEN),
                                           name="hidden_dropout", dtype=self.dtype_policy)
        self.output_dropout = drop.Dropout(self.dropout_rate, drop.block_site(self.block, drop.MLP_OUTPUT),
                                           name="output_dropout", dtype=self.dtype_policy)
        self.hidden_dropout.build(input_shape)
        self.output_dropout.build(input_shape)

    def call(self, x, seeds=None, training=None):
        x = self.hidden_dropout(self.activation(self.hidden(x)), seeds=seeds, training=training)
        x = self.output_linear(x)
        if self.output_activation:
            x = self.activation(x)
        return self.output_dropout(x, seeds=seeds, training=training)

    def activation(self, x):
        """GELU, of any shape, computed in float32: in bfloat16 1 + erf(x) cancels for negative x and was 30% off."""
        return tf.cast(GELUS[self.gelu](tf.cast(x, wide_dtype(x.dtype))), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "gelu": self.gelu,
                "output_activation": self.output_activation, "dropout_rate": self.dropout_rate,
                "zero_init_output": self.zero_init_output, "block": self.block,
                "initializer": self.initializer, "seed": self.seed}
