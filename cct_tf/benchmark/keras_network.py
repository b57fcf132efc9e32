"""The networks once more, of stock Keras layers: what a user would write without this package.

Convolution, pooling, attention, normalisation, dropout and dense layers are Keras' own; the four small layers below
are what it has no layer for. Two things differ from the network they are compared with, neither of which it gains by:

* `MultiHeadAttention` has biases on queries, keys, values and output, or none: here all (3 x inner width more weights
  a block, where the variant has none on queries, keys and values).
* With the authors' tokenizer it is the network's mirror image. Their padding is 1 on each side; "same" padding of an
  even side with stride 2 comes after only, which is the same in a mirror and spares Keras layers for padding.
"""

import math

import keras
from keras import layers

from cct_tf import sizes
from cct_tf.layers.position import sine_positions


class LearnablePositions(layers.Layer):
    """Adds a learned vector to each token, [B, N, D] -> [B, N, D]."""

    def build(self, input_shape):
        self.embedding = self.add_weight(shape=tuple(input_shape[1:]), initializer="random_normal", name="embedding")

    def call(self, tokens):
        return tokens + self.embedding


class SinePositions(layers.Layer):
    """Adds fixed sines and cosines, in reverse if `mirrored`, [B, N, D] -> [B, N, D]."""

    def __init__(self, mirrored, **kwargs):
        super().__init__(**kwargs)
        self.mirrored = mirrored

    def build(self, input_shape):
        self._table = sine_positions(*input_shape[1:])[::-1 if self.mirrored else 1]

    def call(self, tokens):
        return tokens + keras.ops.cast(self._table, tokens.dtype)


class ClassToken(layers.Layer):
    """Puts a learned token before the others, [B, N, D] -> [B, 1 + N, D]."""

    def build(self, input_shape):
        self.embedding = self.add_weight(shape=(1, 1, input_shape[-1]), initializer="zeros", name="embedding")

    def call(self, tokens):
        first = keras.ops.broadcast_to(self.embedding, (keras.ops.shape(tokens)[0], 1, tokens.shape[-1]))
        return keras.ops.concatenate([keras.ops.cast(first, tokens.dtype), tokens], axis=1)


class StochasticDepth(layers.Layer):
    """Leaves a branch out, as in the Keras tutorial (keras.io/examples/vision/cct): [B, N, D] -> [B, N, D]."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, x, training=None):
        if not training or not self.rate:
            return x
        keep = 1 - self.rate
        drawn = keras.random.uniform((keras.ops.shape(x)[0], 1, 1), 0, 1, dtype=x.dtype, seed=self.seed_generator)
        return x / keep * keras.ops.floor(keep + drawn)


def build(variant, num_classes):
    """The network of a variant. Its dtype is Keras' global policy.

    Args:
        variant: `models.variants.Variant`.
        num_classes: int K.

    Returns:
        Functional keras.Model, images float [B, S, S, 3] -> logits [B, K].
    """
    images = layers.Input((*sizes.sides(variant.image_size), variant.channels))
    x = _tokenizer(images, variant)
    x = layers.Reshape((-1, variant.embed_dim))(x)  # [B, h, w, D] -> [B, N, D]
    if not variant.seq_pool:
        x = ClassToken()(x)
    if variant.positional_embedding == "learnable":
        x = LearnablePositions()(x)
    elif variant.positional_embedding == "sine":
        x = SinePositions(is_mirrored(variant))(x)
    if variant.dropout_places == "all":
        x = _dropout(variant.dropout_rate, x)
    for rate in variant.drop_path_rates:
        x = _block(x, variant, rate)
    x = _pooled(x, variant)
    return keras.Model(images, layers.Dense(num_classes, dtype="float32")(x))


def is_mirrored(variant):
    """Whether `build` gives the mirror image of the variant's network, left and right, top and bottom."""
    return variant.tokenizer == "conv"


def _tokenizer(x, variant):
    if variant.tokenizer == "patch":
        return layers.Conv2D(variant.embed_dim, variant.kernel_size, variant.kernel_size)(x)
    for width in variant.conv_widths:
        frames = tuple(_frame(side, variant) for side in x.shape[1:3])
        same = frames == tuple(_same_frame(side, variant) for side in x.shape[1:3])
        if any(map(any, frames)) and not same:
            x = layers.ZeroPadding2D(frames)(x)
        x = layers.Conv2D(width, variant.kernel_size, variant.stride, padding="same" if same else "valid",
                          use_bias=False, activation="relu")(x)
        if variant.tokenizer == "conv_keras":
            x = layers.ZeroPadding2D(1)(x)
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    return x


def _frame(side, variant):
    """(before, after): zeros that a convolution sees around an input of this side; in a mirror, if it is mirrored."""
    kernel, stride, padding = variant.kernel_size, variant.stride, variant.padding
    unused = (side + 2 * padding - kernel) % stride  # zeros at the far end that no window reaches
    after = max(padding - unused, 0)
    return (after, padding) if is_mirrored(variant) else (padding, after)


def _same_frame(side, variant):
    """(before, after) of "same" padding: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2."""
    total = max((math.ceil(side / variant.stride) - 1) * variant.stride + variant.kernel_size - side, 0)
    return total // 2, total - total // 2


def _dropout(rate, x):
    return layers.Dropout(rate)(x) if rate else x


def _norm(x, variant):
    return layers.LayerNormalization(epsilon=variant.layer_norm_epsilon)(x)


def _gelu(variant):
    return keras.activations.gelu if variant.gelu == "exact" else lambda x: keras.ops.gelu(x, approximate=True)


def _block(x, variant, drop_path_rate):
    """[B, N, D] -> [B, N, D]; see `layers.encoder.TransformerBlock` for the two orders of the norms."""
    width, everywhere = variant.embed_dim, variant.dropout_places == "all"
    y = _norm(x, variant)
    y = layers.MultiHeadAttention(variant.num_heads, variant.inner_dim // variant.num_heads,
                                  dropout=variant.attention_dropout_rate)(y, y)
    y = _dropout(variant.dropout_rate if everywhere else 0.0, y)
    y = layers.Add()([x, StochasticDepth(drop_path_rate)(y)])
    z = _norm(y, variant)
    out = layers.Dense(width * variant.mlp_ratio, activation=_gelu(variant))(z)
    out = _dropout(variant.dropout_rate, out)
    out = layers.Dense(width, activation=_gelu(variant) if variant.mlp_output_activation else None)(out)
    out = StochasticDepth(drop_path_rate)(_dropout(variant.dropout_rate, out))
    return layers.Add()([z if variant.norm_order == "authors" else y, out])


def _pooled(x, variant):
    """[B, N, D] -> [B, D]."""
    if not variant.seq_pool:
        return _norm(x[:, 0], variant)
    x = _norm(x, variant)
    shares = layers.Softmax(axis=1)(layers.Dense(1)(x))  # [B, N, 1]
    return layers.Reshape((variant.embed_dim,))(layers.Dot(axes=1)([shares, x]))  # [B, 1, D] -> [B, D]


def compile_for(model, optim, jit):
    """Give the network Keras' AdamW and cross-entropy, as the config says.

    Args:
        model: what `build` returned.
        optim: dict of `config.OptimConfig`'s fields.
        jit: bool, compile the step with XLA.
    """
    optimizer = keras.optimizers.AdamW(
        optim["learning_rate"], weight_decay=optim["weight_decay"], beta_1=optim["beta_1"], beta_2=optim["beta_2"],
        epsilon=optim["adam_epsilon"], global_clipnorm=optim["clip_norm"])
    if optim["weight_decay_mask"] == "matrices":
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=optim["label_smoothing"])
    model.compile(optimizer, loss, jit_compile=jit)
