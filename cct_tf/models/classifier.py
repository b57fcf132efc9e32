"""What CCT, CVT, ViT-Lite and ViT share: tokens, positions, blocks, head, and the seeds of their dropout."""

import dataclasses
import math

import tensorflow as tf

from cct_tf import rng, sizes
from cct_tf.layers import drop, features_first, recompute
from cct_tf.layers.compiling import is_compiling
from cct_tf.layers.encoder import TransformerBlock
from cct_tf.layers.linear import Linear
from cct_tf.layers.pooling import ClassToken, SequencePooling
from cct_tf.layers.position import LearnablePositions, SinePositions
from cct_tf.layers.tokenizer import ConvTokenizer, PatchTokenizer
from cct_tf.machine.backend import keras
from cct_tf.models.variants import Variant


class TransformerClassifier(keras.Model):
    """Images -> logits. `CCT` and `ViT` say how the tokens become one vector: `_pool`, [B, N, D] -> [B, D].

    Args:
        variant: a checked `Variant` (`cct_tf.models.variants.resolve`), or its fields as a dict.
        num_classes: width of the logits.
        seed: keys the initial weights, and the random numbers drawn when the model is called without seeds.
        name: first part of the variables' paths, on which the initial weights depend; default the variant's name.
        dtype: Keras dtype policy or its name. The logits are float32 whatever it is (float64 for "float64").
    """

    def __init__(self, variant, num_classes=10, seed=0, name=None, dtype=None, trainable=True):
        variant = Variant(**variant) if isinstance(variant, dict) else variant
        super().__init__(name=name or variant.name, dtype=dtype, trainable=trainable)
        self.variant = variant
        self.num_classes = num_classes
        self.image_size = variant.image_size
        self.seed = seed
        options = {"initializer": variant.initializer, "seed": seed, "dtype": self.dtype_policy}
        self.tokenizer = _tokenizer(variant, options)
        self.class_token = None if variant.seq_pool else ClassToken(name="class_token", dtype=self.dtype_policy)
        self.positions = None
        if variant.positional_embedding == "learnable":
            self.positions = LearnablePositions(name="positions", **options)
        elif variant.positional_embedding == "sine":
            self.positions = SinePositions(name="positions", dtype=self.dtype_policy)
        self.token_dropout = drop.Dropout(variant.dropout_rate if variant.dropout_places == "all" else 0.0, drop.TOKENS,
                                          name="token_dropout", dtype=self.dtype_policy)
        for index in range(variant.depth):
            # One attribute each: tf.train.Checkpoint doesn't look into Keras' lists and would silently leave them out.
            setattr(self, f"block_{index}", _block(variant, index, options))
        self.norm = keras.layers.LayerNormalization(epsilon=variant.layer_norm_epsilon, name="norm",
                                                    dtype=self.dtype_policy)
        self.pooling = SequencePooling(name="pooling", **options) if variant.seq_pool else None
        head_dtype = "float64" if self.dtype_policy.variable_dtype == "float64" else "float32"
        self.head = Linear(num_classes, initializer=variant.initializer, seed=seed, name="head", dtype=head_dtype)
        # Advances only when the model is called in training without seeds, as `fit` does.
        self.seed_generator = keras.random.SeedGenerator(seed, name="seed_generator")

    @property
    def channels(self):
        """Of the images."""
        return self.variant.channels

    @property
    def blocks(self):
        """The transformer blocks, first to last."""
        return tuple(getattr(self, f"block_{index}") for index in range(self.variant.depth))

    def build(self, input_shape):
        """Make every variable. A second call does nothing: loading a file builds a model that may be built already."""
        if self.built:
            return
        batch, width = input_shape[0], self.variant.embed_dim
        patches = (batch, math.prod(self.variant.grid), width)
        tokens = (batch, self.variant.num_tokens, width)
        self.tokenizer.build((batch, *sizes.sides(self.image_size), self.variant.channels))
        if self.class_token:
            self.class_token.build(patches)
        for layer in (self.positions, self.token_dropout, *self.blocks, self.norm, self.pooling):
            if layer:
                layer.build(tokens)
        self.head.build((batch, width))

    def call(self, images, seeds=None, training=None):
        """Logits of a batch.

        Args:
            images: float [B, H, W, C], normalised, of the size `image_size`, with the variant's channels.
            seeds: uint32 [B], example seeds that key dropout and stochastic depth in training. Without them the
                model draws its own, other ones at each call.
            training: whether dropout and stochastic depth act.

        Returns:
            float32 [B, num_classes].

        Raises:
            ValueError: images of another shape.
        """
        return self.head(self.features(images, seeds, training))

    def features(self, images, seeds=None, training=None):
        """The vector that the head classifies; arguments as `call`.

        Returns:
            [B, D], in the compute dtype.
        """
        return self._pool(self._encode(images, seeds, training))

    def _encode(self, images, seeds=None, training=None):
        """Images [B, H, W, 3] -> tokens [B, N, D], class token included, before the final LayerNorm."""
        if training and seeds is None:
            seeds = self._draw_seeds(tf.shape(images)[0])
        return self._encode_tokens(self.tokenizer(self._checked(images)), seeds, training)

    def classify(self, tokens, seeds=None, training=None):
        """The second part of `call`: what `tokenizer` makes of the images, [B, h w, D] -> [B, num_classes]."""
        return self.head(self._pool(self._encode_tokens(tokens, seeds, training)))

    def embed(self, images):
        """What the first block gets in evaluation: images [B, H, W, 3] -> tokens [B, N, D], class token included."""
        return self._place_tokens(self.tokenizer(self._checked(images)), None, False)

    def _place_tokens(self, tokens, seeds, training):
        """The tokenizer's tokens -> tokens [B, N, D] with class token and positions, dropout applied."""
        if self.class_token:
            tokens = self.class_token(tokens)
        if self.positions:
            tokens = self.positions(tokens)
        return self.token_dropout(tokens, seeds=seeds, training=training)

    def _encode_tokens(self, tokens, seeds, training):
        """The tokenizer's tokens -> tokens [B, N, D], class token included, before the final LayerNorm."""
        tokens = self._place_tokens(tokens, seeds, training)
        if training and is_compiling("CPU") and features_first.is_faster(tokens):
            return features_first.encode(self.blocks, tokens, seeds)

        def run(block, tokens, seeds):
            return block(tokens, seeds=seeds, training=training)

        for block in self.blocks:
            tokens = recompute.run(run, block, tokens, seeds)
        return tokens

    def _checked(self, images):
        """The images, checked to be [B, H, W, 3]: from another size, tokens of several images would be mixed."""
        images = tf.convert_to_tensor(images)  # `features` takes arrays too
        expected = [None, *sizes.sides(self.image_size), self.variant.channels]
        if not images.shape.is_compatible_with(expected):
            raise ValueError(f"images: expected shape {expected}, found {images.shape.as_list()}")
        return tf.ensure_shape(images, expected)

    def _draw_seeds(self, batch):
        """Example seeds from the seed generator, uint32 [B]; both words of its state count, [seed, counter]."""
        state = tf.cast(self.seed_generator.next(), tf.uint32)
        key = rng.mix(tf.bitwise.bitwise_xor(rng.mix(state[:1]), state[1:]))  # [1]
        return rng.bits(key, 0, [batch])[0]

    def get_config(self):
        variant = dataclasses.asdict(self.variant)
        if isinstance(variant["image_size"], tuple):  # Keras writes tuples in a notation of its own
            variant["image_size"] = list(variant["image_size"])
        return {**super().get_config(), "variant": variant, "num_classes": self.num_classes, "seed": self.seed}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        del custom_objects  # registered
        return cls(**config)


def _tokenizer(variant, options):
    if variant.tokenizer == "patch":
        return PatchTokenizer(variant.embed_dim, variant.kernel_size, name="tokenizer", **options)
    return ConvTokenizer(
        variant.embed_dim, num_convs=variant.num_convs, kernel_size=variant.kernel_size, stride=variant.stride,
        padding=variant.padding, pool_padding=variant.pool_padding, name="tokenizer", **options)


def _block(variant, index, options):
    return TransformerBlock(
        variant.num_heads, variant.embed_dim * variant.mlp_ratio, head_dim=variant.head_dim,
        qkv_bias=variant.qkv_bias, gelu=variant.gelu, mlp_output_activation=variant.mlp_output_activation,
        norm_order=variant.norm_order, qk_norm=variant.qk_norm, zero_init_outputs=variant.zero_init_outputs,
        layer_norm_epsilon=variant.layer_norm_epsilon,
        attention_dropout_rate=variant.attention_dropout_rate,
        projection_dropout_rate=variant.dropout_rate if variant.dropout_places == "all" else 0.0,
        mlp_dropout_rate=variant.dropout_rate, drop_path_rate=variant.drop_path_rates[index], block=index,
        name=f"block_{index}", **options)
