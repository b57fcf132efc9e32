"""A small convolutional network: residual blocks with group normalisation, and masks that belong to the images.

    python -m cct_tf.train --flagfile=configs/quickstart.cfg --model=examples/convnet.py:build --workdir=runs/convnet

With 3 x 3 convolutions of 32, 64 and 128 channels it has 0.30M parameters. It asks for --image_size; the quickstart
names one.
"""

import keras

from cct_tf.layers.drop import Dropout, DropPath

WIDTHS = (32, 64, 128)


class Residual(keras.layers.Layer):
    """Two convolutions beside a shortcut; every stage but the first halves height and width.

    Args:
        width: channels of the output, a multiple of 8.
        stride: 1, or 2 to halve.
        drop_path_rate: share of the images whose convolutions are left out in training.
        site: number of its mask, another one for each layer.
    """

    def __init__(self, width, stride, drop_path_rate, site, **kwargs):
        super().__init__(**kwargs)
        self.conv_0 = keras.layers.Conv2D(width, 3, stride, "same", use_bias=False, name="conv_0")
        self.norm_0 = keras.layers.GroupNormalization(8, name="norm_0")
        self.conv_1 = keras.layers.Conv2D(width, 3, 1, "same", use_bias=False, name="conv_1")
        self.norm_1 = keras.layers.GroupNormalization(8, name="norm_1")
        self.shortcut = keras.layers.Conv2D(width, 1, stride, use_bias=False, name="shortcut")
        self.drop_path = DropPath(drop_path_rate, site, name="drop_path")

    def call(self, x, seeds=None, training=None):
        y = keras.ops.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        return keras.ops.relu(self.shortcut(x) + self.drop_path(y, seeds=seeds, training=training))


class ConvNet(keras.Model):
    """Images [B, H, W, C] -> logits [B, num_classes]."""

    def __init__(self, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.stages = [Residual(width, 1 if index == 0 else 2, 0.05 * index, site=1 + index, name=f"stage_{index}")
                       for index, width in enumerate(WIDTHS)]
        self.dropout = Dropout(0.1, site=1 + len(WIDTHS), name="dropout")
        self.head = keras.layers.Dense(num_classes, name="head")  # Muon leaves a layer of this name to AdamW

    def call(self, images, seeds=None, training=None):
        x = images
        for stage in self.stages:
            x = stage(x, seeds=seeds, training=training)
        x = keras.ops.mean(x, axis=(1, 2))
        return self.head(self.dropout(x, seeds=seeds, training=training))

    def get_config(self):  # for .keras files
        return {"num_classes": self.num_classes, "name": self.name}


def build(num_classes):
    """The network of a run."""
    return ConvNet(num_classes)
