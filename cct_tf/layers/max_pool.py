"""Max-pooling of 3 x 3 with stride 2 whose gradient XLA computes fast.

TensorFlow's gradient scatters, which XLA turns into a slow loop. Here the forward pass keeps the place of the first
maximum of each window (0 to 8, row by row). A pixel lies in 1, 2 or 4 windows, by the parity of its row and column; its
gradient is the sum over those of them whose maximum it is. Values and gradients equal TensorFlow's.

Legend: B batch, H W image, h w pooled image, C channels.
"""

import tensorflow as tf

from cct_tf.layers.compiling import is_compiling


def max_pool(padded):
    """Maximum of windows: [B, H, W, C], padding included -> [B, (H - 1) // 2, (W - 1) // 2, C]."""
    if is_compiling():
        return max_pool_for_xla(padded)
    return tf.nn.max_pool2d(padded, 3, 2, "VALID")


@tf.custom_gradient
def max_pool_for_xla(padded):
    """`max_pool` in the form that XLA is fast at."""
    height, width = padded.shape[1:3]
    h, w = (height - 1) // 2, (width - 1) // 2
    pooled, place = None, None
    for number in range(9):
        dy, dx = divmod(number, 3)
        pixel = padded[:, dy:dy + 2 * h - 1:2, dx:dx + 2 * w - 1:2]  # of each window, [B, h, w, C]
        if pooled is None:
            pooled, place = pixel, tf.zeros_like(pixel, tf.uint8)
            continue
        larger = pixel > pooled  # of equal pixels the first counts
        place = tf.where(larger, tf.constant(number, tf.uint8), place)
        pooled = tf.where(larger, pixel, pooled)

    def gradient(upstream):
        return _gradient(upstream, place, height, width)

    return pooled, gradient


def _gradient(upstream, place, height, width):
    """[B, h, w, C] of the pooled image, and the places of the maxima -> [B, H, W, C]."""
    h, w = upstream.shape[1:3]
    # One more window on every side, whose place (9) is no pixel's. Row y then lies in the windows of row y // 2 and, if
    # y is even, in those of the row before; columns likewise.
    frame = [[0, 0], [1, 1], [1, 1], [0, 0]]
    upstream, place = tf.pad(upstream, frame), tf.pad(place, frame, constant_values=9)

    def of_parity(y, x):
        """Gradient of the pixels of one parity, [B, h + 1, w + 1, C]."""
        total = 0.0
        # In the order in which TensorFlow adds the windows, row by row: dy and dx, the pixel's place, fall.
        for dy, dx in ((dy, dx) for dy in range(2 - y, -1, -2) for dx in range(2 - x, -1, -2)):
            rows, columns = (slice(1 - d // 2, 1 - d // 2 + size + 1) for d, size in ((dy, h), (dx, w)))
            chosen = place[:, rows, columns] == 3 * dy + dx
            total += tf.where(chosen, upstream[:, rows, columns], tf.zeros([], upstream.dtype))
        return total

    rows = [tf.stack([of_parity(y, 0), of_parity(y, 1)], axis=3) for y in (0, 1)]  # [B, h + 1, w + 1, 2, C]
    both = tf.stack(rows, axis=2)  # [B, h + 1, 2, w + 1, 2, C]
    whole = tf.reshape(both, [-1, 2 * h + 2, 2 * w + 2, upstream.shape[3]])
    return whole[:, :height, :width]
