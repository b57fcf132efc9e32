"""The files of an image folder as a run began with them, whatever became of the broken ones since. No TensorFlow here.

With --on_bad_image=skip a run keeps its list of files: those that were broken when it began stay out, mended or not;
those that it found broken later stay in, changed or gone, for what stands for them follows from their places.
"""

import dataclasses
import os

import numpy as np

from cct_tf.data import files as files_lib


@dataclasses.dataclass(frozen=True)
class RecordedFiles:
    """What a run's record says of its files.

    Attributes:
        left_out: tuple of (path, reason) of those that the run began without; paths as `os.fsdecode` gives them,
            relative to the root.
        broken: tuple of dicts "split", "path", "size" and "label" of those found broken since: the images are
            read from disk then.
    """

    left_out: tuple
    broken: tuple

    def restored(self, tree, config):
        """`tree.Tree` of the folder now -> as it was; `config` is its DataConfig."""
        files, labels = dict(tree.files), dict(tree.labels)
        rows = {split: [] for split in files}
        for row in self.broken:
            held_out = config.validation_fraction and row["split"] == "validation"
            rows.get("train" if held_out else row["split"], []).append(row)  # or of a split that was not listed
        for split in files:
            files[split], labels[split] = self._restored(files[split], labels[split], rows[split])
        return dataclasses.replace(tree, files=files, labels=labels)

    def _restored(self, files, labels, rows):
        """Files and int32 labels of one split with some rows of `broken` as they were, without what was left out."""
        if not rows and not self.left_out:
            return files, labels
        paths = [os.fsencode(row["path"]) for row in rows]
        others = {*paths, *(os.fsencode(path) for path, _ in self.left_out)}
        kept = np.array([path not in others for path in files.paths.tolist()], bool)
        added = files_lib.Files(files_lib.bytes_array(paths), np.array([row["size"] for row in rows], np.int64),
                                np.zeros(len(rows), np.int64))
        files = files_lib.joined([files[kept], added])
        labels = np.concatenate([labels[kept], np.array([row["label"] for row in rows], np.int32)])
        order = np.argsort(files.paths, kind="stable")
        return files[order], labels[order]
