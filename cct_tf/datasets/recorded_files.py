"""The files of a folder or table as a run began with them, whatever became of the broken ones since. No TensorFlow.

With --on_bad_image=skip a run keeps its list of files: those that were broken when it began stay out, mended or not;
those that it found broken later stay in, changed or gone, for what stands for them follows from their places.
"""

import dataclasses
import os

import numpy as np

from cct_tf.datasets import files as files_lib


@dataclasses.dataclass(frozen=True)
class RecordedFiles:
    """What a run's record says of its files.

    Attributes:
        left_out: tuple of dicts "split", "path", "size", "label" and "reason" of those that the run began without.
            Paths are relative to the root, as `os.fsdecode` gives them; splits those of the folder, before any was held
            out.
        broken: tuple of dicts of the same keys of those found broken since: the images are read from disk then. Splits
            are those of the run.
    """

    left_out: tuple
    broken: tuple

    def restored(self, tree, config):
        """`tree.Tree` of the folder now -> as it was; `config` is its DataConfig."""
        files, labels = dict(tree.files), dict(tree.labels)
        rows = {split: [] for split in files}
        for row in (*self.left_out, *self.broken):
            held_out = config.holds_out and row["split"] == "validation"
            rows.get("train" if held_out else row["split"], []).append(row)  # or of a split that was not listed
        for split, found in rows.items():
            if found:
                files[split], labels[split] = _restored(files[split], labels[split], found)
        return dataclasses.replace(tree, files=files, labels=labels)

    def without_left_out(self, tree):
        """`tree.Tree` of `restored`, less what the run began without."""
        gone, files, labels = {os.fsencode(row["path"]) for row in self.left_out}, {}, {}
        for split, found in tree.files.items():
            kept = _are_not(found, gone)
            files[split], labels[split] = found[kept], tree.labels[split][kept]
        return dataclasses.replace(tree, files=files, labels=labels)


def _are_not(files, paths):
    """bool [n]: which of some Files have none of these paths (a set of bytes)."""
    return np.array([path not in paths for path in files.paths.tolist()], bool)


def _restored(files, labels, rows):
    """Files and labels of one split, with those of some rows as they were."""
    paths = [os.fsencode(row["path"]) for row in rows]
    kept = _are_not(files, set(paths))
    sizes, zeros = np.array([row["size"] for row in rows], np.int64), np.zeros(len(rows), np.int64)
    added = _as_listed(files[~kept], files_lib.Files(files_lib.bytes_array(paths), sizes, zeros))
    files = files_lib.joined([files[kept], added])
    labels = np.concatenate([labels[kept], np.array([row["label"] for row in rows], labels.dtype)])
    order = np.argsort(files.paths, kind="stable")
    return files[order], labels[order]


def _as_listed(listed, files):
    """Some Files with what a table says of them now; `listed` are those that are still there."""
    if listed.numbers is None:
        return files
    places = {path: place for place, path in enumerate(listed.paths.tolist())}
    found = np.array([places.get(path, len(listed)) for path in files.paths.tolist()])
    unlisted = files_lib.Files(files.paths[:1], files.sizes[:1], files.times[:1])  # what is known of those that went
    known = files_lib.joined([listed, unlisted])[found]
    return dataclasses.replace(known, paths=files.paths, sizes=files.sizes, times=files.times)
