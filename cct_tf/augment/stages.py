"""The way of an image from the reader to the network, as an ordered list of stages.

    per image on the host    resize, or random resized crop      uint8 [B, H, W, C] -> uint8 [B, S, S, C]
    per batch on the host    policy, crop, flip, labels, mix     uint8 [B, S, S, C]
    on the device            normalize, erase                    uint8 [B, S, S, C] -> float32 [B, S, S, C]

`Transform.training_stages` and `evaluation_stages` build the list. `data.pipeline` runs what belongs to the host; the
training step and the evaluation begin with the rest (`on_device`). So the host ships uint8, a quarter of the bytes.
Images of 16 bits are uint16 until they are normalised.

A stage is a frozen dataclass. It maps a batch, a dict, to a batch:

    params = stage.sample(batch, (height, width))      on the host: all that is random, keyed by the example seeds
    batch = stage.apply(batch, params)                 where the stage runs

Only the host samples: the exp and sqrt of another device could choose another box. What is sampled for the device
travels in the batch as "STAGE/PARAMETER".

A batch holds, as far as the stages have come: "image"; "index", "epoch", "position" int64 [B] and "seed" uint32 [B] of
its examples (see `data.pipeline`); "class" int32 [B], or uint8 [B, K] of 0 and 1 where an image may have several,
then "label" float32 [B, K].

Legend: B batch, H W height and width of an image, S S those of the network's input, which need not be equal, C
channels, K classes.
"""

import dataclasses
import functools

import tensorflow as tf

from cct_tf import rng
from cct_tf.augment import geometric, image_ops, pillow_resize, simd_resize
from cct_tf.augment.erasing import RandomErasing
from cct_tf.augment.jitter import ColorJitter
from cct_tf.augment.mix import Mix
from cct_tf.policies import operations

IMAGE, BATCH, DEVICE = "per image on the host", "per batch on the host", "on the device"


@functools.lru_cache(maxsize=64)  # an eager call would compile anew each time
def _program(function, first):
    return tf.function(functools.partial(function, *first), jit_compile=True, autograph=False)


def compiled(function, images, *first):
    """`function`, compiled if the shape of the images it gets is known.

    `first` are its first arguments, hashable; calls with equal ones share a program. So pass a plain function and its
    object, not a bound method, which is another function at each call.

    XLA takes 0.6 us for the flip of an image of 32 x 32 where the operations one by one take 10, 1.5 and 7 for the
    crop, 7 and 20 for the resized crop, and the pixels are the same.
    """
    if not tf.TensorShape(images.shape).is_fully_defined():  # an array has a shape of its own
        return functools.partial(function, *first)
    return _program(function, first)


def _apply_op(op, images, params):
    return compiled(type(op).apply, images, op)(images, params)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage; see the module's docstring."""

    name = None  # what benchmark and messages call it
    where = BATCH

    def describe(self):
        """Words for the plan; None if there is nothing to say."""
        return self.name

    def sample(self, batch, shape):
        """What is random.

        Args:
            batch: dict of tensors; "image" may be missing.
            shape: (height, width) of the images to come, ints or int32 scalars.

        Returns:
            dict of tensors, with a leading dimension B where the stage runs per image or on the device.
        """
        del batch, shape
        return {}

    def apply(self, batch, params):
        """The batch after the stage, a new dict. `params` is what `sample` gave."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Resize(Stage):
    """Bring whole images to the network's size, the same way each time: `image_ops.fit`.

    Attributes:
        size: the network's, see `cct_tf.sizes`.
        crop_pct, way, fill: see `image_ops.fit`.
        block: int, held images that are resized in one call, whatever memory it takes: the last bits of the products
            depend on their number, so runs of version 0 keep theirs. None bounds the memory.
        resampler: "matrix" or "pillow", by `image_ops` or `pillow_resize`.
    """

    size: int | tuple
    crop_pct: float = 1.0
    block: int | None = None
    resampler: str = "matrix"
    way: str = "crop"
    fill: tuple = ()

    name = "resize"
    where = IMAGE
    is_random = takes_a_part = False

    def describe(self):
        return None

    def apply(self, batch, params):
        ops = pillow_resize if self.resampler == "pillow" else image_ops
        return batch | {"image": ops.fit(batch["image"], self.size, self.way, self.crop_pct, self.fill)}


@dataclasses.dataclass(frozen=True)
class ResizedCrop(Stage):
    """Random resized crop.

    Attributes:
        op: `geometric.RandomResizedCrop`.
        block, resampler: as of `Resize`.
        fast: whether JPEGs may be decoded at a part of their size, see `images.parts`.
        simd: whether `simd_resize` takes Pillow's place.
        width_first: see `simd_resize.resized`.
    """

    op: geometric.RandomResizedCrop
    block: int | None = None
    resampler: str = "matrix"
    fast: bool = False
    simd: bool = False
    width_first: bool = False

    name = "crop"
    where = IMAGE
    is_random = True

    @property
    def size(self):
        return self.op.size

    @property
    def takes_a_part(self):
        """Whether what is not in the box may be missing when the stage is applied."""
        return self.resampler == "pillow" or self.fast

    def describe(self):
        fast = {"decoding": self.fast, "resizing": self.simd and self.resampler == "pillow"}
        return ", ".join(["random resized crop {:g}-{:g}".format(*self.op.area),
                          *(f"fast {name}" for name, is_on in fast.items() if is_on)])

    def sample(self, batch, shape):
        return self.op.sample(batch["seed"], *shape)

    def apply(self, batch, params):
        images = batch["image"]
        if self.resampler == "pillow":
            simd = functools.partial(simd_resize.resized, width_first=self.width_first)
            resize = simd if self.simd else pillow_resize.resized
            images = pillow_resize.crop(images, params["box"], params["bicubic"], self.size, resize)
        else:
            images = _apply_op(self.op, images, params)
        return batch | {"image": images}


@dataclasses.dataclass(frozen=True)
class PaddedCrop(Stage):
    """Random crop after padding; `op`: `geometric.RandomCrop`."""

    op: geometric.RandomCrop

    name = "crop"

    def describe(self):
        return f"crop after padding by {self.op.padding}"

    def sample(self, batch, shape):
        return {"offsets": self.op.sample(batch["seed"])}

    def apply(self, batch, params):
        return batch | {"image": _apply_op(self.op, batch["image"], params["offsets"])}


@dataclasses.dataclass(frozen=True)
class Flip(Stage):
    """Mirror left and right at random, or in every second epoch.

    Attributes:
        op: `geometric.RandomFlip` or `geometric.AlternatingFlip`.
        seed: int, the run's seed: the alternating flip belongs to the image, not to its draw.
    """

    op: object
    seed: int = 0

    name = "flip"

    @property
    def _alternates(self):
        return isinstance(self.op, geometric.AlternatingFlip)

    def describe(self):
        return f"{'alternating' if self._alternates else 'random'} flip"

    def sample(self, batch, shape):
        if self._alternates:
            keys = rng.fold(self.seed, rng.Stream.IMAGE, batch["index"])
            return {"flipped": self.op.sample(keys, batch["epoch"])}
        return {"flipped": self.op.sample(batch["seed"])}

    def apply(self, batch, params):
        return batch | {"image": _apply_op(self.op, batch["image"], params["flipped"])}


@dataclasses.dataclass(frozen=True)
class VerticalFlip(Flip):
    """Mirror top and bottom at random; `op`: `geometric.RandomFlip`, axis 1."""

    name = "vertical flip"

    def describe(self):
        return "vertical flip"


@dataclasses.dataclass(frozen=True)
class Jitter(Stage):
    """Colour jitter; `op`: `jitter.ColorJitter`."""

    op: ColorJitter

    name = "jitter"

    def describe(self):
        return self.op.describe()

    def sample(self, batch, shape):
        return {"steps": self.op.sample(batch["seed"])}

    def apply(self, batch, params):
        images = batch["image"]
        for step in params["steps"]:
            images = self.op.apply(images, step)
        return batch | {"image": images}


@dataclasses.dataclass(frozen=True)
class Policy(Stage):
    """An augmentation policy.

    Attributes:
        policy: `auto_augment.AutoAugment`, `rand_augment.RandAugment` ...
        title: str, what --auto_augment calls it.
        until_epoch: int, the first epoch whose images are left as they are; 0: the policy never ends.
    """

    policy: object
    title: str = ""
    until_epoch: int = 0

    name = "policy"

    def describe(self):
        return f"policy {self.title}" + (f" before epoch {self.until_epoch}" if self.until_epoch else "")

    def sample(self, batch, shape):
        return {"operations": self.policy.sample(batch["seed"], shape)}

    def apply(self, batch, params):
        policy, images = self.policy, batch["image"]

        def augment():
            return operations.apply_all(images, params["operations"], policy.fill, policy.geometry_alone)

        if not self.until_epoch:
            return batch | {"image": augment()}
        applies = batch["epoch"] < self.until_epoch  # a batch may hold images of two epochs
        augmented = tf.cond(tf.reduce_any(applies), augment, lambda: images)
        return batch | {"image": tf.where(applies[:, None, None, None], augmented, images)}


@dataclasses.dataclass(frozen=True)
class Labels(Stage):
    """From classes to smoothed labels.

    Attributes:
        num_classes: int K.
        smoothing: float e, share of the label spread over the outcomes (arXiv:1512.00567 section 7): the K classes, or
            yes and no of each: y (1 - e) + e / 2, as in keras.losses.BinaryCrossentropy.
        multilabel: whether an image may have several classes.
    """

    num_classes: int
    smoothing: float = 0.0
    multilabel: bool = False

    name = "labels"

    def describe(self):
        return None

    @property
    def outcomes(self):
        """What the smoothed share is spread over, int."""
        return 2 if self.multilabel else self.num_classes

    def apply(self, batch, params):
        batch = dict(batch)
        classes = batch.pop("class")
        labels = tf.cast(classes, tf.float32) if self.multilabel else tf.one_hot(classes, self.num_classes)
        return batch | {"label": labels * (1.0 - self.smoothing) + self.smoothing / self.outcomes}


@dataclasses.dataclass(frozen=True)
class Mixing(Stage):
    """Mixup and cutmix of neighbours.

    Attributes:
        op: `mix.Mix`.
        seed: int, the run's seed.
        batch_size: int, the global batch, of which a worker may hold a part.
        until_step: int, the first step that is not mixed; 0 = all are.
        until_epoch: int, its epoch, for the plan.
    """

    op: Mix
    seed: int
    batch_size: int
    until_step: int = 0
    until_epoch: int = 0

    name = "mix"

    def describe(self):
        return self.op.describe() + (f" before epoch {self.until_epoch}" if self.until_epoch else "")

    def sample(self, batch, shape):
        step = batch["position"][0] // self.batch_size
        return self.op.sample(self.seed, step, *shape) | {"step": step}

    def apply(self, batch, params):
        params = dict(params)
        weight = [batch["weight"][:, None]] if "weight" in batch else []  # mixed as one more column of the labels
        step, images, labels = params.pop("step"), batch["image"], tf.concat([batch["label"], *weight], axis=1)

        def mix():
            return compiled(Mix.apply, images, self.op)(images, labels, params)

        images, labels = tf.cond(step < self.until_step, mix, lambda: (images, labels)) if self.until_step else mix()
        if weight:
            labels, batch = labels[:, :-1], batch | {"weight": labels[:, -1]}
        return batch | {"image": images, "label": labels}


@dataclasses.dataclass(frozen=True)
class Normalize(Stage):
    """uint8 or uint16 -> float32, less the mean, over the deviation.

    Always a program of its own: in that of the network, XLA would round otherwise.

    Attributes:
        mean, std: tuples of one or C floats, of levels as shares of the highest.
    """

    mean: tuple
    std: tuple

    name = "normalize"
    where = DEVICE

    def describe(self):
        return None

    def apply(self, batch, params):
        images = batch["image"]
        return batch | {"image": compiled(image_ops.normalize, images)(images, self.mean, self.std)}


@dataclasses.dataclass(frozen=True)
class Erase(Stage):
    """Random erasing of normalised images; `op`: `erasing.RandomErasing`."""

    op: RandomErasing

    name = "erase"
    where = DEVICE

    def describe(self):
        return f"erasing {100 * self.op.probability:g}% ({self.op.mode})"

    def sample(self, batch, shape):
        return {"box": self.op.sample(batch["seed"], *shape)["box"]}

    def apply(self, batch, params):
        params = {"box": params["box"], "seeds": batch["seed"]}
        return batch | {"image": _apply_op(self.op, batch["image"], params)}


def describe(stages):
    """The random stages in words, in order."""
    return ", ".join(text for text in (stage.describe() for stage in stages) if text) or "none"


def of_place(stages, *places):
    """The stages that run at one of some places, in order: tuple."""
    return tuple(stage for stage in stages if stage.where in places)


def resize_stage(stages):
    """The stage that brings images to the network's size: `Resize` or `ResizedCrop`, the first."""
    stage, *_ = of_place(stages, IMAGE)
    return stage


def sample_for_device(batch, stages):
    """The batch with what the stages on the device have to know: {"STAGE/PARAMETER": tensor [B, ...]}."""
    shape = batch["image"].shape[1:3]
    for stage in of_place(stages, DEVICE):
        batch = batch | {f"{stage.name}/{name}": value for name, value in stage.sample(batch, shape).items()}
    return batch


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes time
def on_device(batch, stages):
    """What the network takes, from a batch of the host: the stages on the device. Works on each replica's slice.

    Args:
        batch: dict; "image" uint8 or uint16 [B, S, S, C], "seed", and what `sample_for_device` added.
        stages: tuple of stages.

    Returns:
        float32 [B, S, S, C].
    """
    for stage in of_place(stages, DEVICE):
        prefix = f"{stage.name}/"
        params = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
        batch = stage.apply(batch, params)
    return batch["image"]
