"""The transformer block."""

from cct_tf.layers import drop, spec
from cct_tf.layers.attention import Attention
from cct_tf.layers.mlp import MLP
from cct_tf.machine.backend import keras


@keras.saving.register_keras_serializable("cct_tf")
class TransformerBlock(keras.layers.Layer):
    """Attention and MLP, each on a residual branch with stochastic depth.

        y = x + drop_path(attention(LN(x)))
        authors: z = LN(y);  out = z + drop_path(mlp(z))     the residual stream is replaced by LN(y)
        pre:     z = LN(y);  out = y + drop_path(mlp(z))     the usual pre-norm block (arXiv:2010.11929 Eq. 2, 3)

    Args:
        num_heads, head_dim, qkv_bias, qk_norm: see `Attention`.
        mlp_dim: hidden width of the MLP.
        gelu, mlp_output_activation: see `MLP`.
        norm_order: "authors" or "pre".
        zero_init_outputs: attention's output projection and the second layer of the MLP start at zero, so at first a
            branch adds nothing: y = x, out = z or y (as arXiv:1706.02677 Section 5.1 zeroes the last scale of a
            residual block).
        layer_norm_epsilon: added to the variance, of every norm.
        attention_dropout_rate, projection_dropout_rate, mlp_dropout_rate, drop_path_rate: probabilities.
        block: index of the block, from 0. Required, for it keys the dropout masks: two blocks of one index share them.
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: x [B, N, D], seeds uint32 [B] or None, training -> [B, N, D].
    """

    def __init__(self, num_heads, mlp_dim, head_dim=None, qkv_bias=False, gelu="exact", mlp_output_activation=False,
                 norm_order="authors", qk_norm=False, zero_init_outputs=False, layer_norm_epsilon=1e-5,
                 attention_dropout_rate=0.0, projection_dropout_rate=0.0, mlp_dropout_rate=0.0, drop_path_rate=0.0, *,
                 block, initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        if norm_order not in spec.NORM_ORDERS:
            raise ValueError(f"norm_order: expected one of {', '.join(spec.NORM_ORDERS)}, found {norm_order!r}")
        self.norm_order = norm_order
        self._options = {
            "num_heads": num_heads, "mlp_dim": mlp_dim, "head_dim": head_dim, "qkv_bias": qkv_bias, "gelu": gelu,
            "mlp_output_activation": mlp_output_activation, "norm_order": norm_order,
            "qk_norm": qk_norm, "zero_init_outputs": zero_init_outputs, "layer_norm_epsilon": layer_norm_epsilon,
            "attention_dropout_rate": attention_dropout_rate,
            "projection_dropout_rate": projection_dropout_rate, "mlp_dropout_rate": mlp_dropout_rate,
            "drop_path_rate": drop_path_rate, "block": block, "initializer": initializer, "seed": seed}
        dtype = self.dtype_policy
        self.attention_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, name="attention_norm", dtype=dtype)
        self.attention = Attention(
            num_heads, head_dim=head_dim, qkv_bias=qkv_bias, dropout_rate=attention_dropout_rate,
            projection_dropout_rate=projection_dropout_rate, qk_norm=qk_norm, layer_norm_epsilon=layer_norm_epsilon,
            zero_init_output=zero_init_outputs, block=block, initializer=initializer, seed=seed, name="attention",
            dtype=dtype)
        self.attention_path = drop.DropPath(drop_path_rate, drop.block_site(block, drop.ATTENTION_PATH),
                                            name="attention_path", dtype=dtype)
        self.mlp_norm = keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name="mlp_norm", dtype=dtype)
        self.mlp = MLP(mlp_dim, gelu=gelu, output_activation=mlp_output_activation, dropout_rate=mlp_dropout_rate,
                       zero_init_output=zero_init_outputs, block=block, initializer=initializer, seed=seed,
                       name="mlp", dtype=dtype)
        self.mlp_path = drop.DropPath(drop_path_rate, drop.block_site(block, drop.MLP_PATH), name="mlp_path",
                                      dtype=dtype)

    def build(self, input_shape):
        for layer in (self.attention_norm, self.attention, self.attention_path, self.mlp_norm, self.mlp,
                      self.mlp_path):
            layer.build(input_shape)

    def call(self, x, seeds=None, training=None):
        y = self.attention(self.attention_norm(x), seeds=seeds, training=training)
        y = x + self.attention_path(y, seeds=seeds, training=training)
        z = self.mlp_norm(y)
        out = self.mlp_path(self.mlp(z, seeds=seeds, training=training), seeds=seeds, training=training)
        return (z if self.norm_order == "authors" else y) + out

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._options}
