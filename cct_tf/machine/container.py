"""Cores and memory that this process may use: those of the machine, or less where a container limits them (Linux).

A container is a group of processes (cgroup), and groups are nested: the smallest limit on the way up counts. Version 1
has a tree of groups for each resource, version 2 one for all; a machine may have both. No TensorFlow.
"""

import math
import os
import pathlib

ROOT = pathlib.Path("/")  # tests put other files there
_UNLIMITED = 2**60  # bytes; version 1 writes about 2^63 where there is no limit


def num_cores():
    """Cores that this process may keep busy, at least 1. A quota of 2.5 cores counts as 3."""
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _groups("cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def free_memory():
    """Bytes that this process can still take before the system or a limit ends it; None where nothing tells."""
    found = [free for folder in _groups("memory") if (free := _room(folder)) is not None]
    available = _numbers(ROOT / "proc/meminfo").get("MemAvailable:")
    if available is not None:
        found.append(available * 1024)
    return max(0, min(found)) if found else None


def _groups(resource):
    """Folders of the groups that limit "cpu" or "memory", innermost first, of both versions."""
    paths = {}  # by the resources of a tree; version 2 has ""
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, resources, path = line.split(":", 2)
        paths |= dict.fromkeys(resources.split(","), path)
    found = []
    for line in _lines(ROOT / "proc/self/mountinfo"):
        # 31 23 0:28 /root/in/tree /mount/point rw ... - cgroup cgroup rw,memory
        place, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        name = {"cgroup2": "", "cgroup": resource}.get(kind)
        if name not in paths or (name and name not in options.strip().split(",")):
            continue
        top, mounted = place.split(" ")[3:5]
        found += _upward(ROOT / mounted.lstrip("/"), os.path.relpath(paths[name], top))
    return found


def _upward(top, path):
    """Folders from top/path up to `top`. Inside a container the path may be the host's; then only `top` is there."""
    steps = [] if path == "." or path.startswith("..") else path.split("/")
    return [top.joinpath(*steps[:count]) for count in range(len(steps), -1, -1)]


def _quota(folder):
    """Cores that a group may use, a float; None without a limit."""
    whole = _lines(folder / "cpu.max")  # "150000 100000", or "max 100000"
    quota, period = whole[0].split() if whole else [(_lines(folder / f"cpu.cfs_{name}_us") or ["max"])[0]
                                                    for name in ("quota", "period")]
    return None if "max" in (quota, period) or int(quota) <= 0 else int(quota) / int(period)


def _room(folder):
    """Bytes that a group may still take; None without a limit. The cache of files makes room by itself."""
    for limit, used, cache in (("memory.max", "memory.current", "inactive_file"),
                               ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
        values = [(_lines(folder / name) or ["max"])[0] for name in (limit, used)]
        if "max" not in values and int(values[0]) < _UNLIMITED:
            return int(values[0]) - int(values[1]) + _numbers(folder / "memory.stat").get(cache, 0)
    return None


def _numbers(path):
    """{name: int} of a file of lines "name number"."""
    pairs = [line.split()[:2] for line in _lines(path)]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(path):
    """The lines of a file of the kernel; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
