"""Evaluate a trained network: `python -m cct_tf.evaluate --workdir=runs/quickstart`."""

import dataclasses
import json
import math
import pathlib
import sys

from cct_tf import checks, command, config, flags, runtime
from cct_tf.errors import UserError

_USAGE = """usage: python -m cct_tf.evaluate --workdir=DIR [--checkpoint=best|last|PATH] [--split=test] [--json]

Evaluates a run of cct_tf.train on one of its splits. The data set, the network and the preparation of the images are
those of the run."""

_MOST_CLASSES = 40  # rows of the table of classes

_FIELDS = [
    config.FIELDS["workdir"],
    flags.command_field("checkpoint", str, "best", "best, last, or the path of a checkpoint folder"),
    flags.command_field("split", str, "test", "which images", choices=("train", "validation", "test")),
    flags.command_field("json", bool, False, "print one JSON object on one line, and nothing else, on stdout"),
    *(config.FIELDS[name] for name in ("data_dir", "eval_batch_size", "num_replicas", "debug")),
]


def find_checkpoint(workdir, name):
    """The checkpoint folder that --checkpoint names.

    Args:
        workdir: `workdir.Workdir`.
        name: "best", "last" or a path.

    Returns:
        (pathlib.Path, run_record.Record).

    Raises:
        UserError: there is none, or it can't be read.
    """
    from cct_tf.training import run_record
    if name in ("best", "last"):
        folder = workdir.best if name == "best" else workdir.checkpoints
        found = run_record.list_checkpoints(folder)
        if not found:
            raise UserError(f"--workdir: expected a run with a {name} checkpoint, found none in {folder}")
        path = found[-1]
    else:
        path = pathlib.Path(name)
        if run_record.step_of(path) is None or not path.is_dir():
            raise UserError(f"--checkpoint: expected best, last or a checkpoint folder (step_...), found {name!r}")
    try:
        return path, run_record.read_record(path)
    except run_record.Unreadable as error:
        raise UserError(f"--checkpoint: expected a checkpoint that can be read, found it damaged ({error}); another is "
                        "named with --checkpoint=PATH") from None


def _show(console, path, split, result, class_names):
    console.say(f"{path}, {split} split: {result.examples:,} images")
    console.say(f"  top-1 {100 * result.top1:.2f}%   top-{min(5, result.num_classes)} {100 * result.top5:.2f}%   "
                f"balanced {100 * result.balanced_accuracy:.2f}%   loss {result.loss:.4f}")
    rows = list(zip(class_names, result.per_class, result.confusion.sum(axis=1), strict=True))
    if len(rows) > _MOST_CLASSES:
        rows = sorted((row for row in rows if row[2]), key=lambda row: row[1])[:_MOST_CLASSES]
        console.say(f"  the {len(rows)} worst of {len(class_names)} classes (all of them: --json)")
    width = max(len(name) for name, _, _ in rows)
    for name, accuracy, count in rows:
        shown = f"{100 * accuracy:6.2f}%" if count else "      -"
        console.say(f"  {name:<{width}} {shown}  of {count:,}")


def main(given):
    """Evaluate as the flags say."""
    from cct_tf.training.console import Console
    from cct_tf.training.workdir import Workdir
    values = {field.name: field.default for field in _FIELDS} | given
    checks.check_workdir(values["workdir"])
    runtime.check_backend()

    def choose():
        return find_checkpoint(Workdir(values["workdir"]), values["checkpoint"])

    path, record = choose()
    splits = record.resolved["num_examples"]
    if values["split"] not in splits:
        raise UserError(f"--split: expected one of {', '.join(splits)} (those of this run), found {values['split']!r}")
    changed = {name: given[name] for name in ("data_dir", "eval_batch_size") if name in given}
    changed |= {"num_replicas": None, "accumulate_steps": 1}  # the training batch need not fit these devices
    settings = config.from_dict(record.config | changed)
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, num_replicas=values["num_replicas"]))
    checks.check_config(settings)
    console = Console(quiet=values["json"])
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.training import evaluation
    result, class_names, path, record = evaluation.evaluate_checkpoint(settings, record, choose, values["split"],
                                                                       console)
    if values["json"]:
        print(json.dumps({"step": record.step, "split": values["split"], "examples": result.examples,
                          "top1": result.top1, "top5": result.top5, "loss": result.loss,
                          "balanced_accuracy": result.balanced_accuracy,
                          "per_class": {name: None if math.isnan(accuracy) else float(accuracy)
                                        for name, accuracy in zip(class_names, result.per_class, strict=True)},
                          "checkpoint": str(path)}))
        return
    _show(console, path, values["split"], result, class_names)


def run():
    """Entry point of `cct-evaluate`."""
    command.run(main, sys.argv[1:], _USAGE, _FIELDS)


if __name__ == "__main__":
    run()
