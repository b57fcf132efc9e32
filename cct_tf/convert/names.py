"""Names and shapes of weights, the authors' and ours, without TensorFlow.

Theirs are the keys of a PyTorch state dict (SHI-Labs/Compact-Transformers); ours are the variables' paths without the
model's name. Their axes are [out, in, k, k] for convolutions and [out, in] for linear layers.
"""

import dataclasses

import numpy as np

from cct_tf.errors import UserError

POSITIONS = "classifier.positional_emb"
COUNTER = "num_batches_tracked"  # end of a name: a BatchNorm's count of batches, which is no weight


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight under both names.

    `kind` says how the axes go: "conv" [out, in, k, k] -> [k, k, in, out]; "linear" [out, in] -> [in, out];
    "rows" [1, N, D] -> [N, D] (positions, class token); "vector" as it is. `shape` is the authors'.
    """

    authors: str
    ours: str
    kind: str
    shape: tuple

    def to_ours(self, array):
        """The authors' array with its axes in our order, NumPy."""
        if self.kind == "conv":
            return np.transpose(array, (2, 3, 1, 0))
        if self.kind == "linear":
            return np.transpose(array)
        return array[0] if self.kind == "rows" else array

    def to_authors(self, array):
        """Our array with its axes in the authors' order, NumPy."""
        if self.kind == "conv":
            return np.transpose(array, (3, 2, 0, 1))
        if self.kind == "linear":
            return np.transpose(array)
        return array[None] if self.kind == "rows" else array


def is_authors(variant):
    """Whether a `Variant` has the authors' layers, so that their state dicts match it."""
    return (variant.norm_order == "authors" and variant.tokenizer in ("conv", "patch")
            and not variant.qkv_bias and not variant.qk_norm)


def check_authors(flag, variant):
    """Raise UserError, naming the flag (with dashes), unless a `Variant` has the authors' layers."""
    if not is_authors(variant):
        raise UserError(f"{flag}: expected one of the authors' networks (cct_..., cvt_..., vit_..., "
                        f"--norm_order=authors, --noqk_norm), found {variant.name} with "
                        f"--norm_order={variant.norm_order} --{'' if variant.qk_norm else 'no'}qk_norm")


def weights(variant, num_classes=10):
    """Every weight of one of the authors' networks (CCT, CVT, ViT-Lite), a list of `Weight`.

    Sine positions are not in the list: in a state dict they are a constant, called `POSITIONS`.

    Args:
        variant: a `Variant` with the authors' layers.
        num_classes: width of the logits.
    """
    table = _tokenizer(variant)
    width = variant.embed_dim
    if not variant.seq_pool:
        table.append(Weight("classifier.class_emb", "class_token/embedding", "rows", (1, 1, width)))
    if variant.positional_embedding == "learnable":
        table.append(Weight(POSITIONS, "positions/embedding", "rows", (1, variant.num_tokens, width)))
    for block in range(variant.depth):
        table += _block(f"classifier.blocks.{block}", f"block_{block}", width, width * variant.mlp_ratio)
    table += _norm("classifier.norm", "norm", width)
    if variant.seq_pool:
        table += _linear("classifier.attention_pool", "pooling/score", width, 1)
    return table + _linear("classifier.fc", "head", width, num_classes)


def _tokenizer(variant):
    widths = [variant.channels, *variant.conv_widths]
    shapes = [(after, before, variant.kernel_size, variant.kernel_size)
              for before, after in zip(widths, widths[1:], strict=False)]
    if variant.tokenizer == "patch":
        return [Weight("tokenizer.conv_layers.0.0.weight", "tokenizer/kernel", "conv", shapes[0]),
                Weight("tokenizer.conv_layers.0.0.bias", "tokenizer/bias", "vector", (variant.embed_dim,))]
    return [Weight(f"tokenizer.conv_layers.{i}.0.weight", f"tokenizer/conv_{i}_kernel", "conv", shape)
            for i, shape in enumerate(shapes)]


def _linear(authors, ours, before, after):
    return [Weight(f"{authors}.weight", f"{ours}/kernel", "linear", (after, before)),
            Weight(f"{authors}.bias", f"{ours}/bias", "vector", (after,))]


def _norm(authors, ours, width):
    return [Weight(f"{authors}.weight", f"{ours}/gamma", "vector", (width,)),
            Weight(f"{authors}.bias", f"{ours}/beta", "vector", (width,))]


def _block(authors, ours, width, hidden):
    return [
        *_norm(f"{authors}.pre_norm", f"{ours}/attention_norm", width),
        Weight(f"{authors}.self_attn.qkv.weight", f"{ours}/attention/qkv/kernel", "linear", (3 * width, width)),
        *_linear(f"{authors}.self_attn.proj", f"{ours}/attention/projection", width, width),
        *_norm(f"{authors}.norm1", f"{ours}/mlp_norm", width),
        *_linear(f"{authors}.linear1", f"{ours}/mlp/hidden", width, hidden),
        *_linear(f"{authors}.linear2", f"{ours}/mlp/output", hidden, width),
    ]
