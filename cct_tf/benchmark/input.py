"""How fast the input pipeline makes training batches, and which of its stages takes the time."""

import dataclasses
import statistics
import time

import tensorflow as tf

from cct_tf.assembly import inputs
from cct_tf.data import pipeline
from cct_tf.machine import runtime
from cct_tf.models import variants

STAGES = ("read", "crop", "flip", "policy", "mix", "erase")  # in the order in which they are switched on
_WARM_UP = 3  # batches before the clock starts: buffers, XLA


def cumulative_stages(transform, stream):
    """The pipeline with more and more of its stages switched on, the whole one last.

    Args:
        transform: `transform.Transform`; stream: `pipeline.Stream`.

    Returns:
        dict stage -> (transform, stream). "read" is order, gathering or decoding, bringing to size and normalisation.
    """
    off = {"crop": {"resized_crop": None, "crop_padding": 0}, "flip": {"flip": "none"}, "policy": {"policy": None},
           "erase": {"erasing": None}}
    table = {}
    for number, stage in enumerate(STAGES):
        later = [off.get(name, {}) for name in STAGES[number + 1:]]
        changes = {field: value for fields in later for field, value in fields.items()}
        mixes = "mix" in STAGES[:number + 1]
        table[stage] = (dataclasses.replace(transform, **changes),
                        stream if mixes else dataclasses.replace(stream, mix=None))
    return table


def _seconds_per_image(split, transform, stream, seconds):
    """Time of one image through a pipeline, measured for about `seconds`."""
    with tf.device("CPU:0"):
        batches = iter(pipeline.train_batches(split, transform, stream, 0, 10**9))
    for _ in range(_WARM_UP):
        next(batches)
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        next(batches)
        count += 1
    return taken / (count * stream.batch_size)


def measure(config, console, repeats, seconds):
    """Measure the input pipeline of a config, all cores together.

    Every variant is measured `repeats` times, in turn with the others; medians count. A stage's time is the time of the
    pipeline with it less that of the pipeline without it.

    Args:
        config: `config.Config`.
        console: `console.Console`.
        repeats: int, at least 1.
        seconds: float, of one measurement.

    Returns:
        dict: "images_per_second" of the whole pipeline; "lowest", "highest" of the repeats; "stages" {stage:
        microseconds an image}; "batch_size", "image_size", "cores", "tensorflow".
    """
    images = inputs.open_images(config, console)
    variant = variants.resolve(config.model.model, config.augment.image_size)
    transform = inputs.make_transform(config, images, variant)
    stream = inputs.make_stream(config, images.source.num_classes)
    pipelines = cumulative_stages(transform, stream)
    times = {stage: [] for stage in STAGES}
    with console.phase("measuring the input pipeline"):
        for _ in range(repeats):
            for stage, (some, part) in pipelines.items():
                split = images.source.splits["train"]
                if some.fits_once:
                    split = pipeline.hold_at_size(split, some)
                times[stage].append(_seconds_per_image(split, some, part, seconds))
    medians = [statistics.median(times[stage]) for stage in STAGES]
    steps = [after - before for before, after in zip([0.0, *medians], medians, strict=False)]
    whole = times[STAGES[-1]]
    return {"images_per_second": 1 / medians[-1], "lowest": 1 / max(whole), "highest": 1 / min(whole),
            "stages": {stage: 1e6 * step for stage, step in zip(STAGES, steps, strict=True)},
            "batch_size": stream.batch_size, "image_size": variant.image_size, "cores": runtime.num_threads(),
            "tensorflow": tf.__version__}
