"""Python functions in graphs, and the end of a process in which they still run."""

import subprocess
import sys

import numpy as np
import tensorflow as tf

from cct_tf.machine import python_calls

_ENDS_EARLY = """
import atexit, time
calls = []

def count():  # registered first, so it runs last
    before = len(calls)
    time.sleep(0.3)
    print("rests" if len(calls) == before else "goes on")

atexit.register(count)
import tensorflow as tf
from cct_tf.machine import python_calls

def slow(number):
    calls.append(number)
    time.sleep(0.01)
    return number

def one(number):
    return tf.ensure_shape(python_calls.call(slow, [number], tf.int64), [])

numbers = tf.data.Dataset.range(10**9).map(one, num_parallel_calls=4).batch(10).prefetch(10**6)
iterator = iter(numbers)
next(iterator)  # and at the end of the program calls are under way
"""


def test_a_function_gets_and_gives_arrays_in_graphs_and_eagerly():
    def double(values):
        assert isinstance(values, np.ndarray)
        return 2 * values

    values = tf.range(3)
    assert np.array_equal(python_calls.call(double, [values], tf.int32), [0, 2, 4])
    assert np.array_equal(tf.function(lambda given: python_calls.call(double, [given], tf.int32))(values), [0, 2, 4])


def test_a_process_ends_though_its_pipelines_call_python():
    """Its calls rest; and the iterator, whose buffer would take long to fill, is not waited for."""
    ended = subprocess.run([sys.executable, "-c", _ENDS_EARLY], capture_output=True, text=True, timeout=600)
    assert (ended.returncode, ended.stdout) == (0, "rests\n"), ended.stderr
