"""Cores and memory of a container, told by files that are faked here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cct_tf.machine import container

REPO = Path(__file__).resolve().parents[2]
GIB = 2**30
V2 = {"proc/self/cgroup": "0::/pod/box\n",
      "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"}
V1 = {"proc/self/cgroup": "9:name=systemd:/\n4:memory:/pod/box\n1:cpu,cpuacct:/pod\n0::/\n",
      "proc/self/mountinfo": "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                             "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                             "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
                             "20 31 0:5 / /proc rw - proc proc rw\n"}
MEMINFO = {"proc/meminfo": "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n"}  # 32 GiB are free


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that puts files, a dict of texts by path, below the root that is looked at."""
    monkeypatch.setattr(container, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    def put(*parts):
        for path, text in [pair for part in parts for pair in part.items()]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text, encoding="utf-8")

    return put


def _memory2(folder, limit, used, cache=0):
    return {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{used}\n",
            f"{folder}/memory.stat": f"anon 1\ninactive_file {cache}\n"}


def _memory1(folder, limit, used, cache=0):
    return {f"{folder}/memory.limit_in_bytes": f"{limit}\n", f"{folder}/memory.usage_in_bytes": f"{used}\n",
            f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {cache}\n"}


def _quota1(folder, quota, period=100_000):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


CG = "sys/fs/cgroup"
MEMORY = {
    "a machine": ([MEMINFO], 32 * GIB),
    "nothing tells": ([], None),
    "version 2": ([MEMINFO, V2, _memory2(f"{CG}/pod/box", 4 * GIB, 3 * GIB, GIB)], 2 * GIB),
    "version 2, the parent's is less": (
        [MEMINFO, V2, _memory2(f"{CG}/pod/box", 8 * GIB, GIB), _memory2(f"{CG}/pod", 4 * GIB, GIB)], 3 * GIB),
    "version 2, no limit": ([MEMINFO, V2, _memory2(f"{CG}/pod/box", "max", GIB)], 32 * GIB),
    "version 2, the machine has less": ([MEMINFO, V2, _memory2(f"{CG}/pod/box", 64 * GIB, 0)], 32 * GIB),
    "version 2, namespace": ([MEMINFO, V2, {"proc/self/cgroup": "0::/\n"}, _memory2(CG, 4 * GIB, GIB)], 3 * GIB),
    "version 2, full": ([MEMINFO, V2, _memory2(f"{CG}/pod/box", GIB, 2 * GIB)], 0),
    "version 1": ([MEMINFO, V1, _memory1(f"{CG}/memory/pod/box", 4 * GIB, 2 * GIB, GIB)], 3 * GIB),
    "version 1, the parent's is less": (
        [MEMINFO, V1, _memory1(f"{CG}/memory/pod/box", 2**63 - 4096, GIB), _memory1(f"{CG}/memory", 5 * GIB, 0)],
        5 * GIB),
    "version 1, no limit": ([MEMINFO, V1, _memory1(f"{CG}/memory/pod/box", 2**63 - 4096, GIB)], 32 * GIB),
    "version 1, of a container without a namespace": (  # what is mounted is the group itself
        [MEMINFO, V1, {"proc/self/cgroup": "4:memory:/docker/5\n", "proc/self/mountinfo":
                       "35 31 0:32 /docker/5 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
         _memory1(f"{CG}/memory", 4 * GIB, GIB)], 3 * GIB),
    "version 1, a path of the host": (
        [MEMINFO, V1, {"proc/self/cgroup": "4:memory:/../../other\n"}, _memory1(f"{CG}/memory", 4 * GIB, GIB)],
        3 * GIB),
}


@pytest.mark.parametrize("case", MEMORY)
def test_free_memory_is_the_least_of_the_machines_and_all_limits(files, case):
    parts, expected = MEMORY[case]
    files(*parts)
    assert container.free_memory() == expected


CORES = {
    "a machine": ([], 16),
    "version 2": ([V2, {f"{CG}/pod/box/cpu.max": "400000 100000\n"}], 4),
    "version 2, a part of a core": ([V2, {f"{CG}/pod/box/cpu.max": "250000 100000\n"}], 3),
    "version 2, less than a core": ([V2, {f"{CG}/pod/box/cpu.max": "20000 100000\n"}], 1),
    "version 2, no limit": ([V2, {f"{CG}/pod/box/cpu.max": "max 100000\n"}], 16),
    "version 2, the parent's is less": (
        [V2, {f"{CG}/pod/box/cpu.max": "800000 100000\n", f"{CG}/pod/cpu.max": "200000 100000\n"}], 2),
    "version 1": ([V1, _quota1(f"{CG}/cpu,cpuacct/pod", 150_000, 50_000)], 3),
    "version 1, no limit": ([V1, _quota1(f"{CG}/cpu,cpuacct/pod", -1)], 16),
    "more than the machine has": ([V2, {f"{CG}/pod/box/cpu.max": "9900000 100000\n"}], 16),
}


@pytest.mark.parametrize("case", CORES)
def test_cores_are_the_least_of_the_affinity_and_all_quotas(files, case):
    parts, expected = CORES[case]
    files(*parts)
    assert container.num_cores() == expected


_PROGRAM = """
import os, pathlib, sys
os.sched_getaffinity = lambda _: set(range(16))
from cct_tf.machine import container, runtime
container.ROOT = pathlib.Path(sys.argv[1])
runtime.start_tensorflow()
import tensorflow as tf
from cct_tf.readers import tensors
tf.constant(1) + 1
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads(),
      runtime.num_threads(), tensors.num_threads())
"""


@pytest.mark.parametrize(("parts", "given", "expected"), [
    ([V2, {f"{CG}/pod/box/cpu.max": "300000 100000\n"}], {}, "3 3 3 3"),
    ([V2, {f"{CG}/pod/box/cpu.max": "300000 100000\n"}], {"TF_NUM_INTRAOP_THREADS": "5"}, "0 3 5 3"),
    ([], {}, "0 0 16 16"),  # without a quota TensorFlow is left alone
])
def test_tensorflow_starts_no_more_threads_than_the_container_has_cores(files, tmp_path, parts, given, expected):
    files(*parts)
    env = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"} | given
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], cwd=REPO, text=True, capture_output=True,
                          check=True, env=env | {"PYTHONPATH": str(REPO)})
    assert done.stdout.strip() == expected
