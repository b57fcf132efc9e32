"""The checkpoints of a run: `python -m cct_tf.checkpoints --workdir=runs/quickstart [--verify] [--prune=N]`."""

import datetime
import json
import sys

from cct_tf.assembly import checks
from cct_tf.errors import UserError, storage_fault
from cct_tf.machine.console import Console
from cct_tf.runs import inventory
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import command, config, flags, measure

USAGE = """usage: python -m cct_tf.checkpoints --workdir=DIR [--verify] [--prune=N [--dry_run]] [--json]

Lists the checkpoints of a run of cct_tf.train and its best one; verifies their files; removes old ones. Starts no
TensorFlow."""

FIELDS = [
    config.FIELDS["workdir"],
    flags.command_field("verify", bool, False, "read every file and compare it with its checksum; exit status 2 if one "
                        "is damaged. Without it, run.json and the sizes of the other files are looked at"),
    flags.command_field("prune", int, None, "remove what is older than the newest N whole checkpoints, never best/, "
                        "and not while a run uses the folder", minimum=1),
    flags.command_field("dry_run", bool, False, "with --prune: show what would go, remove nothing"),
    command.JSON,
    config.FIELDS["debug"],
]


def _size(count):
    """Bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _state(entry, verified):
    if entry.damage:
        return f"damaged: {entry.damage}"
    whole = "whole" if verified else "complete"
    if entry.converted:
        return f"{whole}, converted by cct_tf.convert_torch, of no run"
    return f"{whole}, run finished" if entry.record.finished else whole


def _best(config, best):
    """The best evaluation so far in words."""
    name = measure.measure_of(config).shown
    return f"{'' if name == 'top1' else measure.NAMES[name] + ' '}{100 * best[name]:.2f}% (step {best['step']:,})"


def _table(entries, verified):
    """The entries as lines, one a checkpoint."""
    rows = [("", "step", "saved", "size", "evaluated", "best so far", "state")]
    for entry in entries:
        best = entry.record and entry.record.status.best
        rows.append((entry.kind, f"{entry.step:,}", f"{datetime.datetime.fromtimestamp(entry.saved):%Y-%m-%d %H:%M:%S}",
                     _size(entry.size), "-" if entry.damage else "yes" if entry.evaluated else "no",
                     _best(entry.record.config, best) if best else "-", _state(entry, verified)))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join("  ".join([*(f"{text:<{width}}" for text, width in zip(row[:6], widths, strict=True)), row[6]])
                     for row in rows)


def _as_dict(entry):
    saved = datetime.datetime.fromtimestamp(entry.saved, datetime.UTC)
    return {"kind": entry.kind, "path": str(entry.path), "step": entry.step,
            "saved": saved.isoformat(timespec="seconds"), "bytes": entry.size, "damage": entry.damage,
            "evaluated": entry.evaluated, "best": entry.record and entry.record.status.best,
            "finished": bool(entry.record and entry.record.finished), "converted": entry.converted}


def _prune(workdir, keep, dry_run, console):
    """Remove old checkpoints, or only find them; returns them, a list of Entry."""
    if dry_run:
        return inventory.superseded(inventory.take(workdir, contents=True), keep)
    workdir.create()  # it is there; this asks whether it can be written
    with workdir.locked(console.warn):
        old = inventory.superseded(inventory.take(workdir, contents=True), keep)
        inventory.remove(old)
    return old


def _work(values, console):
    workdir, dry_run = Workdir(values["workdir"]), values["dry_run"]
    if not inventory.take(workdir, contents=False):
        raise UserError(f"--workdir: expected a run with checkpoints, found none in {workdir.path}")
    old = _prune(workdir, values["prune"], dry_run, console) if values["prune"] else []
    entries = inventory.take(workdir, values["verify"])
    if values["json"]:
        print(json.dumps({"workdir": str(workdir.path), "verified": values["verify"],
                          "checkpoints": [_as_dict(entry) for entry in entries], "dry_run": dry_run,
                          "pruned": [str(entry.path) for entry in old]}))
    else:
        console.say(_table(entries, values["verify"]))
        for entry in old:
            console.say(f"{'would remove' if dry_run else 'removed'} {entry.path} ({_size(entry.size)})")
        if values["prune"] and not old:
            console.say("nothing to remove")
    damaged = [entry.damage for entry in entries if entry.damage and entry.kind != "set aside"]
    if values["verify"] and damaged:
        raise UserError(f"{workdir.path}: expected files as they were written, found {'; '.join(damaged)}")


def main(given):
    """List, verify and prune as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    checks.check_workdir(values["workdir"])
    if values["dry_run"] and not values["prune"]:
        raise UserError("--dry_run: expected together with --prune=N, found it alone")
    try:
        _work(values, Console(quiet=values["json"]))
    except OSError as error:
        if storage_fault(error):
            raise
        raise UserError(f"--workdir: expected a folder whose checkpoints can be read, and removed by --prune, found "
                        f"{error.filename} ({error.strerror})") from None


def run():
    """Entry point of `cct-checkpoints`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
