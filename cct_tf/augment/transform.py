"""From decoded images to what the network sees, for training and for evaluation.

    fit       [B, H, W, 3] -> [B, S, S, 3]   random resized crop, or the evaluation transform
    augment   [B, S, S, 3] -> [B, S, S, 3]   what is random at the network's size
    finish    uint8 -> float32               normalisation

`fit` takes images of any one size (a batch of one, where sizes are mixed); everything random is keyed by the example
seeds, so an example's pixels do not depend on the rest of the batch.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from cct_tf.augment import geometric, image_ops


@dataclasses.dataclass(frozen=True)
class Transform:
    """Preparation of images.

    Attributes:
        size: int S, side of the network's input.
        mean, std: tuples of one or three floats, of pixels in [0, 1].
        crop_pct: float, see `image_ops.center_fit`.
        crop_padding: int, 0 = off.
        resized_crop: (minimum, maximum) area, or None.
        crop_ratio: (minimum, maximum) width / height.
        flip: "random" or "none".
    """

    size: int
    mean: tuple
    std: tuple
    crop_pct: float = 1.0
    crop_padding: int = 0
    resized_crop: tuple | None = None
    crop_ratio: tuple = (3 / 4, 4 / 3)
    flip: str = "none"

    @property
    def fits_once(self):
        """Whether the training images can be brought to size S once for all: no random resized crop."""
        return self.resized_crop is None

    def fit(self, images, seeds=None):
        """Bring images to the network's size.

        Args:
            images: uint8 [B, H, W, 3].
            seeds: uint32 [B] example seeds in training, None in evaluation.

        Returns:
            uint8 [B, S, S, 3].
        """
        if seeds is None or self.resized_crop is None:
            return image_ops.center_fit(images, self.size, self.crop_pct)
        crop = geometric.RandomResizedCrop(self.size, self.resized_crop, self.crop_ratio)
        height, width = images.shape[1:3]
        if height is None or width is None:
            height, width = tf.shape(images)[1], tf.shape(images)[2]
        return crop.apply(images, crop.sample(seeds, height, width))

    def augment(self, images, seeds):
        """Random crop and flip of images that have the network's size: uint8 [B, S, S, 3], uint32 [B] -> uint8."""
        ops = []
        if self.crop_padding:
            ops.append(geometric.RandomCrop(self.crop_padding))
        if self.flip == "random":
            ops.append(geometric.RandomFlip())
        for op in ops:
            images = op.apply(images, op.sample(seeds))
        return images

    def finish(self, images):
        """uint8 [B, S, S, 3] -> float32, normalised."""
        return image_ops.normalize(images, self.mean, self.std)

    def unfinish(self, images):
        """The inverse of `finish`, for pictures: float32 [B, S, S, 3] -> float32 in [0, 1]."""
        return np.clip(np.asarray(images) * np.asarray(self.std) + np.asarray(self.mean), 0.0, 1.0)


def from_config(augment, size, mean, std):
    """Transform from `config.AugmentConfig`, the network's input side and the resolved channel statistics."""
    return Transform(size, tuple(mean), tuple(std), augment.crop_pct, augment.crop_padding,
                     augment.random_resized_crop, augment.crop_ratio, augment.flip)
