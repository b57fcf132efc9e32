"""Evaluate a trained network: `python -m cct_tf.evaluate --workdir=runs/quickstart`."""

import dataclasses
import json
import math
import sys

from cct_tf import checks, command, compile_cache, config, flags, runtime
from cct_tf.errors import UserError
from cct_tf.training import memory, run_record
from cct_tf.training.console import Console
from cct_tf.training.workdir import Workdir

_USAGE = """usage: python -m cct_tf.evaluate --workdir=DIR [--checkpoint=best|last|PATH] [--split=test] [--weights=auto]
           [--tta=none] [--json]

Evaluates a run of cct_tf.train on one of its splits. The data set, the network and the preparation of the images are
those of the run."""

_MOST_CLASSES = 40  # rows of the table of classes

_FIELDS = [
    config.FIELDS["workdir"],
    flags.command_field("checkpoint", str, "best", "best, last, or the path of a checkpoint folder"),
    flags.command_field("split", str, "test", "which images", choices=("train", "validation", "test")),
    flags.command_field("weights", str, "auto", "raw, ema (their moving average), or auto: ema where the run kept one",
                        choices=("auto", "raw", "ema")),
    flags.command_field("tta", str, "none", "test-time augmentation, reported beside the plain result: flip, the image "
                        "and its mirror image; shifts, both, each also moved up-left and down-right; or none",
                        choices=("none", "flip", "shifts")),
    flags.command_field("tta_shift", int, 1, "pixels of --tta=shifts", minimum=1),
    flags.command_field("json", bool, False, "print one JSON object on one line, and nothing else, on stdout"),
    *(config.FIELDS[name] for name in ("data_dir", "eval_batch_size", "num_replicas", "compile_cache", "debug")),
]


def _accuracy(result):
    return (f"top-1 {100 * result.top1:.2f}%   top-{min(5, result.num_classes)} {100 * result.top5:.2f}%   "
            f"loss {result.loss:.4f}")


def _show(console, evaluated, split, tta):
    result, loaded, class_names = evaluated.plain, evaluated.loaded, evaluated.class_names
    console.say(f"{loaded.path}, {'EMA' if loaded.weights == 'ema' else 'raw'} weights, {split} split: "
                f"{result.examples:,} images")
    console.say(f"  {_accuracy(result)}   balanced {100 * result.balanced_accuracy:.2f}%")
    if evaluated.averaged:
        console.say(f"  with test-time augmentation ({tta}, {evaluated.num_views} views):")
        console.say(f"  {_accuracy(evaluated.averaged)}")
    rows = list(zip(class_names, result.per_class, result.confusion.sum(axis=1), strict=True))
    if len(rows) > _MOST_CLASSES:
        rows = sorted((row for row in rows if row[2]), key=lambda row: row[1])[:_MOST_CLASSES]
        console.say(f"  the {len(rows)} worst of {len(class_names)} classes (all of them: --json)")
    width = max(len(name) for name, _, _ in rows)
    for name, accuracy, count in rows:
        shown = f"{100 * accuracy:6.2f}%" if count else "      -"
        console.say(f"  {name:<{width}} {shown}  of {count:,}")


def _as_json(evaluated, split, tta):
    result, loaded = evaluated.plain, evaluated.loaded
    found = {"step": loaded.record.step, "split": split, "weights": loaded.weights, "examples": result.examples,
             "top1": result.top1, "top5": result.top5, "loss": result.loss,
             "balanced_accuracy": result.balanced_accuracy,
             "per_class": {name: None if math.isnan(accuracy) else float(accuracy)
                           for name, accuracy in zip(evaluated.class_names, result.per_class, strict=True)},
             "checkpoint": str(loaded.path)}
    if evaluated.averaged:
        averaged = evaluated.averaged
        found["tta"] = {"kind": tta, "views": evaluated.num_views, "top1": averaged.top1, "top5": averaged.top5,
                        "loss": averaged.loss}
    return json.dumps(found)


def _check(values, record):
    """Refuse what this run has not, before TensorFlow is imported."""
    splits = record.resolved["num_examples"]
    if not splits:
        raise UserError(f"--workdir: expected a run with a data set, found weights that were converted without one in "
                        f"{values['workdir']}; cct_tf.convert_torch with --dataset adds it")
    if values["split"] not in splits:
        raise UserError(f"--split: expected one of {', '.join(splits)} (those of this run), found {values['split']!r}")
    run_record.choose_weights(record, values["weights"])
    if values["tta"] == "shifts" and values["tta_shift"] >= record.resolved["image_size"]:
        raise UserError(f"--tta_shift: expected less than the images' {record.resolved['image_size']} pixels, found "
                        f"{values['tta_shift']}")


def main(given):
    """Evaluate as the flags say."""
    values = {field.name: field.default for field in _FIELDS} | given
    checks.check_workdir(values["workdir"])
    runtime.check_backend()
    compile_cache.check(values["compile_cache"])

    def choose():
        return run_record.find_checkpoint(Workdir(values["workdir"]), values["checkpoint"])

    _, record = choose()
    _check(values, record)
    changed = {name: given[name] for name in ("data_dir", "eval_batch_size") if name in given}
    changed |= {"num_replicas": None, "accumulate_steps": None}  # the training batch need not fit these devices
    settings = config.from_dict(record.config | changed)
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, num_replicas=values["num_replicas"]))
    checks.check_config(settings)
    console = Console(quiet=values["json"])
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow(values["compile_cache"], console.warn)
        from cct_tf.training import evaluation
    with memory.named_when_out(memory.EVALUATION, settings.run.eval_batch_size):
        evaluated = evaluation.evaluate_checkpoint(settings, record, choose, values["split"], console,
                                                   weights=values["weights"], tta=values["tta"],
                                                   tta_shift=values["tta_shift"])
    if values["json"]:
        print(_as_json(evaluated, values["split"], values["tta"]))
    else:
        _show(console, evaluated, values["split"], values["tta"])


def run():
    """Entry point of `cct-evaluate`."""
    command.run(main, sys.argv[1:], _USAGE, _FIELDS)


if __name__ == "__main__":
    run()
