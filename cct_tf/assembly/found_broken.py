"""The images that a run found broken while it used them (--on_bad_image=skip), as rows for its record.

A row is a dict: "split", "place" in it, "reason", "position" (see `readers.broken.Finding`), and of an image folder
"path" below its root, "size" and "label", as they were when the run began.
"""

import dataclasses
import os

from cct_tf.data import label_kinds
from cct_tf.datasets.recorded_files import RecordedFiles
from cct_tf.readers.broken import Finding


def recorded_files(resolved):
    """`recorded_files.RecordedFiles` of a `resolved.Resolved`; None if the folder is read anew, or it is none."""
    if resolved is None or resolved.left_out is None:
        return None
    return RecordedFiles(resolved.left_out, resolved.found_broken)


def bearing(source, rows=()):
    """`source.Source` that bears broken images: those of the training split are replaced, others masked.

    Args:
        source: as it was opened.
        rows: those of the run so far.
    """
    splits = {}
    for name, split in source.splits.items():
        known = {row["place"]: _finding(row) for row in rows if row["split"] == name}
        way = "replace" if name == "train" else "mask"
        splits[name] = dataclasses.replace(split, reader=split.reader.tolerating(way, known))
    return dataclasses.replace(source, splits=splits)


def is_bearing(source):
    """Whether images of a source may be found broken and the run go on."""
    return any(split.reader.broken for split in source.splits.values())


def _finding(row):
    return Finding(row["reason"], row["position"])


def _row(split, place, finding):
    row = {"split": split.name, "place": place, "reason": finding.reason, "position": finding.position}
    if split.files is not None:
        file = split.files[place]
        row |= {"path": os.fsdecode(file.path), "size": file.size,
                "label": label_kinds.plain(split.labels[place])}
    return row


def rows(source, positions=None):
    """The rows of a source, by split and place: list.

    Args:
        source: of `bearing`, or any other: then there are none.
        positions: int, how many positions of the training order are done; without those that later ones asked for.
    """
    return [_row(split, place, finding) for split in source.splits.values() if split.reader.broken
            for place, finding in split.reader.broken.known.items()
            if positions is None or finding.position is None or finding.position < positions]


def add(source, found):
    """List rows that other workers found."""
    for row in found:
        source.splits[row["split"]].reader.broken.add(row["place"], _finding(row))


def listen(source, tell):
    """Call `tell(row)` for each image found from now on, before anything stands for it, in any thread."""
    for split in source.splits.values():
        if split.reader.broken:
            split.reader.broken.listen(lambda place, finding, split=split: tell(_row(split, place, finding)))
