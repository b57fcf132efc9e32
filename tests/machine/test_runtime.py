"""What a run computes on."""

import os
import subprocess

import pytest
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.machine import runtime


def test_a_single_gpu_is_divided_among_replicas(monkeypatch):
    """Each gets half of four fifths of the memory that is free. Faked: the tests see no GPU."""
    made, asked = {}, []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command) or subprocess.CompletedProcess(
        [], 0, stdout="80000\n"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda gpu: None)
    monkeypatch.setattr(tf.config, "set_logical_device_configuration", made.__setitem__)
    runtime._divide_gpu("gpu", 2)
    assert [part.memory_limit for part in made["gpu"]] == [32000, 32000]
    assert "--id=3" in asked[0]  # not that of the first GPU of the machine
    assert runtime.Devices(None, "GPU", 2, divided=True).description == "2 logical GPUs of one"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=""))
    with pytest.raises(UserError, match="--num_replicas: expected nvidia-smi"):
        runtime._divide_gpu("gpu", 2)


def test_a_gpu_is_divided_on_one_machine_alone(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    assert runtime.local_devices(2) == ("GPU", 2)
    with pytest.raises(UserError, match="--num_replicas: expected at most 1, the GPUs of this machine, found 2"):
        runtime.local_devices(2, cluster=object())


@pytest.mark.parametrize(("most", "expected"), [
    (2**40, [("mmap", 2**30), ("trim", 2**31 - 1)]),
    (2**25, [("mmap", 2**30), ("mmap", 2**25), ("trim", 2**31 - 1)]),  # glibc before 2.35
    (0, [("mmap", 2**30), ("mmap", 2**25)])])  # else the threshold of mmap would stay at 128 KiB
def test_the_c_library_is_asked_whether_it_keeps_large_arrays(most, expected, monkeypatch):
    asked = []

    class Libc:
        @staticmethod
        def mallopt(option, value):
            asked.append(({-3: "mmap", -1: "trim"}[option], value))
            return int(option == -1 or value <= most)

    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: Libc)
    runtime._keep_freed_memory()
    assert asked == expected


def test_a_gpu_gets_its_kernels_from_threads_of_its_own_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("TF_GPU_THREAD_MODE", raising=False)
    runtime.start_tensorflow()
    assert os.environ["TF_GPU_THREAD_MODE"] == "gpu_private"
    monkeypatch.setenv("TF_GPU_THREAD_MODE", "global")
    runtime.start_tensorflow()
    assert os.environ["TF_GPU_THREAD_MODE"] == "global"
