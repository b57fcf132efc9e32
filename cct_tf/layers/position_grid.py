"""Learned positions for another image size, in NumPy."""

import math

import numpy as np


def grid_side(num_tokens, class_token):
    """Tokens along a side of the square grid, or None if they are no square; a class token is not counted."""
    tokens = num_tokens - (1 if class_token else 0)
    side = math.isqrt(max(tokens, 0))
    return side if side and side**2 == tokens else None


def resize_positions(grid, old_side, new_side, class_token):
    """Positions for another image size: bilinear, pixel centres at half-integers, no antialiasing, edges repeated.

    Args:
        grid: array [old_side^2 (+ 1), D], row by row; the class token's row, if any, comes first.
        old_side, new_side: tokens along a side, before and after.
        class_token: True if the first row belongs to a class token; it is kept.

    Returns:
        NumPy array [new_side^2 (+ 1), D] of the grid's type.

    Raises:
        ValueError: the number of rows doesn't fit.
    """
    grid = np.asarray(grid)
    first = 1 if class_token else 0
    if grid.ndim != 2 or grid.shape[0] != old_side**2 + first:
        raise ValueError(f"positions: expected {old_side**2 + first} rows for a side of {old_side}, "
                         f"found shape {grid.shape}")
    weights = _bilinear(old_side, new_side)  # [new, old]
    square = grid[first:].reshape(old_side, old_side, -1).astype(np.float64)  # [N, D] -> [h, w, D]
    square = np.einsum("ah,bw,hwd->abd", weights, weights, square)
    return np.concatenate([grid[:first], square.reshape(new_side**2, -1).astype(grid.dtype)])


def _bilinear(old, new):
    """[new, old]: the weight of each old point in each new one."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(old)))
