"""Learned positions for another image size, in NumPy."""

import math

import numpy as np


def grid_side(num_tokens, class_token):
    """Tokens along a side of the square grid, or None if they are no square; a class token is not counted."""
    tokens = num_tokens - (1 if class_token else 0)
    side = math.isqrt(max(tokens, 0))
    return side if side and side**2 == tokens else None


def resize_positions(rows, old, new, class_token):
    """Positions for another image size: bilinear, pixel centres at half-integers, no antialiasing, edges repeated.

    Args:
        rows: array [h w (+ 1), D], row by row of the image; the class token's row, if any, comes first.
        old, new: (h, w), tokens down and across the image, before and after.
        class_token: True if the first row belongs to a class token; it is kept.

    Returns:
        NumPy array [h w (+ 1), D] of the new grid and the rows' type.

    Raises:
        ValueError: the number of rows doesn't fit.
    """
    rows = np.asarray(rows)
    first = 1 if class_token else 0
    if rows.ndim != 2 or rows.shape[0] != math.prod(old) + first:
        raise ValueError(f"positions: expected {math.prod(old) + first} rows for {old[0]} x {old[1]} tokens, "
                         f"found shape {rows.shape}")
    down, across = map(_bilinear, old, new)  # [new, old] each
    grid = rows[first:].reshape(*old, -1).astype(np.float64)  # [N, D] -> [h, w, D]
    grid = np.einsum("ah,bw,hwd->abd", down, across, grid)
    return np.concatenate([rows[:first], grid.reshape(math.prod(new), -1).astype(rows.dtype)])


def _bilinear(old, new):
    """[new, old]: the weight of each old point in each new one."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(old)))
