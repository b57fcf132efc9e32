"""Options of the layers and sizes inside the tokenizer, without TensorFlow.

The layers and the table of networks (`cct_tf.models.variants`) both follow them.
"""

NORM_ORDERS = ("authors", "pre")  # of `encoder.TransformerBlock`
POOL_PADDINGS = ("authors", "keras")  # of `tokenizer.ConvTokenizer`
INNER_DIM = 64  # channels of every convolution of a tokenizer but the last


def conv_widths(num_convs, embed_dim):
    """Output channels of each convolution of a tokenizer, a list of int."""
    return [INNER_DIM] * (num_convs - 1) + [embed_dim]


def conv_side(side, kernel_size, stride, padding):
    """Side of a convolution's output in pixels; below 1 if the input is too small.

    Args:
        side: int, side of the square input.
        kernel_size, stride: ints, of the convolution.
        padding: int, zeros on each side of the input.
    """
    return (side + 2 * padding - kernel_size) // stride + 1


def pool_side(side, pool_padding):
    """Side of the output of max-pooling, 3 x 3 with stride 2; `pool_padding` is one of POOL_PADDINGS."""
    if pool_padding == "keras":  # 1 on each side, then "same", which adds 1 or 2
        return (side + 3) // 2
    return (side - 1) // 2 + 1  # 1 on each side
