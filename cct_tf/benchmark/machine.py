"""The machine: its name, what a process took of its memory, and how fast it multiplies matrices."""

import importlib.metadata
import platform

from cct_tf.benchmark import measuring
from cct_tf.machine import container, memory, processor

# Sides of the square matrices, and products in a row: one must outlast its launch by far.
_PRODUCTS = {"CPU": ((1024, 2048), 4), "GPU": ((4096, 8192), 16)}
_COPIED = 2**25  # elements of float32: 128 MiB
_PEAK_SECONDS = 0.5  # of one side, at most


def describe():
    """{"cpu", "instruction_set", "processors", "versions": {package: version}}, "unknown" where Linux doesn't tell."""
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"cpu": processor.name(), "instruction_set": processor.instruction_sets(),
            "processors": container.num_cores(),
            "versions": {"python": platform.python_version()} | versions}


def peak_memory_gib(devices):
    """The most memory held at once so far, GiB: of this process on CPUs, of the fullest GPU else.

    Args:
        devices: `runtime.Devices`.
    """
    return max(memory.peaks_gib(devices).values())


class Copy:
    """How fast memory is read and written: an array far larger than the caches is doubled, with all threads.

    Call: seconds -> GB/s, read and written together.
    """

    def __init__(self):
        import tensorflow as tf
        array = tf.ones([_COPIED])

        @tf.function(autograph=False)
        def double(array):
            return array + array

        def copy():
            double(array)
            return 2e-9 * 4 * _COPIED

        self._copy = copy
        copy()

    def __call__(self, seconds):
        return measuring.rate(self._copy, min(seconds, _PEAK_SECONDS))


class MatrixPeak:
    """The fastest matrix product: the better of two sizes, square, in graph mode, with all threads.

    Args:
        devices: `runtime.Devices`; that of one GPU is measured and multiplied by their number.
        dtype: name of the matrices' type.

    Call: seconds -> GFLOP/s.
    """

    def __init__(self, devices, dtype):
        sides, self._length = _PRODUCTS[devices.kind]
        self._factor = devices.num_replicas if devices.kind == "GPU" else 1
        self._rows = [self._row_of(side, dtype) for side in sides]
        for row in self._rows:
            row()

    def _row_of(self, side, dtype):
        """Function that multiplies matrices of one size in a row and returns the GFLOP it took."""
        import tensorflow as tf
        matrix = tf.cast(tf.random.stateless_normal([side, side], [0, side]) / side**0.5, dtype)

        @tf.function(autograph=False)
        def multiply(start):
            product = start
            for _ in range(self._length):
                product = tf.matmul(product, matrix)
            return product[0, 0]

        def row():
            multiply(matrix).numpy()  # waits for the device
            return 2e-9 * side**3 * self._length

        return row

    def __call__(self, seconds):
        return self._factor * max(measuring.rate(row, min(seconds, _PEAK_SECONDS)) for row in self._rows)
