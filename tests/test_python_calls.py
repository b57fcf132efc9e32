"""Python functions in graphs, and the end of a process in which they still run."""

import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from cct_tf import python_calls

_ENDS_EARLY = """
import time
import tensorflow as tf
from cct_tf import python_calls

def slow(number):
    time.sleep(0.003)
    return number

def one(number):
    return tf.ensure_shape(python_calls.call(slow, [number], tf.int64), [])

numbers = tf.data.Dataset.range(10**9).map(one, num_parallel_calls=4).batch(30).prefetch(100)
iterator = iter(numbers)
next(iterator)  # and at the end of the program calls are under way
print("done")
"""


def test_a_function_gets_and_gives_arrays_in_graphs_and_eagerly():
    def double(values):
        assert isinstance(values, np.ndarray)
        return 2 * values

    values = tf.range(3)
    assert np.array_equal(python_calls.call(double, [values], tf.int32), [0, 2, 4])
    assert np.array_equal(tf.function(lambda given: python_calls.call(double, [given], tf.int32))(values), [0, 2, 4])


def test_a_process_ends_while_a_pipeline_calls_python():
    begin = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", _ENDS_EARLY], capture_output=True, text=True, timeout=90)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert time.monotonic() - begin < 60
