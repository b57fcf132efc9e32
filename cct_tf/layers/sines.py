"""The fixed position embeddings, in NumPy: `convert` compares files of weights with them, without TensorFlow."""

import numpy as np


def sine_positions(num_tokens, embed_dim):
    """pe[p, 2i] = sin(p / 10000^(2i/D)), pe[p, 2i+1] = cos(p / 10000^(2i/D)) (arXiv:1706.03762 Section 3.5).

    Args:
        num_tokens: N.
        embed_dim: D, even or odd.

    Returns:
        NumPy float32 [N, D], rounded as the authors do: the angle first, then its sine.
    """
    pairs = np.arange(embed_dim) // 2
    angles = (np.arange(num_tokens)[:, None] / 10000.0 ** (2 * pairs / embed_dim)).astype(np.float32)  # [N, D]
    return np.where(np.arange(embed_dim) % 2 == 0, np.sin(angles), np.cos(angles))
