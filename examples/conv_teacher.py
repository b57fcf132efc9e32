"""A convolutional network that learns CIFAR-10 fast, as a teacher for small transformers.

    python -m cct_tf.train --flagfile=examples/cifar10_conv_teacher.cfg --data_dir=DIR

It follows the networks of arXiv:2404.00498 (airbench): a first convolution of 2 x 2 pixels that decorrelates what is
next to each other, three blocks that halve height and width early, a scaled head. Two things differ. The norms look at
one image and 8 channels at a time instead of at the batch, for in this trainer an image's logits depend on no other.
And the kernels are stored as matrices, [9 x channels, width], which Muon orthogonalises; Keras' Muon leaves kernels of
four dimensions to Adam. At widths of 64, 128 and 256 it has 1.16M parameters.

Legend: B images, H W height and width, C channels.
"""

import keras
import numpy as np
from keras import ops

WIDTHS = (64, 128, 256)

# The sum of 2 x 2 pixels, and their differences across, down and along the diagonal.
_PIXELS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).reshape(4, 2, 2) / 2
# Brightness, red against blue, green against both.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# Standard deviation of the twelve products in the normalised training images of CIFAR-10, pixels x colours.
_DEVIATIONS = np.array([[3.18, 0.86, 0.41], [0.59, 0.06, 0.04], [0.63, 0.08, 0.05], [0.24, 0.02, 0.01]])
_LEAST = 0.05  # smaller ones are noise of JPEG


def _whitening():
    """A kernel [2, 2, 3, 24]: patterns of about the same variance, each with both signs."""
    kernel = np.einsum("pij,qc,pq->ijcpq", _PIXELS, _COLOURS, 1 / np.hypot(_DEVIATIONS, _LEAST)).reshape(2, 2, 3, 12)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


class Whitening(keras.layers.Layer):
    """Images [B, H, W, 3] -> [B, H - 1, W - 1, 24]; its biases learn, its kernel is as it is."""

    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=(24,), initializer="zeros")

    def call(self, images):
        kernel = ops.convert_to_tensor(_whitening(), self.compute_dtype)
        return ops.gelu(ops.conv(images, kernel, padding="valid", data_format="channels_last") + self.bias)


class Conv(keras.layers.Layer):
    """A convolution of 3 x 3, [B, H, W, C] -> [B, H, W, width], whose kernel is a matrix."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(9 * input_shape[-1], self.width), initializer="he_normal")

    def call(self, x):
        kernel = ops.reshape(self.kernel, (3, 3, x.shape[-1], self.width))
        return ops.conv(x, kernel, padding="same", data_format="channels_last")


class Block(keras.layers.Layer):
    """Two convolutions, the first halves height and width: [B, H, W, C] -> [B, H // 2, W // 2, width]."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.convs = [Conv(width, name=f"conv_{index}") for index in range(2)]
        self.norms = [keras.layers.GroupNormalization(width // 8, name=f"norm_{index}") for index in range(2)]
        self.pool = keras.layers.MaxPooling2D(2, name="pool")

    def call(self, x):
        x = ops.gelu(self.norms[0](self.pool(self.convs[0](x))))
        return ops.gelu(self.norms[1](self.convs[1](x)))


class ConvTeacher(keras.Model):
    """Images [B, H, W, 3] -> logits [B, num_classes]."""

    def __init__(self, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.whitening = Whitening(name="whitening")
        self.blocks = [Block(width, name=f"block_{index}") for index, width in enumerate(WIDTHS)]
        self.head = keras.layers.Dense(num_classes, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(
            stddev=0.01), name="head")  # Muon leaves a layer of this name to AdamW

    def call(self, images, seeds=None, training=None):
        x = self.whitening(images)
        for block in self.blocks:
            x = block(x)
        return self.head(ops.max(x, axis=(1, 2)))

    def get_config(self):  # for .keras files
        return {"num_classes": self.num_classes, "name": self.name}


def build(num_classes):
    """The network of a run."""
    return ConvTeacher(num_classes)
