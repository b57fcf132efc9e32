"""Where a network looks: the pooling's attention and attention rollout, as maps over the image.

Legend: B batch, H W image, h w tokens down and across it, N tokens the encoder sees (with a class token 1 + h w), I the
unit matrix.
"""

import tensorflow as tf


def attention_maps(model, images):
    """Maps of how much each place of the image contributes to the vector that the head classifies.

    Rollout (arXiv:2005.00928 Section 3) follows attention down to the first block's tokens: a block's output is taken
    for (A + I) / 2 of its input, A its attention with the heads averaged, so that all blocks together are the product
    of these matrices. The MLPs, the projections and the signs of the values are left out, so it is an indication and
    no attribution.

    Args:
        model: `CCT` or `ViT`, built. It is called as in evaluation, and left as it is.
        images: float [B, H, W, 3], normalised.

    Returns:
        dict of float32 [B, h, w], (h, w) = model.variant.grid, rows from the top of the image. Every map has
        sum 1:

        "pooling": of a network that pools the sequence, the weights of the pooling (arXiv:2104.05704 Section 3.2). Of
            one with a class token, that token's attention in the last block, heads averaged.
        "rollout": the same weights, or of a class token the row of that token, times the product of all blocks.

        A class token's attention to itself has no place in the image: it is left out, and the rest scaled to sum 1.
    """
    tokens, attentions = model.embed(images), []
    for block in model.blocks:
        attention = block.attention.attention(block.attention_norm(tokens))  # [B, heads, N, N]
        attentions.append(tf.reduce_mean(tf.cast(attention, tf.float32), axis=1))
        tokens = block(tokens, training=False)
    if model.pooling:
        pooling = row = tf.cast(model.pooling.attention(model.norm(tokens)), tf.float32)  # [B, N]
    else:
        pooling = attentions[-1][:, 0]
        row = tf.one_hot(tf.zeros(tf.shape(tokens)[:1], tf.int32), model.variant.num_tokens)
    for attention in reversed(attentions):  # a row times each matrix; their product is never formed
        row = (tf.einsum("bn,bnm->bm", row, attention) + row) / 2.0
    return {"pooling": _on_grid(pooling, model), "rollout": _on_grid(row, model)}


def _on_grid(shares, model):
    """Shares of the tokens [B, N] -> of the places [B, h, w], with sum 1."""
    if model.class_token:
        shares = shares[:, 1:] / tf.reduce_sum(shares[:, 1:], axis=1, keepdims=True)
    return tf.reshape(shares, [-1, *model.variant.grid])
