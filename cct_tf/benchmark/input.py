"""How fast the input pipeline makes training batches, and which of its stages takes the time."""

import statistics
import time

import tensorflow as tf

from cct_tf.assembly import inputs
from cct_tf.augment.stages import BATCH, DEVICE, IMAGE, of_place, resize_stage
from cct_tf.data import pipeline
from cct_tf.machine import runtime
from cct_tf.models import variants

_WARM_UP = 3  # batches before the clock starts: buffers, XLA


def cumulative_stages(stages, resize):
    """The host's part of the pipeline with more and more of its stages, the whole one last.

    Args:
        stages: tuple of `stages.Stage`, of `Transform.training_stages`.
        resize: the stage of evaluation that brings images to the network's size.

    Returns:
        dict name -> tuple of stages, without what is sampled for the device. "read" is order, gathering or decoding,
        bringing to size, and the labels.
    """
    host = of_place(stages, IMAGE, BATCH)
    labels, = (stage for stage in host if stage.name == "labels")
    measured = [stage for stage in host if stage not in (resize, labels)]
    found = {"read": (resize, labels)}
    for number, last in enumerate(measured, 1):
        kept = {resize, labels, *measured[:number]}
        found[last.name] = tuple(stage for stage in host if stage in kept)
    return {name: chosen if chosen[0].where == IMAGE else (resize, *chosen) for name, chosen in found.items()}


def _seconds_per_image(split, stages, sampling, seconds):
    """Time of one image through a pipeline, measured for about `seconds`."""
    with tf.device("CPU:0"):
        batches = iter(pipeline.train_batches(split, stages, sampling, 0, 10**9))
    for _ in range(_WARM_UP):
        next(batches)
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        next(batches)
        count += 1
    return taken / (count * sampling.batch_size)


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
        microseconds an image}; "stages_in_step", names of those that are part of the training step; "batch_size",
        "image_size", "cores", "tensorflow".
    """
    images = inputs.open_images(config, console)
    variant = variants.resolve(config.model.model, config.augment.image_size)
    transform = inputs.make_transform(config, images, variant)
    sampling, stages = inputs.make_sampling(config), inputs.training_stages(config, images, transform)
    resize = resize_stage(transform.evaluation_stages(images.source.num_classes))
    pipelines = cumulative_stages(stages, resize)
    times = {name: [] for name in pipelines}
    with console.phase("measuring the input pipeline"):
        for _ in range(repeats):
            for name, chosen in pipelines.items():
                split = pipeline.hold_at_size(images.source.splits["train"], chosen)
                times[name].append(_seconds_per_image(split, chosen, sampling, seconds))
    medians = [statistics.median(found) for found in times.values()]
    steps = [after - before for before, after in zip([0.0, *medians], medians, strict=False)]
    *_, whole = times.values()
    return {"images_per_second": 1 / medians[-1], "lowest": 1 / max(whole), "highest": 1 / min(whole),
            "stages": {name: 1e6 * step for name, step in zip(times, steps, strict=True)},
            "stages_in_step": [stage.name for stage in of_place(stages, DEVICE)],
            "batch_size": sampling.batch_size, "image_size": variant.image_size, "cores": runtime.num_threads(),
            "tensorflow": tf.__version__}
