"""The choices of `auto`: the precision, what XLA compiles, and the number of micro-batches. No TensorFlow here.

Each follows from the config, the device and the figures below, never from timings at run time, for another choice in
mid-run would change the results' bits. A run keeps the choices it began with while its devices stay the same. The
precision it keeps on any device, for it is no matter of the last bits.
"""

import dataclasses

from cct_tf.machine import gpus, own_code, processor
from cct_tf.models import cost, variants

# What XLA compiles: nothing; the encoder, which is all but the tokenizer; or both in one program.
JIT = ("off", "encoder", "all")

# Forward multiply-accumulates of a run from which on compiling is worth its time. XLA saves CCT-7/3x1 (1.2e9 an image)
# 9 ms an image, CCT-2/3x2 (3.5e7) 0.05 ms: to make up for a second of compiling takes 1e11 and 7e11. It takes seconds.
_LONG_RUN = 4e12
_LONG_ON_GPU = 1e14
_CACHED = 2**21  # elements of the encoder's largest tensor for a micro-batch: 8 MiB in float32


@dataclasses.dataclass(frozen=True)
class Choice:
    """The value of an option, and the reason.

    Attributes:
        value: the choice.
        reason: str, a few words for the plan.
    """

    value: object
    reason: str


@dataclasses.dataclass(frozen=True)
class Bfloat16:
    """A measurement of training in bfloat16 beside float32 on CPUs, each as `auto` computes it.

    Attributes:
        instructions: name of an instruction set, see `processor.BFLOAT16`.
        network: what was measured, and its width.
        width: int, `embed_dim` of that network. It stands for wider ones too, up to the next row.
        float32, bfloat16: images/s, the medians of measurements in turn.
    """

    instructions: str
    network: str
    width: int
    float32: float
    bfloat16: float

    @property
    def gain(self):
        return self.bfloat16 / self.float32


# Two cores each, the encoder compiled by XLA, medians of five pairs. The rows of AMX are older: there bfloat16 ran
# without XLA. With it AMX was not measured yet.
BFLOAT16 = (
    Bfloat16("AMX", "CCT-2/3x2, batch 128", 128, 594.0, 666.0),
    Bfloat16("AMX", "CCT-7/3x1, batch 64", 256, 19.7, 20.4),
    Bfloat16("AVX512_BF16", "CCT-2/3x2, batch 128", 128, 679.2, 1103.3),
    Bfloat16("AVX512_BF16", "CCT-7/3x1, batch 64", 256, 20.8, 36.0),
)
_WORTH = 1.1  # a smaller gain is not worth the digits


def choose_precision(model, jit, kind, instructions, recorded=None):
    """What the network computes in.

    Args:
        model: `config.ModelConfig`.
        jit: the flag --jit.
        kind: "CPU" or "GPU".
        instructions: tuple of names of instruction sets, see `processor.bfloat16_sets`.
        recorded: the precision of the run's checkpoint, on whatever device; else None.

    Returns:
        Choice of "float32", "bfloat16" or, never by auto, "float16".
    """
    if model.precision != "auto":
        return Choice(model.precision, f"--precision={model.precision}")
    if recorded is not None:
        return Choice(recorded, "auto: as this run began")
    if kind == "GPU":
        return Choice("float32", "auto: bfloat16 is chosen on CPUs only")
    if own_code.is_named(model.model):
        return Choice("float32", "auto: how fast this network is in bfloat16 is not known")
    if not instructions:
        return Choice("float32", "auto: this CPU has no instructions for bfloat16 that were measured")
    width = variants.resolve(model.model).embed_dim
    rows = [row for row in BFLOAT16 if row.instructions == instructions[0] and row.width <= width]
    if not rows:
        return Choice("float32", f"auto: with {instructions[0]} no network as narrow as this one was measured")
    row = max(rows, key=lambda row: row.width)
    found = f"with {row.instructions} bfloat16 trained {row.network} at {row.gain:.2f} times the speed of float32"
    return Choice("bfloat16" if row.gain >= _WORTH else "float32", f"auto: {found}")


def choose_jit(flag, kind, macs, recorded=None, precision="float32", compiles_bfloat16=False):
    """Which part of each replica's forward and backward pass XLA compiles.

    Args:
        flag: "auto", "on" or one of JIT.
        kind: "CPU" or "GPU".
        macs: multiply-accumulates of the forward passes of the whole run; None of a network of a user's own, which has
            no encoder either.
        recorded: the choice in the run's checkpoint if it was made on the same kind of device; else None.
        precision: "float32", "bfloat16" or "float16".
        compiles_bfloat16: bool, whether programs for this CPU multiply bfloat16 fast: `products.multiplies_bfloat16`,
            and the forms of layers that use it are not switched off.

    Returns:
        Choice of one of JIT.
    """
    # Training on two AVX-512 cores, images/s, medians in turn. CCT-7/3x1, batch 64, micro-batches of 8: nothing
    # compiled 29.3, all 40.8, the encoder alone 39.3. CCT-2/3x2, batch 128: nothing 1172, all 1116, the encoder 1242.
    # Convolutions stay with oneDNN, which is faster at them. The update is one kernel a variable either way.
    if flag == "on":
        return Choice("encoder" if kind == "CPU" and macs is not None else "all", "--jit=on")
    if flag != "auto":
        return Choice(flag, f"--jit={flag}")
    if recorded is not None:
        return Choice(recorded, "auto: as this run began")
    if macs is None:
        return Choice("off", "auto: what the network costs is not known")
    if kind == "GPU":
        # H100, CCT-7/3x1, batch 128, images/s: in bfloat16 nothing 1,777, the encoder 10,128, all 11,165, in float32
        # 2,112, 6,112, 6,325; compiling takes 80 to 160 s, which 1e14 multiply-accumulates make up for.
        if macs < _LONG_ON_GPU:
            return Choice("off", "auto: the run is too short to make up for compiling")
        return Choice("all", "auto: on GPUs XLA is several times faster")
    if precision == "bfloat16" and not compiles_bfloat16:  # CCT-7/3x1, batch 32: 24 images/s without, 15 with it
        return Choice("off", "auto: here XLA is slower in bfloat16")
    if macs < _LONG_RUN:
        return Choice("off", "auto: the run is too short to make up for compiling")
    return Choice("encoder", "auto: on CPUs XLA is faster at the encoder and slower at convolutions")


def choose_micro_batches(flag, kind, share, variant, recorded=None):
    """Number of micro-batches that a replica's share of a batch is split into.

    Args:
        flag: int, or None for auto.
        kind: "CPU" or "GPU".
        share: int, images of a replica.
        variant: `models.variants.Variant`, or None of a network of a user's own.
        recorded: the number in the run's checkpoint if it was made on as many devices of the same kind; else None.

    Returns:
        Choice of an int; one that `auto` chose divides `share`.
    """
    # Images/s on two AVX-512 cores by the size of a micro-batch: medians of measurements in turn, one run a line.
    # CCT-7/3x1 (262,144 elements an image), XLA before it had features first: 8 35.9, 16 33.5, 64 31.7
    # the same with features first: 8 40.8, 16 39.4; without XLA: 8 29.3, 16 31.0
    # CCT-2/3x2 (24,576), the encoder with XLA: 32 1108, 64 1191, 128 1156
    if flag is not None:
        return Choice(flag, "--accumulate_steps")
    if recorded is not None and share % recorded == 0:
        return Choice(recorded, "auto: as this run began")
    if kind == "GPU":
        return Choice(1, "auto: the whole batch on GPUs")
    if variant is None:
        return Choice(1, "auto: what the network's activations take is not known")
    most = cached_images(variant)
    counts = [count for count in range(1, share + 1) if share % count == 0]
    fitting = next(count for count in counts if share // count <= most)
    if 2 * (share // fitting) < min(most, share):  # of an awkward share: rather too large micro-batches than tiny ones
        fitting = max(count for count in counts if 2 * (share // count) >= min(most, share))
    return Choice(fitting, "auto: activations that fit into the cache")


def cached_images(variant):
    """Number of images whose activations fit into the cache of a CPU, at least 1."""
    return max(_CACHED // cost.largest_activation(variant), 1)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The choices for a run.

    Attributes:
        precision: Choice of "float32", "bfloat16" or "float16".
        jit: Choice of one of JIT.
        accumulate_steps: Choice of an int, micro-batches of a replica.
    """

    precision: Choice
    jit: Choice
    accumulate_steps: Choice


def precision_of(config, devices, recorded=None):
    """`choose_precision` of a config on this machine; recorded as there."""
    return choose_precision(config.model, config.run.jit, devices.kind, processor.bfloat16_sets(), recorded)


def with_precision(config, precision):
    """The config that computes in `precision`, whatever it says."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, precision=precision))


def may_compile_bfloat16(config):
    """Whether a training would compile bfloat16 on this machine's CPU: before TensorFlow is there to tell.

    Such programs can't be kept in the compilation cache, see `layers.products`.
    """
    return (config.model.precision in ("bfloat16", "auto") and config.run.jit != "off" and config.run.fast_forms
            and bool(processor.bfloat16_sets()) and not own_code.is_named(config.model.model) and not gpus.is_there())


def choose(config, precision, devices, variant, num_classes, total_steps, resolved=None, compiles_bfloat16=False):
    """`Tuning` of a run.

    Args:
        config: `config.Config`.
        precision: Choice, of `precision_of`.
        devices: `runtime.Devices`.
        variant: `models.variants.Variant`, or None of a network of a user's own.
        num_classes: int K.
        total_steps: int, of the whole run.
        resolved: `resolved.Resolved` of the run's checkpoint, or None.
        compiles_bfloat16: see `choose_jit`.
    """
    same_kind = resolved is not None and resolved.device == devices.kind
    same_devices = same_kind and resolved.num_replicas == devices.num_replicas
    batch = config.optim.batch_size
    macs = variant and cost.count_macs(variant, num_classes) * batch * total_steps
    return Tuning(
        precision,
        choose_jit(config.run.jit, devices.kind, macs, resolved.jit if same_kind else None, precision.value,
                   compiles_bfloat16 and config.run.fast_forms),
        choose_micro_batches(config.run.accumulate_steps, devices.kind, batch // devices.num_replicas, variant,
                             resolved.accumulate_steps if same_devices else None))
