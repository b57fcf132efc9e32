"""The augmentation of a run, as one value: what becomes the lists of stages that prepare its images.

From Python it also prepares images by itself, eagerly or in a graph:

    resize    [B, H, W, C] -> [B, S, S, C]   random resized crop, or the evaluation's way
    augment   [B, S, S, C] -> [B, S, S, C]   what is random at the network's size
    finish    uint8, uint16 -> float32       normalisation
    erase     float32 -> float32             random erasing, which comes after mixing

`resize` takes images of any one size (a batch of one, where sizes are mixed); everything random is keyed by the example
seeds, so an example's pixels do not depend on the rest of the batch.

Legend: B batch, H W height and width of an image, S S those of the network's input, which need not be equal, C
channels.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from cct_tf.augment import geometric, stages
from cct_tf.augment.erasing import RandomErasing
from cct_tf.augment.jitter import ColorJitter, make_jitter
from cct_tf.images.pixel_type import RGB, PixelType
from cct_tf.policies import notation, rand_augment

_SEEN_DEVIATIONS = 2.5  # from the mean to black and to white in pictures of 16 bits


@dataclasses.dataclass(frozen=True)
class Transform:
    """Preparation of images.

    Attributes:
        size: of the network's input, see `cct_tf.sizes`.
        mean, std: tuples of one or C floats, of levels as shares of the highest.
        crop_pct: float, see `image_ops.center_fit`.
        crop_padding: int, 0 = off; not used with `resized_crop`.
        resized_crop: (minimum, maximum) area, or None.
        crop_ratio: (minimum, maximum) width / height.
        flip: "random", "alternating" or "none".
        policy: `auto_augment.AutoAugment`, `rand_augment.RandAugment` ..., or None.
        policy_name: str, what --auto_augment calls it.
        policy_until_epoch: int, see `stages.Policy`.
        erasing: `erasing.RandomErasing`, or None.
        resize_block: int or None, see `stages.Resize`.
        resampler: "matrix" or "pillow", see `stages.Resize`.
        fast_decoding, fast_resizing, width_first: bools, see `fast`, `simd`, `width_first` of `stages.ResizedCrop`.
        multilabel: bool, see `stages.Labels`.
        own: tuple of `stages.Stage` besides: those of batches on the host come before the labels, others last.
        vertical_flip: bool.
        pixel_type: `pixel_type.PixelType` of the images.
        jitter: `jitter.ColorJitter`, or None.
        fit: "crop", "pad" or "stretch", how whole images come to the network's size, see `image_ops.fit`.
    """

    size: int | tuple
    mean: tuple
    std: tuple
    crop_pct: float = 1.0
    crop_padding: int = 0
    resized_crop: tuple | None = None
    crop_ratio: tuple = (3 / 4, 4 / 3)
    flip: str = "none"
    policy: object = None
    policy_name: str = ""
    erasing: RandomErasing | None = None
    resize_block: int | None = None
    resampler: str = "matrix"
    fast_decoding: bool = False
    fast_resizing: bool = False
    width_first: bool = False
    multilabel: bool = False
    own: tuple = ()
    fit: str = "crop"
    vertical_flip: bool = False
    jitter: ColorJitter | None = None
    pixel_type: PixelType = RGB
    policy_until_epoch: int = 0

    # Lists of stages.

    def training_stages(self, num_classes, *, label_smoothing=0.0, mixing=None, seed=0):
        """The way of a training image.

        A policy comes before padding crop and flip, as in the authors' AutoAugment runs, but after random resized crop
        and flip, as in timm. Colour jitter follows the policy.

        Args:
            num_classes: int K.
            label_smoothing: float, see `stages.Labels`.
            mixing: `stages.Mixing`, or None.
            seed: int, the run's seed.

        Returns:
            tuple of `stages.Stage`.
        """
        policy = () if self.policy is None else (
            stages.Policy(self.policy, self.policy_name, self.policy_until_epoch),)
        policy += () if self.jitter is None else (stages.Jitter(self.jitter),)
        flip = self._flip(seed)
        if self.resized_crop is not None:
            crop = geometric.RandomResizedCrop(self.size, self.resized_crop, self.crop_ratio)
            resize = stages.ResizedCrop(crop, self.resize_block, self.resampler, self.fast_decoding, self.fast_resizing,
                                        self.width_first)
            images = (resize, *flip, *policy)
        else:
            crop = (stages.PaddedCrop(geometric.RandomCrop(self.crop_padding)),) if self.crop_padding else ()
            images = (self._resize, *policy, *crop, *flip)
        mixing = () if mixing is None else (mixing,)
        erase = () if self.erasing is None else (stages.Erase(self.erasing),)
        labels = stages.Labels(num_classes, label_smoothing, self.multilabel)
        own = {place: stages.of_place(self.own, place) for place in (stages.BATCH, stages.DEVICE)}
        return (*images, *own[stages.BATCH], labels, *mixing, self._normalize, *erase, *own[stages.DEVICE])

    def evaluation_stages(self, num_classes):
        """The way of an image in evaluation: tuple of `stages.Stage`, none of which is random."""
        return self._resize, stages.Labels(num_classes, multilabel=self.multilabel), self._normalize

    @property
    def _resize(self):
        fill = rand_augment.mean_levels(self.mean, self.pixel_type) if self.fit == "pad" else ()
        return stages.Resize(self.size, self.crop_pct, self.resize_block, self.resampler, self.fit, fill)

    @property
    def _normalize(self):
        return stages.Normalize(self.mean, self.std)

    def _flip(self, seed):
        ops = {"random": geometric.RandomFlip(), "alternating": geometric.AlternatingFlip()}
        flips = () if self.flip == "none" else (stages.Flip(ops[self.flip], seed),)
        return flips + ((stages.VerticalFlip(geometric.RandomFlip(axis=1)),) if self.vertical_flip else ())

    # By itself.

    def resize(self, images, seeds=None):
        """Bring images to the network's size.

        Args:
            images: uint8 or uint16 [B, H, W, C].
            seeds: uint32 [B] example seeds in training, None in evaluation.

        Returns:
            The same [B, S, S, C].
        """
        stage = self._resize if seeds is None else stages.resize_stage(self.training_stages(1))
        return _run((stage,), images, seeds)

    def augment(self, images, seeds, *, seed=0, **columns):
        """What is random at the network's size.

        Args:
            images: uint8 or uint16 [B, S, S, C].
            seeds: uint32 [B], example seeds.
            seed: int, the run's seed; columns: "index" int64 [B], of the images, and "epoch" int64 [B], from 0. Both
                are for the alternating flip, "epoch" for a policy with `policy_until_epoch` too.

        Returns:
            The same.
        """
        chosen = [stage for stage in stages.of_place(self.training_stages(1, seed=seed), stages.BATCH)
                  if not isinstance(stage, stages.Labels)]
        return _run(chosen, images, seeds, **columns)

    def finish(self, images):
        """uint8 or uint16 [B, S, S, C] -> float32, normalised."""
        return _run((self._normalize,), images)

    def erase(self, images, seeds):
        """Random erasing of normalised images: float32 [B, S, S, C], uint32 [B] -> the same."""
        return images if self.erasing is None else _run((stages.Erase(self.erasing),), images, seeds)

    def unfinish(self, images):
        """Normalised images for pictures: float32 [B, S, S, C] -> float in [0, 1], as of `shown`."""
        return self._seen(np.asarray(images) * np.asarray(self.std) + np.asarray(self.mean))

    def shown(self, images):
        """Images as a person sees them, the same in colour or grey of 8 bits.

        Of two or of more than three channels the first three are red, green and blue. Levels of 16 bits, which often
        fill a small part of their range, are shown 2.5 standard deviations around their mean.

        Args:
            images: uint8 or uint16 [..., C].

        Returns:
            uint8 [..., 3], or [..., 1] of one channel.
        """
        images = np.asarray(images)
        if self.pixel_type.bits == 8 and self.pixel_type.is_colour_or_grey:
            return images
        return np.rint(255.0 * self._seen(images / self.pixel_type.white)).astype(np.uint8)

    def _seen(self, shares):
        """Levels as shares of the highest, float [..., C] -> float in [0, 1], [..., 3] or [..., 1]."""
        if self.pixel_type.bits == 16:
            shares = 0.5 + (shares - np.asarray(self.mean)) / (2 * _SEEN_DEVIATIONS * np.asarray(self.std))
        if shares.shape[-1] == 2:
            shares = np.concatenate([shares, np.zeros_like(shares[..., :1])], axis=-1)
        return np.clip(shares[..., :3], 0.0, 1.0)


def _run(chosen, images, seeds=None, **columns):
    """Images after some stages, which sample here too."""
    batch = {"image": images, "seed": seeds} | columns
    for stage in chosen:
        batch = stage.apply(batch, stage.sample(batch, _shape(batch["image"])))
    return batch["image"]


def _shape(images):
    """(height, width) of images [B, H, W, C]: ints, or scalars where the graph does not know them."""
    height, width = images.shape[1:3]
    return (height, width) if None not in (height, width) else tuple(tf.unstack(tf.shape(images)[1:3]))


def from_config(augment, size, mean, std, pixel_type=RGB):
    """Transform from `config.AugmentConfig`, the network's input size, the resolved channel statistics, a PixelType."""
    policy = rand_augment.make_policy(notation.resolve(augment.auto_augment), mean, pixel_type)
    erasing = RandomErasing(augment.erase_probability, augment.erase_mode) if augment.erase_probability else None
    return Transform(size, tuple(mean), tuple(std), augment.crop_pct, augment.crop_padding,
                     augment.random_resized_crop, augment.crop_ratio, augment.flip, policy, augment.auto_augment,
                     erasing, fit=augment.fit, vertical_flip=augment.vertical_flip,
                     jitter=make_jitter(augment.color_jitter), pixel_type=pixel_type,
                     policy_until_epoch=augment.auto_augment_off_epoch)
