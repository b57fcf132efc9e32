"""The last fault of a worker's hardware, kept in the work folder: the same again is no accident. No TensorFlow here.

    .hardware_fault_0.json    of worker 0: {"name": "NCCL", "steps": [500, 512]}

A fault that comes again at the same step, after the same command has tried once, would come for ever. Then the run ends
with status 1, and neither Slurm nor Kubernetes tries again. A chunk of steps fails as a whole, and where chunks end is
a matter of time: it is the same step if the chunks have one in common.
"""

import contextlib
import json

from cct_tf.errors import HardwareFault, hardware_fault


def path_in(folder, worker):
    """pathlib.Path of the file of a worker, int; `folder` is the work folder's pathlib.Path."""
    return folder / f".hardware_fault_{worker}.json"


@contextlib.contextmanager
def named(path, steps):
    """Turn a fault of the hardware in the block into a HardwareFault, and remember it.

    Args:
        path: of `path_in`; None remembers nothing.
        steps: function -> (first, last), the steps in work, both included.

    Raises:
        HardwareFault: with status 75; with 1 if the file tells of the same fault at the same step.
    """
    try:
        yield
    except Exception as error:
        fault = hardware_fault(error)
        if fault is None:
            raise
        name, line = fault
        first, last = steps()
        if _is_same(path, name, first, last):
            raise HardwareFault(f"{line}; it failed alike at this step (one of {first:,} to {last:,}) the last time: "
                                "not tried again by itself", is_repeated=True) from error
        _write(path, {"name": name, "steps": [first, last]})
        raise HardwareFault(f"{line}; the same command goes on from the last checkpoint") from error


def _is_same(path, name, first, last):
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return found.get("name") == name and found["steps"][0] <= last and first <= found["steps"][1]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False  # none, or half of one


def _write(path, fault):
    if path is not None:
        with contextlib.suppress(OSError):  # the fault is what has to be said
            path.write_text(json.dumps(fault), encoding="utf-8")
