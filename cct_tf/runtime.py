"""The machine: a quiet start of TensorFlow, the strategy, logical devices, what `auto` chooses.

TensorFlow is imported inside functions only, so that the checks before it stay fast.
"""

import contextlib
import dataclasses
import os
import sys
import tempfile

from cct_tf.errors import Interrupted, OutsideFault, UserError


def check_backend():
    """Refuse another Keras backend by name, before TensorFlow is imported; set ours where none is named.

    Raises:
        UserError: KERAS_BACKEND names another backend.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise UserError(f"KERAS_BACKEND: expected tensorflow or nothing, found {backend!r}")
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextlib.contextmanager
def quiet_stderr():
    """Hold back what native code writes to file descriptor 2; show it after all if the block raises a bug of ours.

    TensorFlow's start, and libjpeg on a broken image, write lines there that no log level silences.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (UserError, OutsideFault, Interrupted):
            raise  # with a line of its own
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def start_tensorflow():
    """Import TensorFlow and Keras without their chatter and with Keras' defaults, whatever keras.json says."""
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        with quiet_stderr():
            import tensorflow  # noqa: F401
    import keras
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    import logging
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def num_threads():
    """Processors this process may use: TensorFlow's number of intra-op threads unless something sets another."""
    import tensorflow as tf
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Devices:
    """What the run computes on.

    Attributes:
        strategy: tf.distribute.Strategy.
        kind: "CPU" or "GPU".
        num_replicas: int.
    """

    strategy: object
    kind: str
    num_replicas: int

    @property
    def description(self):
        """`1 CPU (2 threads)`, `4 GPUs`, `2 logical CPUs`."""
        if self.kind == "GPU":
            return f"{self.num_replicas} GPU" + ("s" if self.num_replicas > 1 else "")
        if self.num_replicas > 1:
            return f"{self.num_replicas} logical CPUs ({num_threads()} threads)"
        return f"1 CPU ({num_threads()} threads)"


def make_devices(num_replicas=None, deterministic=False):
    """Strategy for this machine.

    Args:
        num_replicas: int, or None for all GPUs, or one CPU.
        deterministic: bool, deterministic kernels only.

    Returns:
        Devices. One device uses the default strategy, several a MirroredStrategy.

    Raises:
        UserError: more replicas than GPUs, or logical devices asked for too late.
    """
    import tensorflow as tf
    if deterministic:
        tf.random.set_seed(0)  # nothing of ours draws from it, but op determinism insists on a seed
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        with contextlib.suppress(RuntimeError):  # set already by an earlier run in this process
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
        count = num_replicas or len(gpus)
        if count > len(gpus):
            raise UserError(f"--num_replicas: expected at most {len(gpus)}, the GPUs of this machine, found {count}")
        kind, cross_device_ops = "GPU", None
    else:
        count = num_replicas or 1
        _make_logical_cpus(count)
        # One process may hold strategies of different sizes (tests do); the default collectives can't.
        kind, cross_device_ops = "CPU", tf.distribute.ReductionToOneDevice()
    if count == 1:
        return Devices(tf.distribute.get_strategy(), kind, 1)
    names = [f"{kind}:{index}" for index in range(count)]
    with quiet_stderr():
        return Devices(tf.distribute.MirroredStrategy(names, cross_device_ops=cross_device_ops), kind, count)


def _make_logical_cpus(count):
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    made = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(made) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        raise UserError(f"--num_replicas: expected at most {len(made)}, the logical CPUs this process started with, "
                        f"found {count}") from None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What an `auto` became, and why.

    Attributes:
        value: the choice.
        reason: a few words for the plan.
    """

    value: object
    reason: str


def choose_jit(flag, kind, recorded=None):
    """Whether to compile each replica's forward and backward pass with XLA.

    Args:
        flag: "auto", "on" or "off".
        kind: "CPU" or "GPU".
        recorded: bool that the run's checkpoint holds, if it was made on the same kind of device; else None.

    Returns:
        Choice of a bool. It follows from the config and the device, never from timings at run time, because
        switching XLA on or off in mid-run changes the bits.
    """
    if flag != "auto":
        return Choice(flag == "on", f"--jit={flag}")
    if recorded is not None:
        return Choice(recorded, "auto: as this run began")
    if kind == "GPU":
        return Choice(False, "auto: nothing was measured on GPUs yet")
    # Training, images/s on 2 AVX-512 cores, graph mode and XLA: CCT-2/3x2 at batch 128 900 and 877, CCT-7/3x1 at batch
    # 64 30 and 31; the first step 2.3 and 3.7 s, 9.5 and 14.9.
    return Choice(False, "auto: graph mode starts sooner on CPUs")


def distribute(devices, dataset, batch_size):
    """An iterator for the strategy over a dataset of whole batches.

    Args:
        devices: `Devices`.
        dataset: tf.data.Dataset of batch dicts of `batch_size` examples.
        batch_size: int, a multiple of the replicas; replica r gets the r-th slice.

    Returns:
        iterator usable in a tf.function.
    """
    if devices.num_replicas == 1:
        return iter(dataset)
    per_replica = batch_size // devices.num_replicas
    return iter(devices.strategy.distribute_datasets_from_function(
        lambda context: dataset.rebatch(per_replica, drop_remainder=True)))
