"""How fast evaluation is, beside training: random images through `evaluation.evaluator.Evaluator`."""

import statistics

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.assembly.forward import Forward
from cct_tf.augment.transform import Transform
from cct_tf.benchmark import machine, measuring
from cct_tf.benchmark.step import BareStep, describe
from cct_tf.data import pipeline
from cct_tf.data.source import Split
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.readers.held import Held

_BATCHES = 4  # of one pass over the images


def random_split(num_examples, size, num_classes, channels=3):
    """A `source.Split` of random images, uint8 [n, S, S, C]."""
    with tf.device("CPU:0"):
        shape = [num_examples, *sizes.sides(size), channels]
        images = tf.cast(tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32), tf.uint8)
    return Split("test", Held(images, np.arange(num_examples)), num_examples,
                 np.arange(num_examples, dtype=np.int32) % num_classes)


def measure(config, num_classes, console, repeats, seconds):
    """Measure evaluation in turn with the bare training step.

    Args: as `benchmark.step.measure`.

    Returns:
        dict: "images_per_second", "lowest", "highest" of evaluation; "step_images_per_second"; "ratio" of the two and
        "ratios" of each pair; "eval_batch_size", "peak_memory_gib", and what `step.describe` tells.
    """
    with console.phase(f"building {config.model.model}"):
        bare = BareStep(config, num_classes)
        batch = pipeline.padded_batch_size(config.run.eval_batch_size, config.run.eval_batch_size,
                                           bare.devices.num_replicas)
        split = random_split(_BATCHES * batch, bare.model.image_size, num_classes,
                             bare.model.variant.channels)
        forward = Forward(bare.model, bare.devices.kind, bare.tuning.jit.value)
        transform = Transform(bare.model.image_size, (0.5,), (0.25,), pixel_type=split.reader.pixel_type)
        evaluator = Evaluator(bare.devices, {"eval": forward}, split, transform, num_classes=num_classes,
                              batch_size=batch)

    def evaluate():
        evaluator()
        return split.num_examples

    with console.phase("compiling the training step"):
        bare.steps.warm_up(seconds)
    with console.phase("compiling evaluation"):
        evaluate()
    with console.phase("measuring evaluation"):
        rates = measuring.in_turn({"eval": lambda length: measuring.rate(evaluate, length), "step": bare.steps.measure},
                                  repeats, seconds)
    return measuring.spread(rates["eval"]) | measuring.pairs(rates["eval"], rates["step"]) | {
        "step_images_per_second": statistics.median(rates["step"]), "eval_batch_size": batch,
        "peak_memory_gib": machine.peak_memory_gib(bare.devices)} | describe(
            config, bare.devices, bare.model, bare.tuning)
