"""What checkpoints a work folder has, in which state, and which of them may go. No TensorFlow here."""

import dataclasses
import pathlib

from cct_tf.runs import checkpoint, run_record


@dataclasses.dataclass(frozen=True)
class Entry:
    """One checkpoint folder.

    Attributes:
        kind: "checkpoint", "best", or "set aside" (one that a start found damaged).
        path: pathlib.Path.
        step: int, of its name.
        saved: seconds since 1970 at which its oldest file was written.
        size: bytes of its files; what best/ shares with checkpoints/ by hard links is counted in both.
        record: `run_record.Record`, or None if it is damaged.
        damage: which file is damaged or missing and how, or None.
    """

    kind: str
    path: pathlib.Path
    step: int
    saved: float
    size: int
    record: run_record.Record | None
    damage: str | None

    @property
    def evaluated(self):
        """Whether this very state was evaluated."""
        return self.record is not None and self.record.status.last_evaluated_step == self.step > 0

    @property
    def converted(self):
        """Whether these are weights from elsewhere (`converted_run`): a run's best checkpoint knows its evaluation."""
        return self.kind == "best" and self.record is not None and self.record.status.best is None


def _entry(kind, path, contents):
    """The Entry of a folder, or None if it has gone meanwhile: a run removes its old ones."""
    try:
        found = [file.stat() for file in path.iterdir()] or [path.stat()]
    except FileNotFoundError:
        return None
    record, damage = None, None
    try:
        record = run_record.read_record(path, contents)
    except run_record.Unreadable as error:
        if not path.is_dir():
            return None
        damage = str(error)
    step = run_record.step_of(path.stem if kind == "set aside" else path)
    return Entry(kind, path, step, min(stat.st_mtime for stat in found), sum(stat.st_size for stat in found), record,
                 damage)


def take(workdir, contents):
    """The checkpoints of a work folder, those set aside, and the best.

    Args:
        workdir: `workdir.Workdir`.
        contents: bool, compare every file with its checksum; False looks at run.json and at the others' sizes.

    Returns:
        list of Entry, each kind by step.
    """
    found = [("checkpoint", path) for path in run_record.list_checkpoints(workdir.checkpoints)]
    found += [("set aside", path) for path in run_record.list_set_aside(workdir.checkpoints)]
    found += [("best", path) for path in run_record.list_checkpoints(workdir.best)]
    return [entry for kind, path in found if (entry := _entry(kind, path, contents))]


def superseded(entries, keep):
    """Those older than the newest `keep` whole checkpoints; none while there are fewer. Never the best.

    Args:
        entries: list of Entry, of `take` with contents.
        keep: int, at least 1. Damaged ones don't count, or a run could lose the last that it can go on from.

    Returns:
        list of Entry.
    """
    whole = sorted(entry.step for entry in entries if entry.kind == "checkpoint" and not entry.damage)
    if len(whole) < keep:
        return []
    return [entry for entry in entries if entry.kind != "best" and entry.step < whole[-keep]]


def remove(entries):
    """Delete checkpoints; the lock of their work folder must be held."""
    for entry in entries:
        checkpoint.remove(entry.path)
