"""What a run computes on: a quiet start of TensorFlow, logical devices, the distribution strategy.

TensorFlow is imported inside functions only, so that the checks before it stay fast.
"""

import contextlib
import ctypes
import dataclasses
import os
import subprocess
import sys
import tempfile

from cct_tf.errors import Interrupted, OutsideFault, UserError
from cct_tf.machine import compile_cache, container, gpus
from cct_tf.machine.backend import check as check_backend

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_MMAP_THRESHOLDS = 2**30, 2**25  # bytes; glibc before 2.35 takes no more than the latter
_ON_DEVICE = 2  # batches that wait on a GPU


@contextlib.contextmanager
def quiet_stderr():
    """Hold back what native code writes to file descriptor 2; show it if the block ends by an unexpected error.

    TensorFlow's start, and libjpeg on a broken image, write lines there that no log level silences.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (UserError, OutsideFault, Interrupted):
            raise  # these have a line of their own
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _absent(*modules):
    """Make modules seem not installed in the block: Keras imports them (0.8 s) for parts that are not used here."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def start_tensorflow(cache="off", warn=None):
    """Import TensorFlow and Keras without their chatter and with Keras' defaults, whatever keras.json says.

    Args:
        cache: --compile_cache, as `compile_cache.start` takes it.
        warn: function of a line of text, told if the cache can't be used.
    """
    check_backend()
    _keep_freed_memory()
    compile_cache.start(cache, warn)
    gpus.keep_kernels(cache)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Threads of their own give a GPU its kernels, so that those that decode images can't keep it waiting. Unmeasured.
    os.environ.setdefault("TF_GPU_THREAD_MODE", "gpu_private")
    if "tensorflow" not in sys.modules:
        with quiet_stderr(), _absent("sklearn", "matplotlib.pyplot"):
            import tensorflow  # noqa: F401
    _keep_to_the_cores()
    import keras
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    import logging
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _keep_freed_memory():
    """Have the C library keep the memory of freed large arrays. Otherwise the system takes it back, and zeroes it anew.

    A step asks for the same arrays over and over. CCT-7/3x1 under XLA at batch 64 met 26,000 to 70,000 page faults a
    step, and with this next to none: 42.3 images/s instead of 38.5 on an idle machine, no clear difference on a busy
    one.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to do
        libc = ctypes.CDLL("libc.so.6")
        # The second call stops glibc from raising the first threshold by itself. Alone it would leave it at 128 KiB.
        if any(libc.mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS):
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _keep_to_the_cores():
    """Where a container may use fewer cores than the machine has, start no more threads than on so many cores."""
    import tensorflow as tf
    cores = container.num_cores()
    if cores == len(os.sched_getaffinity(0)):
        return
    for name in ("intra", "inter"):
        number = getattr(tf.config.threading, f"get_{name}_op_parallelism_threads")
        if not number() and not os.environ.get(f"TF_NUM_{name.upper()}OP_THREADS"):
            with contextlib.suppress(RuntimeError):  # TensorFlow runs already
                getattr(tf.config.threading, f"set_{name}_op_parallelism_threads")(cores)


def num_threads():
    """TensorFlow's number of intra-op threads: the processors this process may use unless something sets another."""
    import tensorflow as tf
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return (tf.config.threading.get_intra_op_parallelism_threads() or (int(given) if given.isdigit() else 0)
            or len(os.sched_getaffinity(0)))


@dataclasses.dataclass(frozen=True)
class Devices:
    """What the run computes on.

    Attributes:
        strategy: tf.distribute.Strategy.
        kind: "CPU" or "GPU".
        num_replicas: int, of all workers together.
        deterministic: bool, deterministic kernels only.
        worker, num_workers: ints, which of how many processes this is.
        divided: bool, whether the replicas share one GPU.
    """

    strategy: object
    kind: str
    num_replicas: int
    deterministic: bool = False
    worker: int = 0
    num_workers: int = 1
    divided: bool = False

    @property
    def num_local(self):
        """Replicas of this worker."""
        return self.num_replicas // self.num_workers

    @property
    def share(self):
        """(worker, number of workers), as the pipelines take it."""
        return self.worker, self.num_workers

    @property
    def description(self):
        """`1 CPU (2 threads)`, `4 GPUs`, `2 logical GPUs of one`, `2 logical CPUs`, `3 workers of 8 GPUs`."""
        own = f"{self.num_local} {self.kind}" + ("s" if self.num_local > 1 else "")
        if self.kind == "CPU":
            own = f"{own.replace('CPUs', 'logical CPUs')} ({num_threads()} threads)"
        if self.divided:
            own = own.replace("GPUs", "logical GPUs of one")
        return f"{self.num_workers} workers of {own}" if self.num_workers > 1 else own


def make_devices(num_replicas=None, deterministic=False, strategy="auto", cluster=None, collectives="auto"):
    """Strategy for this machine, or for a cluster.

    Args:
        num_replicas: int, of this machine, or None for all GPUs, or one CPU.
        deterministic: bool, deterministic kernels only.
        strategy: "auto", "single", "mirrored" or "multi_worker".
        cluster: `workers.cluster.Cluster`, whose other workers make theirs now; or None for this machine alone.
        collectives: how sums travel in a cluster, see config.RunConfig.

    Returns:
        Devices. One device uses the default strategy, several a MirroredStrategy, a cluster a
        MultiWorkerMirroredStrategy.

    Raises:
        UserError: more replicas than GPUs, or logical devices asked for too late.
    """
    import tensorflow as tf
    if deterministic:
        tf.random.set_seed(0)  # nothing here draws from it, but op determinism requires a seed
        tf.config.experimental.enable_op_determinism()
    kind, count = local_devices(num_replicas, strategy, cluster)
    seen = tf.config.list_physical_devices("GPU")
    divided = kind == "GPU" and count > len(seen)
    if divided:
        _divide_gpu(seen[0], count)
    else:
        with contextlib.suppress(RuntimeError):  # set already by an earlier run in this process
            for gpu in seen:
                tf.config.experimental.set_memory_growth(gpu, True)
    # The default collectives fail where one process has strategies of different sizes, as the tests do, and NCCL where
    # two replicas share a GPU.
    cross_device_ops = tf.distribute.ReductionToOneDevice() if kind == "CPU" or divided else None
    if cluster is not None:
        return _multi_worker(cluster, kind, seen[:count], deterministic, collectives)
    if kind == "CPU":
        _make_logical_cpus(count)
    if count == 1 and strategy != "mirrored":
        return Devices(tf.distribute.get_strategy(), kind, 1, deterministic)
    names = [f"{kind}:{index}" for index in range(count)]
    with quiet_stderr():
        return Devices(tf.distribute.MirroredStrategy(names, cross_device_ops=cross_device_ops), kind, count,
                       deterministic, divided=divided)


def local_devices(num_replicas=None, strategy="auto", cluster=None):
    """The kind and number of devices that this process will use: ("GPU" or "CPU", int). Makes none of them.

    Raises:
        UserError: --num_replicas asks for others than there are; a GPU can't be used, see `gpus.check`.
    """
    import tensorflow as tf
    seen = tf.config.list_physical_devices("GPU")
    gpus.check(seen)
    number = len(seen)
    if strategy == "single" and (num_replicas or 1) > 1:
        raise UserError(f"--num_replicas: expected 1 with --strategy=single, found {num_replicas}")
    if (number > 1 or (number and cluster is not None)) and (num_replicas or 0) > number:
        left = "that --device leaves" if gpus.current().startswith("gpu:") else "of this machine"
        raise UserError(f"--num_replicas: expected at most {number}, the GPUs {left}, found {num_replicas}")
    if cluster is not None and not number and (num_replicas or 1) > 1:
        raise UserError("--num_replicas: expected 1 with several workers on CPUs, where TensorFlow uses one device of "
                        f"each, found {num_replicas}; start more workers instead")
    return ("GPU" if number else "CPU"), (num_replicas or (1 if strategy == "single" else number) or 1)


def _multi_worker(cluster, kind, seen, deterministic, collectives):
    """Devices of a cluster; blocks until every worker is here, and keeps Python's threads from running meanwhile."""
    import tensorflow as tf
    if kind == "GPU":
        tf.config.set_visible_devices(seen, "GPU")  # the strategy takes all it sees
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}), task_type="worker", task_id=cluster.index,
        rpc_layer="grpc")
    # No timeout_seconds: it keeps two threads asleep that long for each sum, tens of thousands of threads.
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=getattr(tf.distribute.experimental.CommunicationImplementation, collectives.upper()))
    with quiet_stderr():
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    return Devices(strategy, kind, strategy.num_replicas_in_sync, deterministic, cluster.index, cluster.num_workers)


def _divide_gpu(gpu, count):
    """Make one GPU several logical ones, each with its share of the memory that is free: to try replicas out."""
    import tensorflow as tf
    if len(tf.config.get_logical_device_configuration(gpu) or []) >= count:
        return  # by an earlier run in this process
    try:
        free = subprocess.run(["nvidia-smi", f"--id={gpus.first()}", "--query-gpu=memory.free",
                               "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, check=True).stdout.split()[0]
        each = int(0.8 * int(free)) // count  # MiB; what is left is for cuDNN, cuBLAS and the compiled programs
        tf.config.set_logical_device_configuration(
            gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=each)] * count)
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        raise UserError(f"--num_replicas: expected nvidia-smi to say how much memory is free, to divide the only GPU "
                        f"into {count}, found no answer; 1 replica needs none") from None
    except RuntimeError:
        raise UserError(f"--num_replicas: expected 1, as this process started, found {count}; a new process "
                        "can divide it") from None


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
                        f"found {count}; a new process can make others") from None


def distribute(devices, dataset, batch_size):
    """An iterator for the strategy over a dataset of whole batches.

    Args:
        devices: `Devices`.
        dataset: tf.data.Dataset of batch dicts of `batch_size` examples.
        batch_size: int, of all workers together, a multiple of the replicas; the dataset holds this worker's part
            of each batch, and its r-th replica gets the r-th slice of it.

    Returns:
        iterator usable in a tf.function.
    """
    if devices.num_local == 1:
        if devices.kind == "GPU":  # the next batch is copied while the GPU computes
            import tensorflow as tf
            dataset = dataset.apply(tf.data.experimental.prefetch_to_device("GPU:0", _ON_DEVICE))
        return iter(dataset)
    per_replica = batch_size // devices.num_replicas
    dataset = dataset.rebatch(per_replica, drop_remainder=True)
    if devices.num_workers > 1:
        # For a distributed dataset that ends, the workers would ask one another before each batch whether there is one.
        dataset = dataset.repeat()
    return iter(devices.strategy.distribute_datasets_from_function(lambda context: dataset))
