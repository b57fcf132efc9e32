"""The authors' names of weights and ours, without TensorFlow.

Theirs are the keys of a PyTorch state dict (SHI-Labs/Compact-Transformers); ours are the variables' paths without the
model's name. Their axes are [out, in, k, k] for convolutions and [out, in] for linear layers.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight under both names.

    `kind` says how the axes go: "conv" [out, in, k, k] -> [k, k, in, out]; "linear" [out, in] -> [in, out];
    "rows" [1, N, D] -> [N, D] (positions, class token); "vector" as it is.
    """

    authors: str
    ours: str
    kind: str

    def to_ours(self, array):
        """The authors' array with its axes in our order, NumPy."""
        if self.kind == "conv":
            return np.transpose(array, (2, 3, 1, 0))
        if self.kind == "linear":
            return np.transpose(array)
        return array[0] if self.kind == "rows" else array


def weights(variant):
    """Every weight of one of the authors' networks (CCT, CVT, ViT-Lite), a list of `Weight`.

    Sine positions are in their state dicts, as a constant, but are no weight here.

    Args:
        variant: a `Variant` with the authors' layers.
    """
    if variant.tokenizer == "patch":
        table = [Weight("tokenizer.conv_layers.0.0.weight", "tokenizer/kernel", "conv"),
                 Weight("tokenizer.conv_layers.0.0.bias", "tokenizer/bias", "vector")]
    else:
        table = [Weight(f"tokenizer.conv_layers.{i}.0.weight", f"tokenizer/conv_{i}_kernel", "conv")
                 for i in range(variant.num_convs)]
    if not variant.seq_pool:
        table.append(Weight("classifier.class_emb", "class_token/embedding", "rows"))
    if variant.positional_embedding == "learnable":
        table.append(Weight("classifier.positional_emb", "positions/embedding", "rows"))
    for block in range(variant.depth):
        table += _block(f"classifier.blocks.{block}", f"block_{block}")
    table += _norm("classifier.norm", "norm")
    if variant.seq_pool:
        table += _linear("classifier.attention_pool", "pooling/score")
    return table + _linear("classifier.fc", "head")


def _linear(authors, ours):
    return [Weight(f"{authors}.weight", f"{ours}/kernel", "linear"),
            Weight(f"{authors}.bias", f"{ours}/bias", "vector")]


def _norm(authors, ours):
    return [Weight(f"{authors}.weight", f"{ours}/gamma", "vector"),
            Weight(f"{authors}.bias", f"{ours}/beta", "vector")]


def _block(authors, ours):
    return [
        *_norm(f"{authors}.pre_norm", f"{ours}/attention_norm"),
        Weight(f"{authors}.self_attn.qkv.weight", f"{ours}/attention/qkv/kernel", "linear"),
        *_linear(f"{authors}.self_attn.proj", f"{ours}/attention/projection"),
        *_norm(f"{authors}.norm1", f"{ours}/mlp_norm"),
        *_linear(f"{authors}.linear1", f"{ours}/mlp/hidden"),
        *_linear(f"{authors}.linear2", f"{ours}/mlp/output"),
    ]
