"""How fast the input pipeline makes training batches, and which of its stages takes the time.

The whole pipeline, each of its stages and the decoder alone are measured in turn, each with all cores to itself. A
stage runs as in the pipeline, on batches that are at hand. So no time is a difference of two others; the stages add up
to about the time of the whole, and both are told.
"""

import functools
import math
import statistics

import tensorflow as tf

from cct_tf.assembly import checks, inputs
from cct_tf.augment.stages import BATCH, DEVICE, of_place
from cct_tf.benchmark import measuring
from cct_tf.data import holding, pipeline
from cct_tf.images import decode
from cct_tf.machine import runtime
from cct_tf.readers import headers, tensors
from cct_tf.readers.reader import as_written

_WARM_UP, _WARM_UP_SECONDS = 3, 0.5  # batches and seconds before the clock starts: threads, buffers, XLA
_ENDLESS = 10**9  # steps
_KEPT_BYTES, _MOST_KEPT = 2**27, 8  # batches that are at hand: their bytes, their number; two at least
_FILES = 64  # that are decoded alone


def timed_parts(split, stages, sampling):
    """The host's stages, each by itself on batches that are at hand.

    Args:
        split: `source.Split`, after `holding.hold_at_size`.
        stages: tuple of `stages.Stage`, of `Transform.training_stages`.
        sampling: `pipeline.Sampling`.

    Returns:
        dict name -> endless Dataset of batches after this stage. "read" is order, reading and decoding or gathering,
        cropping, bringing to size, putting batches together, and the labels.
    """
    labels, = (stage for stage in stages if stage.name == "labels")
    parts = {"read": pipeline.staged(pipeline.read_batches(split, stages, sampling, 0, _ENDLESS), (labels,))}
    kept = _first(parts["read"])
    for stage in of_place(stages, BATCH):
        if stage is labels:
            continue
        parts[stage.name] = pipeline.staged(_again(kept), (stage,))
        kept = _first(parts[stage.name])
    return parts


def _first(batches):
    """Some batches of a Dataset, eager, so many that they take little memory."""
    image = batches.element_spec["image"].shape
    return list(batches.take(max(2, min(_MOST_KEPT, _KEPT_BYTES // math.prod(image)))))


def _again(batches):
    """The same batches for ever: nothing is computed or copied for them."""
    datasets = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    return functools.reduce(lambda before, one: before.concatenate(one), datasets).repeat()


def decoding(split, batch_size):
    """The floor of reading: files that are in memory, decoded to all of their pixels, and nothing else.

    Args:
        split: `source.Split`.
        batch_size: int B.

    Returns:
        Dataset, each of whose elements stands for B images; None where the images are decoded already, or are no files.
    """
    reader = split.reader
    if reader.holds_pixels:
        return None
    try:
        contents = [decode.read_bytes(reader.origin(place)) for place in reader.spread(_FILES)]
    except (decode.BrokenImage, TypeError):  # a record has no path of its own
        return None
    plain = all(map(headers.is_plain_jpeg, contents))
    found = tensors.on_cpu(contents)

    @as_written
    def one(place):
        file = found[place]
        pixels = tf.io.decode_jpeg(file, 3, dct_method="INTEGER_ACCURATE") if plain else decode.decode(file)
        return pixels[0, 0]

    places = tf.data.Dataset.range(len(contents)).repeat()
    return tensors.by_reference(places.map(one, num_parallel_calls=runtime.num_threads()).batch(batch_size).prefetch(2))


def _costs(batches, batch_size, seconds):
    """What an image takes in a Dataset of batches, measured for about `seconds`: (seconds, processor seconds)."""
    with tf.device("CPU:0"):
        iterator = iter(batches)

    def advance():
        next(iterator)
        return batch_size

    for _ in range(_WARM_UP):
        advance()
    measuring.rate(advance, min(_WARM_UP_SECONDS, seconds))
    return measuring.costs(advance, seconds)


def measure(config, console, repeats, seconds):
    """Measure the input pipeline of a config, all cores together.

    Everything is measured `repeats` times, in turn; medians count.

    Args:
        config: `config.Config`.
        console: `console.Console`.
        repeats: int, at least 1.
        seconds: float, of one measurement.

    Returns:
        dict: "images_per_second" of the whole pipeline, "lowest", "highest" of the repeats; "microseconds" and
        "processor_microseconds" that the whole takes for an image; "stages" and "processor_stages", {stage: the first
        and the second of them}; "decoding", the same two of the decoder alone, or None, see `decoding`;
        "stages_in_step", names of those that are part of the training step; "batch_size", "image_size", "cores",
        "tensorflow".
    """
    images = inputs.open_images(config, console)
    shape = checks.shape_of(config)
    transform = inputs.make_transform(config, images, shape)
    sampling, stages = inputs.make_sampling(config), inputs.training_stages(config, images, transform)
    size, opened = sampling.batch_size, images.source.splits["train"]
    with console.phase("preparing what is measured"), tf.device("CPU:0"):
        split = holding.hold_at_size(opened, stages)
        parts = timed_parts(split, stages, sampling)
        measured = parts | {"whole": pipeline.train_batches(split, stages, sampling, 0, _ENDLESS),
                            "decoding": decoding(opened, size)}
    sides = {name: functools.partial(_costs, batches, size) for name, batches in measured.items() if batches}
    with console.phase("measuring the input pipeline"):
        found = measuring.in_turn(sides, repeats, seconds)
    medians = {name: _median(costs) for name, costs in found.items()}
    rates = measuring.spread([1 / taken for taken, _ in found["whole"]])
    return rates | medians["whole"] | {
        "stages": {name: medians[name]["microseconds"] for name in parts},
        "processor_stages": {name: medians[name]["processor_microseconds"] for name in parts},
        "decoding": medians.get("decoding"),
        "stages_in_step": [stage.name for stage in of_place(stages, DEVICE)], "batch_size": size,
        "image_size": shape.image_size, "cores": runtime.num_threads(), "tensorflow": tf.__version__}


def _median(costs):
    """Of pairs of seconds and processor seconds."""
    return {name: 1e6 * statistics.median(values)
            for name, values in zip(("microseconds", "processor_microseconds"), zip(*costs, strict=True), strict=True)}
