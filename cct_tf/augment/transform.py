"""From decoded images to what the network sees, for training and for evaluation.

    fit       [B, H, W, 3] -> [B, S, S, 3]   random resized crop, or the evaluation transform
    augment   [B, S, S, 3] -> [B, S, S, 3]   what is random at the network's size
    finish    uint8 -> float32               normalisation
    erase     float32 -> float32             random erasing, which comes after mixing

`fit` takes images of any one size (a batch of one, where sizes are mixed); everything random is keyed by the example
seeds, so an example's pixels do not depend on the rest of the batch.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from cct_tf.augment import geometric, image_ops, policies, policy_ops, rand_augment, slots
from cct_tf.augment.erasing import RandomErasing


@functools.lru_cache(maxsize=64)  # an eager call would compile anew each time
def _program(function, first):
    return tf.function(functools.partial(function, *first), jit_compile=True, autograph=False)


def compiled(function, images, *first):
    """`function`, compiled if the shape of the images it gets is known.

    `first` are its first arguments, hashable. Calls with equal ones share a program; those of a bound method would not.

    XLA takes 0.6 us for the flip of an image of 32 x 32 where the operations one by one take 10, 1.5 and 7 for the
    crop, 7 and 20 for the resized crop, and the pixels are the same.
    """
    if not tf.TensorShape(images.shape).is_fully_defined():  # an array has a shape of its own
        return functools.partial(function, *first)
    return _program(function, first)


def _apply(op, images, params):
    return compiled(type(op).apply, images, op)(images, params)


def _erased(erasing, images, chosen, params):
    """`erasing.apply` to the images that are `chosen`, bool [B]."""
    names = sorted(params)

    def fill(images, *values):
        return erasing.apply(images, dict(zip(names, values, strict=True)))

    return slots.apply_where(fill, images, chosen, *(params[name] for name in names))


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
        flip: "random", "alternating" or "none".
        policy: `auto_augment.AutoAugment`, `rand_augment.RandAugment` ..., or None.
        erasing: `erasing.RandomErasing`, or None.
        resize_block: int, held images of the data set that are resized in one call, whatever memory it takes: the last
            bits of the products depend on their number, so runs of version 0 keep theirs. None bounds the memory.
    """

    size: int
    mean: tuple
    std: tuple
    crop_pct: float = 1.0
    crop_padding: int = 0
    resized_crop: tuple | None = None
    crop_ratio: tuple = (3 / 4, 4 / 3)
    flip: str = "none"
    policy: object = None
    erasing: RandomErasing | None = None
    resize_block: int | None = None

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
        height, width = images.shape[1:3]
        if height is None or width is None:
            height, width = tf.shape(images)[1], tf.shape(images)[2]
        return self.apply_fit(images, self.sample_fit(seeds, height, width))

    def sample_fit(self, seeds, height, width):
        """What is random in `fit` for images of one size: dict of tensors [B, ...], or None; arguments as there."""
        if seeds is None or self.resized_crop is None:
            return None
        return self._resized_crop.sample(seeds, height, width)

    def apply_fit(self, images, params):
        """`fit` with what `sample_fit` gave: uint8 [B, H, W, 3] -> uint8 [B, S, S, 3]."""
        if params is None:
            return image_ops.center_fit(images, self.size, self.crop_pct)
        return _apply(self._resized_crop, images, params)

    @property
    def _resized_crop(self):
        return geometric.RandomResizedCrop(self.size, self.resized_crop, self.crop_ratio)

    def augment(self, images, seeds, keys=None, epochs=None):
        """What is random at the network's size.

        A policy comes before padding crop and flip, as in the authors' AutoAugment runs, but after random resized crop
        and flip, as in timm.

        Args:
            images: uint8 [B, S, S, 3].
            seeds: uint32 [B], example seeds.
            keys: uint32 [B], of the images themselves; epochs: int64 [B]. For the alternating flip.

        Returns:
            uint8 [B, S, S, 3].
        """
        if self.resized_crop is not None:
            return self._by_policy(self._flipped(images, seeds, keys, epochs), seeds)
        images = self._by_policy(images, seeds)
        if self.crop_padding:
            crop = geometric.RandomCrop(self.crop_padding)
            images = _apply(crop, images, crop.sample(seeds))
        return self._flipped(images, seeds, keys, epochs)

    def _by_policy(self, images, seeds):
        if self.policy is not None:
            for stage in self.policy.sample(seeds, self.size):
                images = policy_ops.apply(images, stage, self.policy.fill)
        return images

    def _flipped(self, images, seeds, keys, epochs):
        if self.flip == "random":
            flip = geometric.RandomFlip()
            return _apply(flip, images, flip.sample(seeds))
        if self.flip == "alternating":
            flip = geometric.AlternatingFlip()
            return _apply(flip, images, flip.sample(keys, epochs))
        return images

    def erase(self, images, seeds):
        """Random erasing of normalised images: float32 [B, S, S, 3], uint32 [B] -> float32 [B, S, S, 3]."""
        if self.erasing is None:
            return images
        params = self.erasing.sample(seeds, self.size, self.size)
        box = params["box"]
        chosen = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        return compiled(_erased, images, self.erasing)(images, chosen, params)

    def finish(self, images):
        """uint8 [B, S, S, 3] -> float32, normalised."""
        return compiled(image_ops.normalize, images)(images, self.mean, self.std)

    def unfinish(self, images):
        """The inverse of `finish`, for pictures: float32 [B, S, S, 3] -> float32 in [0, 1]."""
        return np.clip(np.asarray(images) * np.asarray(self.std) + np.asarray(self.mean), 0.0, 1.0)


def from_config(augment, size, mean, std):
    """Transform from `config.AugmentConfig`, the network's input side and the resolved channel statistics."""
    policy = rand_augment.make_policy(policies.resolve(augment.auto_augment), mean)
    erasing = RandomErasing(augment.erase_probability, augment.erase_mode) if augment.erase_probability else None
    return Transform(size, tuple(mean), tuple(std), augment.crop_pct, augment.crop_padding,
                     augment.random_resized_crop, augment.crop_ratio, augment.flip, policy, erasing)
