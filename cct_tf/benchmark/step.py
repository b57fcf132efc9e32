"""Measures the bare training step: the same batch in memory again and again, without a data pipeline.

Model FLOP/s are 6 x MACs x images/s: each MAC is a multiplication and an addition, once in the forward pass and twice
in the backward pass. What an implementation computes again doesn't count.
"""

import contextlib
import functools
import time

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.assembly.devices import check_batch, make_devices
from cct_tf.assembly.parts import assemble
from cct_tf.augment.stages import Normalize, on_device
from cct_tf.benchmark import comparison, machine, measuring, parts
from cct_tf.data.source import Split
from cct_tf.engine.step import MOST_STEPS
from cct_tf.machine import processor, runtime
from cct_tf.models import cost

_CALL_SECONDS = 1.0  # one call runs steps for about so long, as in the loop
_LONG_RUN = 10**9  # steps: `auto` chooses as for a run that is worth compiling
_MEAN, _STD = (0.5,), (0.25,)  # of random levels about; the step takes as long with any
_LEARNING_RATE = 1e-5  # so small that training on random images doesn't diverge


class Steps:
    """Training steps on one batch.

    Args:
        devices: `runtime.Devices`.
        train_step: `engine.step.TrainStep`.
        state: its `TrainState`.
        batch: batch dict of the global batch.

    Call: trains for about a second, or a step; returns the images.
    """

    def __init__(self, devices, train_step, state, batch):
        self._train_step, self._state = train_step, state
        self._batch_size = batch["image"].shape[0]
        with tf.device("CPU:0"):
            dataset = tf.data.Dataset.from_tensors(batch).repeat()
        self._iterator = runtime.distribute(devices, dataset, self._batch_size)
        self._count = 1

    def __call__(self):
        before = int(self._state.step.numpy())
        self._train_step.run(self._iterator, [_LEARNING_RATE] * self._count)
        return (int(self._state.step.numpy()) - before) * self._batch_size  # reading waits for the device

    def warm_up(self, seconds):
        """Compile, and choose the number of steps in one call: those of about a second, or of `seconds` if less."""
        self()
        self()
        began = time.perf_counter()
        self()
        each = time.perf_counter() - began
        self._count = min(max(int(min(seconds, _CALL_SECONDS) / each), 1), MOST_STEPS)

    def measure(self, seconds):
        """Images/s over at least `seconds`."""
        return measuring.rate(self, seconds)


class BareStep:
    """The training step of a config as a run has it, and a random batch of uint8, which the step normalises.

    Args:
        config: `config.Config`.
        num_classes: int K.

    Attributes:
        devices: `runtime.Devices`; model: keras.Model; optimizer: of `optim.optimizers`; tuning: `tuning.Tuning`;
        steps: `Steps`.
    """

    def __init__(self, config, num_classes):
        self.devices = make_devices(config)
        check_batch(config, self.devices)
        batch_size = config.optim.batch_size
        labels = np.arange(batch_size) % num_classes
        made = assemble(config, self.devices, num_classes, Split("train", None, batch_size, labels), _LONG_RUN,
                        prepare=functools.partial(on_device, stages=(Normalize(_MEAN, _STD),)))
        self.model, self.optimizer, self.tuning = made.model, made.optimizer, made.tuning
        shape = [batch_size, *sizes.sides(self.model.image_size), self.model.variant.channels]
        with tf.device("CPU:0"):
            levels = tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32)
            batch = {"image": tf.cast(levels, tf.uint8),
                     "label": tf.one_hot(labels, num_classes), "seed": tf.cast(tf.range(batch_size), tf.uint32),
                     "mask": tf.ones([batch_size])}
        self.steps = Steps(self.devices, made.train_step, made.state, batch)


def describe(config, devices, model, tuning):
    """The network, how it is computed, and the machine: a dict for the result."""
    variant = model.variant
    return {"model": variant.name, "image_size": variant.image_size, "batch_size": config.optim.batch_size,
            "num_classes": model.num_classes, "parameters": cost.count_parameters(variant, model.num_classes),
            "device": devices.description, "threads": runtime.num_threads(), "num_replicas": devices.num_replicas,
            "precision": tuning.precision.value, "jit": tuning.jit.value,
            "accumulate_steps": tuning.accumulate_steps.value} | machine.describe()


def model_gflops(variant, num_classes, images_per_second):
    """Billions of floating-point operations a second that training takes at this rate."""
    return 6e-9 * cost.count_macs(variant, num_classes, attention_products=True) * images_per_second


def measure(config, num_classes, console, repeats, seconds, compare, by_part=False):
    """Measure the bare step of a config, alternating with matrix products and with the network of stock Keras layers.

    Args:
        config: `config.Config`.
        num_classes: int K.
        console: `console.Console`.
        repeats: int; seconds: float, of one measurement.
        compare: "none", "keras" (graph mode) or "keras_jit".
        by_part: bool, measure the parts of the step too.

    Returns:
        dict: "images_per_second", "lowest", "highest"; "model_gflops", "peak_gflops" (of the step's own type, or of
        float32 if that is faster) among "peaks", {dtype: GFLOP/s}; "percent_of_peak"; "peak_memory_gib" of ours;
        "keras", {"images_per_second", "lowest", "highest", "ratio", "ratios", "jit", "parameters", "precision"} or
        None; "parts", see `parts.summary`, or None; and what `describe` tells.
    """
    with console.phase(f"building {config.model.model}"):
        bare = BareStep(config, num_classes)
    with console.phase("compiling the training step"):
        bare.steps.warm_up(seconds)
    with console.phase("warming up"):
        bare.steps.measure(seconds)
    memory = machine.peak_memory_gib(bare.devices)  # before anything else takes some
    sides = {"ours": bare.steps.measure}
    for dtype in _peaks_of(bare):
        sides[dtype] = machine.MatrixPeak(bare.devices, dtype)
    with contextlib.ExitStack() as stack:
        keras_side = None
        if compare != "none":
            with console.phase("building the same of Keras layers"):
                keras_side = stack.enter_context(comparison.KerasSide(
                    bare.model.variant, num_classes, config, compare == "keras_jit", bare.model.dtype_policy.name))
            sides["keras"] = keras_side.measure
        with console.phase("measuring the step"):
            rates = measuring.in_turn(sides, repeats, seconds)
    found = _result(bare, config, rates, memory) | {"parts": None, "keras": keras_side and (
        measuring.spread(rates["keras"]) | measuring.pairs(rates["ours"], rates["keras"])
        | {"jit": compare == "keras_jit", "parameters": keras_side.parameters, "precision": keras_side.precision})}
    if by_part:
        found["parts"] = parts.measure(bare, config, console, repeats, seconds, found["peak_gflops"])
    return found


def _peaks_of(bare):
    """The types whose products are measured: float32, that of the step, and bfloat16 where a CPU multiplies it."""
    native = ("bfloat16",) if bare.devices.kind == "CPU" and processor.bfloat16_sets() else ()
    return list(dict.fromkeys(("float32", bare.model.compute_dtype, *native)))


def _result(bare, config, rates, memory):
    peaks = {dtype: measuring.spread(values, "median")["median"] for dtype, values in rates.items()
             if dtype not in ("ours", "keras")}
    found = measuring.spread(rates["ours"])
    gflops = model_gflops(bare.model.variant, bare.model.num_classes, found["images_per_second"])
    peak = max(peaks["float32"], peaks[bare.model.compute_dtype])  # in float32 nothing multiplies in bfloat16
    return found | {"model_gflops": gflops, "peak_gflops": peak, "percent_of_peak": 100 * gflops / peak,
                    "peaks": peaks, "peak_memory_gib": memory} | describe(config, bare.devices, bare.model, bare.tuning)
