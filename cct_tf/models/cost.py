"""What a network costs: parameters and multiply-accumulate operations, counted from its variant.

Imports without TensorFlow. D embedding, N tokens, K inner width of attention, M hidden width of the MLP.
"""

import itertools


def count_parameters(variant, num_classes):
    """Trainable parameters (sine positions are frozen and not counted).

    Args:
        variant: a `Variant`.
        num_classes: outputs of the head.

    Returns:
        int.
    """
    D, K, M = variant.embed_dim, variant.inner_dim, variant.embed_dim * variant.mlp_ratio
    tokenizer = sum(kernel for kernel, _ in _convolutions(variant)) + (D if variant.tokenizer == "patch" else 0)
    positions = variant.num_tokens * D if variant.positional_embedding == "learnable" else 0
    attention = 3 * D * K + (3 * K if variant.qkv_bias else 0) + K * D + D
    attention += 4 * (K // variant.num_heads) if variant.qk_norm else 0  # scale and bias, of queries and keys
    mlp = D * M + M + M * D + D
    layer_norm = 2 * D
    pooling = D + 1 if variant.seq_pool else D  # a linear layer to one score, or the class token
    head = D * num_classes + num_classes
    blocks = variant.depth * (attention + mlp + 2 * layer_norm)
    return tokenizer + positions + blocks + layer_norm + pooling + head


def count_macs(variant, num_classes, attention_products=True):
    """Multiply-accumulate operations of one image's forward pass: convolutions, linear layers, attention's products.

    Sequence pooling (2 N D, less than a thousandth) is left out, as are additions, norms and activations.

    Args:
        variant: a `Variant`.
        num_classes: outputs of the head.
        attention_products: count attention's two products too, queries with keys and weights with values. Published
            figures leave them out, because their counters see layers only.

    Returns:
        int.
    """
    without = 0 if attention_products else variant.depth * 2 * variant.num_tokens**2 * variant.inner_dim
    return sum(macs_by_part(variant, num_classes).values()) - without


def macs_by_part(variant, num_classes):
    """What `count_macs` counts, by where: dict of ints "tokenizer"; "attention" and "mlp", of all blocks; "head"."""
    D, K, M, N = (variant.embed_dim, variant.inner_dim, variant.embed_dim * variant.mlp_ratio,
                  variant.num_tokens)
    tokenizer = sum(kernel * height * width for kernel, (height, width) in _convolutions(variant))
    attention = N * (3 * D * K + K * D) + 2 * N * N * K
    return {"tokenizer": tokenizer, "attention": variant.depth * attention, "mlp": variant.depth * N * 2 * D * M,
            "head": D * num_classes}


def largest_activation(variant):
    """Elements of the largest tensor that the encoder makes of one image: an int."""
    D, K, M, N = (variant.embed_dim, variant.inner_dim, variant.embed_dim * variant.mlp_ratio, variant.num_tokens)
    return N * max(variant.num_heads * N, 3 * K, M, D)


def _convolutions(variant):
    """(elements of the kernel, (height, width) of the output) of each convolution of the tokenizer."""
    widths = [variant.channels, *variant.conv_widths]
    return [(variant.kernel_size**2 * before * after, sides)
            for (before, after), sides in zip(itertools.pairwise(widths), variant.conv_sides(), strict=True)]
