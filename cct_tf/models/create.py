"""From a network's name to a built model."""

from cct_tf import sizes
from cct_tf.errors import UserError
from cct_tf.models import variants
from cct_tf.models.cct import CCT
from cct_tf.models.vit import ViT


def create_model(name, num_classes=10, image_size=None, positional_embedding=None, norm_order=None, dropout_rate=None,
                 attention_dropout_rate=None, drop_path_rate=None, seed=0, dtype=None, channels=None,
                 qk_norm=None, zero_init_outputs=None):
    """A network by name, built, with initial weights.

    The model maps images float [B, H, W, 3], normalised, to logits float32 [B, num_classes], and is an ordinary Keras
    model: compile, fit, save, summary. Initial weights depend on the seed and the variables' paths alone. Under a
    tf.distribute strategy, create it inside `strategy.scope()`.

    Args:
        name: a name of `list_models()` or of the grammar of `cct_tf.models.variants`, such as "cct_2_3x1_32".
        num_classes: width of the logits.
        image_size: side of the input in pixels, at least 8, or (height, width). None, here and below: the variant's
            own.
        positional_embedding: "learnable", "sine" (frozen) or "none".
        norm_order: "authors" (the residual stream is replaced by the second LayerNorm) or "pre" (usual pre-norm).
        dropout_rate: of tokens, attention's projection and MLP (of the MLP alone in cct_2_3x2_32_keras), in [0, 1).
        attention_dropout_rate: of attention's weights, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1); it grows linearly from 0 in the first.
        seed: the run's seed.
        dtype: Keras dtype policy or its name, such as "mixed_bfloat16"; None: Keras' global policy.
        channels: int, of the images: 3, 1 for grey, or another number.
        qk_norm: bool, LayerNorm of the queries and keys of each head before their product (arXiv:2302.05442).
        zero_init_outputs: bool, attention's output projection and the second layer of the MLP start at zero.

    Returns:
        `CCT` or `ViT`. Beside Keras' own it has features(images) -> [B, D] and, if it pools the sequence,
        pooling_attention(images) -> [B, N].

    Raises:
        UserError: an unknown name (with the nearest ones), or a value out of range.
    """
    variant = variants.resolve(name, image_size, positional_embedding, norm_order, dropout_rate,
                               attention_dropout_rate, drop_path_rate, channels, qk_norm, zero_init_outputs)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes: expected an integer of at least 1, found {num_classes!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed: expected an integer of at least 0 and below 2^63, found {seed!r}")
    return build(variant, num_classes, seed, dtype)


def build(variant, num_classes, seed=0, dtype=None):
    """The network of a checked `Variant`; arguments and result as `create_model`."""
    model = (CCT if variant.seq_pool else ViT)(variant, num_classes=num_classes, seed=seed, dtype=dtype)
    model.build((None, *sizes.sides(variant.image_size), variant.channels))
    return model
