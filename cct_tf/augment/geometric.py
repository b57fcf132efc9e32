"""Random crop, random resized crop, horizontal flips. Each op samples from the example seeds, then applies.

    params = op.sample(seeds)
    images = op.apply(images, params)

Legend: B batch, H W height and width, h w those of the network's input, C channels.
"""

import dataclasses
import math

import tensorflow as tf

from cct_tf import rng, sites
from cct_tf.augment import image_ops


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Pad with zeros on all sides, then cut out a window of the image's own size.

    Attributes:
        padding: int, pixels.
    """

    padding: int

    def sample(self, seeds):
        """uint32 [B] -> int32 [B, 2], the window's offset (y, x) in [0, 2 padding]."""
        return rng.uniform_int(rng.bits(seeds, sites.RANDOM_CROP, (2,)), 2 * self.padding + 1)

    def apply(self, images, offsets):
        """uint8 [B, H, W, C], int32 [B, 2] -> uint8 [B, H, W, C]."""
        height, width = images.shape[1:3]
        pad = [self.padding, self.padding]
        padded = tf.pad(images, [[0, 0], pad, pad, [0, 0]])
        rows = offsets[:, :1] + tf.range(height)  # [B, H]
        columns = offsets[:, 1:] + tf.range(width)  # [B, W]
        cut = tf.gather(padded, rows, axis=1, batch_dims=1)
        return tf.gather(cut, columns, axis=2, batch_dims=1)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right, or with axis 1 top and bottom, with probability one half."""

    axis: int = 2

    def sample(self, seeds):
        """uint32 [B] -> bool [B]."""
        site = sites.RANDOM_FLIP if self.axis == 2 else sites.RANDOM_VERTICAL_FLIP
        return rng.draw(seeds, site) >= rng.threshold(0.5)

    def apply(self, images, flipped):
        """uint8 [B, H, W, C], bool [B] -> uint8 [B, H, W, C]."""
        return tf.where(flipped[:, None, None, None], tf.reverse(images, axis=[self.axis]), images)


@dataclasses.dataclass(frozen=True)
class AlternatingFlip:
    """Mirror an image in every second epoch, beginning with the first or the second at random (arXiv:2404.00498)."""

    axis = 2

    def sample(self, keys, epochs):
        """Which draws are mirrored.

        Args:
            keys: uint32 [B], of the images: `rng.fold(seed, Stream.IMAGE, index)`.
            epochs: int64 [B], the epoch of each draw, from 0.

        Returns:
            bool [B].
        """
        in_even_epochs = rng.draw(keys, sites.RANDOM_FLIP) >= rng.threshold(0.5)
        return in_even_epochs ^ (epochs % 2 == 1)

    apply = RandomFlip.apply


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random box of the image, resized with antialias (torchvision's and timm's RandomResizedCrop).

    The area is uniform, the aspect ratio log-uniform; the first of ten draws that fits the image is taken, else the
    largest centred box with an allowed ratio. Bilinear or bicubic at random, as in timm's `interpolation="random"`.

    Attributes:
        size: the network's, see `cct_tf.sizes`.
        area: (minimum, maximum) share of the image's area.
        ratio: (minimum, maximum) of width / height.
    """

    size: int | tuple
    area: tuple
    ratio: tuple
    tries: int = 10

    def sample(self, seeds, height, width):
        """Boxes for images of one size.

        Args:
            seeds: uint32 [B].
            height, width: int or int32 scalar.

        Returns:
            dict: "box" float32 [B, 4] (top, left, height, width; whole numbers), "bicubic" bool [B].
        """
        numbers = rng.uniform(rng.bits(seeds, sites.RANDOM_RESIZED_CROP, (self.tries, 4)))  # [B, tries, 4]
        image_height, image_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        area = image_height * image_width * (self.area[0] + numbers[..., 0] * (self.area[1] - self.area[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = tf.exp(low + numbers[..., 1] * (high - low))
        heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
        fits = (heights <= image_height) & (widths <= image_width) & (heights > 0) & (widths > 0)
        tops = tf.floor(numbers[..., 2] * (image_height - heights + 1.0))
        lefts = tf.floor(numbers[..., 3] * (image_width - widths + 1.0))
        boxes = tf.stack([tops, lefts, heights, widths], axis=-1)  # [B, tries, 4]
        first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
        chosen = tf.gather(boxes, first, axis=1, batch_dims=1)  # [B, 4]
        box = tf.where(tf.reduce_any(fits, axis=1)[:, None], chosen, self._fallback(image_height, image_width))
        bicubic = rng.draw(seeds, sites.RANDOM_INTERPOLATION) >= rng.threshold(0.5)
        return {"box": box, "bicubic": bicubic}

    def _fallback(self, height, width):
        """The largest centred box whose ratio is allowed, float32 [4]."""
        ratio = tf.clip_by_value(width / height, self.ratio[0], self.ratio[1])
        box_width = tf.minimum(width, tf.round(height * ratio))
        box_height = tf.minimum(height, tf.round(width / ratio))
        return tf.stack([tf.floor((height - box_height) / 2.0), tf.floor((width - box_width) / 2.0),
                         box_height, box_width])

    def apply(self, images, params):
        """uint8 [B, H, W, C] and what `sample` gave -> uint8 [B, h, w, C]."""
        start, length = params["box"][:, :2], params["box"][:, 2:]
        return image_ops.resample(images, start, length, start, start + length, self.size, params["bicubic"])
