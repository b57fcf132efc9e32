"""From images to tokens: convolutions with pooling (CCT) or patches (CVT, ViT)."""

import tensorflow as tf

from cct_tf.layers import spec
from cct_tf.layers.initializers import keyed
from cct_tf.layers.max_pool import max_pool
from cct_tf.machine.backend import keras


def pad_sides(x, size):
    """`size` zeros on all four sides: [B, H, W, C] -> [B, H + 2 size, W + 2 size, C]."""
    return tf.pad(x, [[0, 0], [size, size], [size, size], [0, 0]]) if size else x


@keras.saving.register_keras_serializable("cct_tf")
class ConvTokenizer(keras.layers.Layer):
    """num_convs x [convolution without bias, ReLU, max-pooling of 3 x 3 with stride 2] (arXiv:2104.05704 Section 3.3).

    Args:
        embed_dim: width of the tokens, D.
        num_convs: convolutions; all but the last have 64 channels.
        kernel_size, stride: of the convolutions.
        padding: zeros on each side of a convolution's input.
        pool_padding: of the pooling's input. "authors": 1 on each side, which never becomes the maximum; "keras" (as
            in the tutorial): 1 zero on each side, then "same" padding.
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: images [B, H, W, C] -> tokens [B, N, D], row by row.
    """

    def __init__(self, embed_dim, num_convs=1, kernel_size=3, stride=1, padding=1, pool_padding="authors",
                 initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        if pool_padding not in spec.POOL_PADDINGS:
            raise ValueError(f"pool_padding: expected one of {', '.join(spec.POOL_PADDINGS)}, found {pool_padding!r}")
        self.embed_dim = embed_dim
        self.num_convs = num_convs
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.pool_padding = pool_padding
        self.initializer = initializer
        self.seed = seed

    def build(self, input_shape):
        widths = [input_shape[-1], *spec.conv_widths(self.num_convs, self.embed_dim)]
        area = self.kernel_size**2
        for i in range(self.num_convs):
            name = f"conv_{i}_kernel"
            kernel = self.add_weight(
                name=name, shape=(self.kernel_size, self.kernel_size, widths[i], widths[i + 1]),
                initializer=keyed(self.initializer, "conv", (area * widths[i], area * widths[i + 1]), self.seed,
                                  f"{self.path}/{name}"))
            setattr(self, name, kernel)  # not in a list: tf.train.Checkpoint doesn't see into Keras' lists

    def call(self, images):
        x = images
        for i in range(self.num_convs):
            # ReLU after the pooling gives the same values with a quarter of the work. The gradients are the same too:
            # the two orders choose different elements only where none is positive, and there ReLU's gradient is 0.
            x = tf.nn.relu(self._pool(self._convolve(x, tf.convert_to_tensor(getattr(self, f"conv_{i}_kernel")))))
        return tf.reshape(x, [-1, x.shape[1] * x.shape[2], self.embed_dim])  # [B, h, w, D] -> [B, N, D]

    def compute_output_shape(self, input_shape):
        sides = []
        for side in input_shape[1:3]:
            for _ in range(self.num_convs):
                side = spec.conv_side(side, self.kernel_size, self.stride, self.padding)
                side = spec.pool_side(side, self.pool_padding)
            sides.append(side)
        return (input_shape[0], sides[0] * sides[1], self.embed_dim)

    def _convolve(self, x, kernel):
        if self.stride == 1 and 2 * self.padding + 1 == self.kernel_size:
            return tf.nn.conv2d(x, kernel, 1, "SAME")  # then the same zeros, without a copy of the images
        return tf.nn.conv2d(pad_sides(x, self.padding), kernel, self.stride, "VALID")

    def _pool(self, x):
        # Zeros, not the lowest number, although the padding must not become the maximum: the ReLU that follows makes
        # both the same. The lowest number would widen the range that an export to int8 divides into 256 levels.
        x = pad_sides(x, 1)
        if self.pool_padding == "authors":
            return max_pool(x)
        # "Same" padding by hand: 0 before and 1 after an even side, 1 on each side of an odd one.
        frame = [[side % 2, 1] for side in x.shape[1:3]]
        return max_pool(tf.pad(x, [[0, 0], *frame, [0, 0]]))

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim, "num_convs": self.num_convs,
                "kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding,
                "pool_padding": self.pool_padding, "initializer": self.initializer, "seed": self.seed}


@keras.saving.register_keras_serializable("cct_tf")
class PatchTokenizer(keras.layers.Layer):
    """A linear layer with bias on patches that don't overlap (arXiv:2010.11929 Eq. 1).

    Args:
        embed_dim: width of the tokens, D.
        patch_size: side P of a patch; image sides are multiples of it.
        initializer, seed: initial weights, see `cct_tf.layers.initializers`.

    Call: images [B, H, W, C] -> tokens [B, H/P * W/P, D], row by row.
    """

    def __init__(self, embed_dim, patch_size, initializer="authors", seed=0, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.initializer = initializer
        self.seed = seed

    def build(self, input_shape):
        P, C = self.patch_size, input_shape[-1]
        fans = (P * P * C, P * P * self.embed_dim)
        self.kernel = self.add_weight(
            name="kernel", shape=(P, P, C, self.embed_dim),
            initializer=keyed(self.initializer, "conv", fans, self.seed, f"{self.path}/kernel"))
        self.bias = self.add_weight(name="bias", shape=(self.embed_dim,), initializer="zeros")

    def call(self, images):
        x = tf.nn.conv2d(images, tf.convert_to_tensor(self.kernel), self.patch_size, "VALID")
        x = tf.nn.bias_add(x, tf.convert_to_tensor(self.bias))
        return tf.reshape(x, [-1, x.shape[1] * x.shape[2], self.embed_dim])  # [B, h, w, D] -> [B, N, D]

    def compute_output_shape(self, input_shape):
        P = self.patch_size
        return (input_shape[0], (input_shape[1] // P) * (input_shape[2] // P), self.embed_dim)

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim, "patch_size": self.patch_size,
                "initializer": self.initializer, "seed": self.seed}
