"""`found_broken_0.jsonl` of a work folder: what worker 0 of a run found broken, line by line, as it found it.

The checkpoints' records list the same. This file is for what was found since: killed before the next checkpoint, a run
goes on from the one before it and still knows which files may be changed or gone. No TensorFlow here.
"""

import contextlib
import json
import os
import threading

from cct_tf.runs.workdir import naming

_PATTERN = "found_broken_*.jsonl"


class FoundBrokenFile:
    """The file of one worker.

    Args:
        workdir: `workdir.Workdir`.
        worker: int.
        fingerprint: text, of the images that the rows are about.
    """

    def __init__(self, folder, worker, fingerprint):
        self._path, self._fingerprint = folder / _PATTERN.replace("*", str(worker)), fingerprint
        self._lock = threading.Lock()

    def add(self, row):
        """Write a row, a dict, so that it outlasts the process and the machine."""
        line = "\n" + json.dumps({"fingerprint": self._fingerprint} | row) + "\n"  # the line before may be torn
        with self._lock, naming(self._path), open(self._path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def read(folder, fingerprint):
    """The rows of all workers about the images with that fingerprint: list of dicts. A torn line is left out.

    Args:
        folder: pathlib.Path of the work folder; fingerprint: text.
    """
    found = []
    for path in sorted(folder.glob(_PATTERN)):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                row = json.loads(line)
                if row.pop("fingerprint", None) == fingerprint:
                    found.append(row)
    return found


def joined(*lists):
    """Rows of several lists: each image once, of its positions the first one; tuple of dicts."""
    found = {}
    for row in (row for each in lists for row in each):
        before = found.setdefault((row["split"], row["place"]), row)
        if None not in (before["position"], row["position"]) and row["position"] < before["position"]:
            found[row["split"], row["place"]] = before | {"position": row["position"]}
    return tuple(found.values())


def remove(folder):
    """Forget what was found; `folder` as for `read`."""
    for path in folder.glob(_PATTERN):
        path.unlink(missing_ok=True)
