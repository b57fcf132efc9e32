"""The choices of `auto`: what XLA compiles, and the number of micro-batches. No TensorFlow here.

Each follows from the config, the device and the figures below, never from timings at run time, for another choice in
mid-run would change the results' bits. A run keeps the choices it began with while its devices stay the same.
"""

import dataclasses

from cct_tf.models import cost

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


def choose_jit(flag, kind, macs, recorded=None, precision="float32"):
    """Which part of each replica's forward and backward pass XLA compiles.

    Args:
        flag: "auto", "on" or one of JIT.
        kind: "CPU" or "GPU".
        macs: multiply-accumulates of the forward passes of the whole run; None of a network of a user's own, which has
            no encoder either.
        recorded: the choice in the run's checkpoint if it was made on the same kind of device; else None.
        precision: "float32", "bfloat16" or "float16".

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
    if precision == "bfloat16":  # CCT-7/3x1, batch 32: 24 images/s without, 15 with it
        return Choice("off", "auto: on CPUs XLA is slower in bfloat16")
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
        jit: Choice of one of JIT.
        accumulate_steps: Choice of an int, micro-batches of a replica.
    """

    jit: Choice
    accumulate_steps: Choice


def choose(config, devices, variant, num_classes, total_steps, resolved=None):
    """`Tuning` of a run.

    Args:
        config: `config.Config`.
        devices: `runtime.Devices`.
        variant: `models.variants.Variant`, or None of a network of a user's own.
        num_classes: int K.
        total_steps: int, of the whole run.
        resolved: `resolved.Resolved` of the run's checkpoint, or None.
    """
    same_kind = resolved is not None and resolved.device == devices.kind
    same_devices = same_kind and resolved.num_replicas == devices.num_replicas
    batch = config.optim.batch_size
    macs = variant and cost.count_macs(variant, num_classes) * batch * total_steps
    return Tuning(
        choose_jit(config.run.jit, devices.kind, macs, resolved.jit if same_kind else None, config.model.precision),
        choose_micro_batches(config.run.accumulate_steps, devices.kind, batch // devices.num_replicas, variant,
                             resolved.accumulate_steps if same_devices else None))
