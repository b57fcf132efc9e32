"""Shear, translation and rotation as Pillow does them: an affine map from output to source pixels.

Pillow's matrix (a, b, c, d, e, f) takes the output pixel (x, y) to the source place (a X + b Y + c, d X + e Y + f) with
X = x + 1/2, Y = y + 1/2. NEAREST takes the pixel there, with coordinates in 16.16 fixed point (in floating point where
b = d = 0); BILINEAR and BICUBIC (Keys' cubic with a = -1 here, not the -1/2 of Pillow's resize) weigh its neighbours,
the border repeated. A place outside the source gets the fill colour.

Legend: B batch, H W height and width of the image, n = H W pixels.
"""

import math

import tensorflow as tf

from cct_tf.policies.notation import GEOMETRIC, Op

OPS = GEOMETRIC
OPS_ALONG = {"x": (Op.SHEAR_X, Op.TRANSLATE_X), "y": (Op.SHEAR_Y, Op.TRANSLATE_Y), "xy": (Op.ROTATE,)}


def matrices(op, argument, sides):
    """Pillow's matrices.

    Args:
        op: int32 [B], of OPS; another gives the identity.
        argument: float64 [B], in the units of `policies.Op`.
        sides: (H, W), ints.

    Returns:
        float64 [B, 6].
    """
    def only(code):
        return tf.where(op == code, argument, 0.0)

    # Image.rotate, in Python's own order of operations.
    angle = -only(Op.ROTATE) * (math.pi / 180.0)
    cosine, sine = _rounded(tf.cos(angle)), _rounded(tf.sin(angle))
    centre_y, centre_x = sides[0] / 2.0, sides[1] / 2.0
    turned_x = (cosine * -centre_x + sine * -centre_y) + centre_x
    turned_y = (-sine * -centre_x + cosine * -centre_y) + centre_y
    return tf.stack([cosine, only(Op.SHEAR_X) + sine, only(Op.TRANSLATE_X) + turned_x,
                     only(Op.SHEAR_Y) - sine, cosine, only(Op.TRANSLATE_Y) + turned_y], axis=1)


def _rounded(values):
    """To 15 decimal places, as Image.rotate rounds its matrix."""
    return tf.round(values * 1e15) / 1e15


def nearest_steps(matrix):
    """The matrix in the integers that NEAREST computes with.

    Args:
        matrix: float64 [B, 6].

    Returns:
        int32 [B, 6]: the matrix in 16.16 fixed point; c and f give the source place of the first pixel's centre.
    """
    a, b, c, d, e, f = tf.unstack(matrix, axis=1)
    moved = tf.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], axis=1)
    fixed = tf.floor(moved * 65536.0 + 0.5)
    # Where b = d = 0 Pillow cuts off a floating-point coordinate: c + x + 1/2 lies in the same pixel as floor(c + 1/2).
    scaled = tf.floor(moved) * 65536.0
    straight = ((b == 0.0) & (d == 0.0))[:, None]
    places = tf.constant([False, False, True, False, False, True])
    return tf.cast(tf.where(straight & places, scaled, fixed), tf.int32)


def _columns(values):
    """[B, 6] -> six tensors [B, 1, 1]."""
    return [column[:, None, None] for column in tf.unstack(values, axis=1)]


def _gather(images, rows, columns):
    """Pixels of each image: [B, H, W, C], int32 [B, H, W] twice -> [B, H, W, C]."""
    height, width, channels = images.shape[1:]
    flat = tf.reshape(images, [-1, height * width, channels])
    found = tf.gather(flat, tf.reshape(rows * width + columns, [-1, height * width]), axis=1, batch_dims=1)
    return tf.reshape(found, [-1, height, width, channels])


def nearest(images, steps, fill):
    """Transform with NEAREST, every pixel as Pillow's.

    Args:
        images: uint8 or uint16 [B, H, W, C].
        steps: int32 [B, 6], see `nearest_steps`.
        fill: the same [C].

    Returns:
        The same [B, H, W, C].
    """
    height, width = images.shape[1:3]
    a, b, c, d, e, f = _columns(steps)
    x, y = tf.range(width)[None, None, :], tf.range(height)[None, :, None]
    columns = tf.bitwise.right_shift(a * x + b * y + c, 16)
    rows = tf.bitwise.right_shift(d * x + e * y + f, 16)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = _gather(images, tf.clip_by_value(rows, 0, height - 1), tf.clip_by_value(columns, 0, width - 1))
    return tf.where(inside[..., None], found, fill)


def smooth_terms(matrix, sides):
    """The products of the affine map, for BILINEAR and BICUBIC. To be called outside compiled functions.

    The last bit of a coordinate decides whether a place on the edge of the source is inside. Pillow rounds after the
    product and again after the sum; XLA would contract both into one operation, rounded once. So the products are
    computed here, and `smooth`, which is compiled, only adds them.

    Args:
        matrix: float64 [B, 6], see `matrices`.
        sides: (H, W), ints.

    Returns:
        float64 [B, 6, max(H, W)]: a X, b Y, c, d X, e Y, f for X, Y = 1/2, 3/2, ...
    """
    numbers = tf.range(max(sides), dtype=tf.float64) + 0.5
    ones = tf.ones_like(numbers)
    return matrix[:, :, None] * tf.stack([numbers, numbers, ones, numbers, numbers, ones])


def _on_grid(places):
    """float64 -> float32, rounded to a grid of 2^-16 pixels.

    XLA may compute a place twice, once for its neighbours and once for their weights, with another last bit. On the
    border between two pixels the two would not belong together: seen at shears of 4/15, wrong by up to 72 levels.
    """
    return tf.cast(tf.round(places * 65536.0) / 65536.0, tf.float32)


def _weights(share, bicubic):
    """Weights of the four neighbours at -1, 0, 1, 2 of a place that lies `share` (0 to 1) after neighbour 0."""
    d = share
    cubic = (-d + d * d * (2.0 - d), 1.0 + d * d * (d - 2.0), d + d * d * (1.0 - d), d * d * (d - 1.0))
    linear = (0.0, 1.0 - d, d, 0.0)
    return [tf.where(bicubic, one, other) for one, other in zip(cubic, linear, strict=True)]


def _neighbours(places, side, bicubic):
    """What a place along one axis takes: a list of four (pixel, int32 [B, H, W]; its weight, float32 [B, H, W, 1]); and
    whether it is inside, bool [B, H, W].

    Args:
        places: float64 [B, H, W].
        side: int, pixels of the axis.
        bicubic: bool [B].
    """
    inside = (places >= 0.0) & (places < side)
    places = _on_grid(places)
    first = tf.floor(places - 0.5)
    weights = _weights(places - 0.5 - first, bicubic[:, None, None])
    first = tf.cast(first, tf.int32)
    return [(tf.clip_by_value(first + step, 0, side - 1), weight[..., None])
            for step, weight in enumerate(weights, -1)], inside


def smooth(images, terms, bicubic, fill, axes="xy"):
    """Transform with BILINEAR or BICUBIC.

    Args:
        images: uint8 or uint16 [B, H, W, C].
        terms: float64 [B, 6, max(H, W)], see `smooth_terms`.
        bicubic: bool [B].
        fill: the same [C].
        axes: the axes that pixels move along. Along the other one each place is the centre of its own pixel, and the
            weights of the neighbours are zeros: what is left out changes no bit.

    Returns:
        The same [B, H, W, C], truncated to whole levels as Pillow does.
    """
    height, width = images.shape[1:3]
    a_x, b_y, c, d_x, e_y, f = tf.unstack(terms, axis=1)  # [B, max(H, W)] each
    columns, inside_x = [(tf.range(width)[None, None], 1.0)], True
    rows, inside_y = [(tf.range(height)[None, :, None], 1.0)], True
    if "x" in axes:
        places = a_x[:, None, :width] + b_y[:, :height, None] + c[:, :1, None]  # [B, H, W]
        columns, inside_x = _neighbours(places, width, bicubic)
    if "y" in axes:
        places = d_x[:, None, :width] + e_y[:, :height, None] + f[:, :1, None]
        rows, inside_y = _neighbours(places, height, bicubic)
    total = 0.0
    for row, weight_y in rows:
        line = 0.0
        for column, weight_x in columns:
            line += weight_x * tf.cast(_gather(images, row, column), tf.float32)
        total += weight_y * line
    # By factors 0 and 1, which are exact: with `tf.where` the loop is not vectorised, and takes twice the time.
    inside = tf.cast(inside_x & inside_y, tf.float32)[..., None]
    total = total * inside + tf.cast(fill, tf.float32) * (1.0 - inside)
    # By rounding, what should be a whole level is often just below it, and would be truncated to the level before.
    white = float(images.dtype.max)
    return tf.cast(tf.clip_by_value(total + 1e-3 * (white + 1.0) / 256.0, 0.0, white), images.dtype)
