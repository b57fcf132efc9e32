"""From a config to images: the data set, its mean and deviation, and the stages that prepare its images."""

import dataclasses

from cct_tf.assembly import found_broken, own
from cct_tf.augment import simd_resize
from cct_tf.augment import transform as transform_lib
from cct_tf.augment.mix import Mix
from cct_tf.augment.stages import Mixing
from cct_tf.data.pipeline import Sampling
from cct_tf.data.source import rules_of
from cct_tf.data.statistics import channel_statistics
from cct_tf.datasets import registry
from cct_tf.images import pixel_type
from cct_tf.machine import compile_cache, memory, runtime
from cct_tf.readers import budget
from cct_tf.settings import consistency


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set and how its images are prepared.

    Attributes:
        source: `source.Source`; None for images that are not of the run's data set.
        mean, std: tuples of floats of pixels in [0, 1].
        statistics_from: where they come from, for the plan.
        rules: `source.Rules` in force.
    """

    source: object
    mean: tuple
    std: tuple
    statistics_from: str
    rules: object


def open_images(config, console, resolved=None, part=None):
    """Open the data set and settle mean and standard deviation.

    Args:
        config: `config.Config`.
        console: `console.Console`.
        resolved: `resolved.Resolved` of the run's checkpoint, whose rules and computed statistics stay, and the list
            of its broken images; None for a new run.
        part: `tree.Part`, the splits of an image folder to open, see `recorded_data.part_of`; None for all.

    Returns:
        Images.
    """
    with memory.data_named_when_out(config.data):
        return _open_images(config, console, resolved, part)


def _open_images(config, console, resolved, part):
    budget.use(config.data.pipeline_gib)
    with console.phase(f"opening {config.data.dataset}", with_progress=True), runtime.quiet_stderr():
        source = registry.open_source(config.data, console.stream, rules_of(resolved), part,
                                      compile_cache.user_folder() / "images", found_broken.recorded_files(resolved))
    if config.data.on_bad_image == "skip":
        source = found_broken.bearing(source, resolved.found_broken if resolved else ())
    if config.augment.mean is not None:
        return Images(source, config.augment.mean, config.augment.std, "flags", source.rules)
    if resolved is not None and resolved.statistics_computed:
        return Images(source, resolved.mean, resolved.std, "an earlier start of this run", source.rules)
    if source.mean is not None and config.data.channels == 3:
        return Images(source, source.mean, source.std, "the data set's own", source.rules)
    with console.phase("computing mean and standard deviation", with_progress=True):
        mean, std = channel_statistics(source.splits["train"], console.stream)
    return Images(source, mean, std, "computed from the training images", source.rules)


def recorded_images(resolved):
    """`Images` prepared as those of a run were, without opening its data set.

    Args:
        resolved: `resolved.Resolved` of its record.
    """
    return Images(None, resolved.mean, resolved.std, "the run", rules_of(resolved))


def make_transform(config, images, model):
    """The `Transform` that brings the images to what `model` (or a `variants.Variant`) takes."""
    transform = transform_lib.from_config(config.augment, model.image_size, images.mean, images.std,
                                           pixel_type.of_config(config.data))
    return dataclasses.replace(transform, resize_block=images.rules.resize_block, resampler=images.rules.resampler,
                               fast_decoding=config.data.decode == "fast",
                               fast_resizing=config.data.resize == "fast", width_first=images.rules.width_first,
                               multilabel=config.data.task == "multilabel")


def make_sampling(config):
    """The `pipeline.Sampling` of a config's training images."""
    return Sampling(config.run.seed, config.optim.batch_size, config.augment.repeated_augmentation,
                    config.data.sampler)


def training_stages(config, images, transform):
    """The way of a training image: tuple of `stages.Stage`."""
    augment, mixing = config.augment, None
    if transform.fast_resizing:
        simd_resize.require_package()
    if consistency.mixes(augment):
        mix = Mix(augment.mixup_alpha, augment.cutmix_alpha, augment.mix_probability, augment.mix_switch_probability)
        images_in = augment.mix_off_epoch * images.source.splits["train"].num_examples
        mixing = Mixing(mix, config.run.seed, config.optim.batch_size, -(-images_in // config.optim.batch_size),
                        augment.mix_off_epoch)
    transform = dataclasses.replace(transform, own=own.stages(config))
    return transform.training_stages(images.source.num_classes, label_smoothing=config.optim.label_smoothing,
                                     mixing=mixing, seed=config.run.seed)
