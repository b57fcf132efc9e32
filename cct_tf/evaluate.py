"""Evaluate a trained network: `python -m cct_tf.evaluate --workdir=runs/quickstart`."""

import dataclasses
import json
import os
import pathlib
import sys

from cct_tf import sizes
from cct_tf.assembly import checks, recorded_data, selection
from cct_tf.errors import UserError
from cct_tf.evaluation import report
from cct_tf.machine import compile_cache, gpus, memory, runtime
from cct_tf.machine.console import Console
from cct_tf.settings import command, config, flags

USAGE = """usage: python -m cct_tf.evaluate --workdir=DIR [--checkpoint=best|last|PATH] [--split=SPLIT]
           [--weights=auto] [--tta=none] [--output_dir=DIR] [--json]
       python -m cct_tf.evaluate --compare=WORKDIR_A,WORKDIR_B [--checkpoint=best|last] [--split=SPLIT] [--json]

Evaluates a run of cct_tf.train on one of its splits. The data set, the network and the preparation of the images are
those of the run. --compare asks whether one of two runs is better on the same images by more than chance."""

FIELDS = [
    config.FIELDS["workdir"],
    command.CHECKPOINT,
    flags.command_field("split", str, None, "which images; default: test where the run has such a split, else "
                        "validation", choices=("train", "validation", "test")),
    command.WEIGHTS,
    flags.command_field("tta", str, "none", "test-time augmentation, reported beside the plain result: flip, the image "
                        "and its mirror image; shifts, both, each also moved up-left and down-right; or none",
                        choices=("none", "flip", "shifts")),
    flags.command_field("tta_shift", int, 1, "pixels of --tta=shifts", minimum=1),
    flags.command_field("output_dir", str, None, "folder for the pictures SPLIT_STEP_confusion_matrix.png, "
                        "..._reliability.png (of several labels ..._classes.png instead) and ..._worst_mistakes.png; "
                        "made if there is none. Without it nothing is written. WORKDIR/plots will do", path=True),
    flags.command_field("mistakes", int, 40, "how many of the wrong predictions, those of the highest loss, "
                        "..._worst_mistakes.png and --json show", minimum=1, maximum=400),
    flags.command_field("compare", str, None, "two work folders, A,B, instead of --workdir: which images only one of "
                        "them gets right (of several labels, all of them at 0.5), and McNemar's test; with --tta, of "
                        "the averaged results", path=True),
    command.JSON,
    *(config.FIELDS[name] for name in (*config.PLACES, "eval_batch_size", "device", "num_replicas", "compile_cache",
                                   "debug")),
]


def _split(values, record):
    """Name of the split to evaluate a run on. Raises UserError if it has none of the name asked for."""
    splits = record.resolved.num_examples
    name = values["split"] or ("test" if "test" in splits else "validation")
    if name not in splits:
        raise UserError(f"--split: expected one of {', '.join(splits)} (those of this run), found {name!r}")
    return name


def _check(values, record):
    """Refuse what this run has not, before TensorFlow is imported."""
    _split(values, record)
    shortest = min(sizes.sides(record.resolved.image_size))
    if values["tta"] == "shifts" and values["tta_shift"] >= shortest:
        raise UserError(f"--tta_shift: expected less than the images' {shortest} pixels, found "
                        f"{values['tta_shift']}")


def _pair(values):
    """The two work folders of --compare."""
    folders = values["compare"].split(",")
    if len(folders) != 2 or not all(folders):
        raise UserError(f"--compare: expected two work folders, A,B, found {values['compare']!r}")
    if os.path.realpath(folders[0]) == os.path.realpath(folders[1]):
        raise UserError(f"--compare: expected two different work folders, found {folders[0]} twice")
    for name in ("workdir", "output_dir"):
        if values[name]:
            raise UserError(f"--{name}: expected none beside --compare, found {values[name]!r}")
    if values["checkpoint"] not in ("best", "last"):
        raise UserError(f"--checkpoint: expected best or last beside --compare, found {values['checkpoint']!r}")
    return folders


def _check_same(folders, records):
    """Refuse runs whose images or splits differ."""
    said = []
    for folder, record in zip(folders, records, strict=True):
        # Of a tree sorted by classes, the labels of a validation split are the same for every --split_seed.
        fold = record.config.get("fold")
        seed = record.config.get("split_seed", 0) if record.config.get("validation_fraction") or fold else None
        counts = ", ".join(f"{name} {count:,}" for name, count in record.resolved.num_examples.items())
        said.append((f"fingerprint {record.resolved.fingerprint[:12]}, {counts}"
                     + (f", --fold={fold}" if fold else "")
                     + (f", --split_seed={seed}" if seed is not None else ""), folder))
    (first, a), (second, b) = said
    if first != second:
        raise UserError(f"--compare: expected two runs on the same images and splits, found {a} ({first}) and {b} "
                        f"({second})")


def _select(workdir, values, given, stream):
    """The `selection.Selection` of a work folder, judged, with the settings to evaluate it by."""
    checks.check_workdir(workdir)
    changed = {name: given[name] for name in (*config.PLACES, "eval_batch_size") if name in given}
    changed["workdir"] = workdir
    selected = selection.select(workdir, values["checkpoint"], values["weights"], changed=changed)
    _check(values, selected.record)
    run = dataclasses.replace(selected.settings.run, num_replicas=values["num_replicas"])
    settings = dataclasses.replace(selected.settings, run=run)
    part = recorded_data.part_of(selected.record.resolved, settings, (_split(values, selected.record),))
    checks.check_config(settings, part, stream)
    return dataclasses.replace(selected, settings=settings)


def _evaluate(selected, values, console):
    from cct_tf.evaluation import evaluator
    settings = selected.settings
    with memory.named_when_out(memory.EVALUATION, settings.run.eval_batch_size):
        return evaluator.evaluate_checkpoint(settings, selected.record, selected.find, values["split"], console,
                                             weights=values["weights"], tta=values["tta"],
                                             tta_shift=values["tta_shift"])


def _draw(evaluated, rows, values, console):
    """Write the pictures of --output_dir; returns their paths."""
    from cct_tf.evaluation import drawing, mistakes
    from cct_tf.evaluation.calibration import calibrate
    from cct_tf.pictures import plots
    result, loaded, split = evaluated.plain, evaluated.loaded, values["split"]
    title = f"{loaded.path}, {loaded.weights} weights, {split}: {result.examples:,} images"
    start = f"{split}_{loaded.path.name}{'_raw' * (loaded.record.keeps_average and loaded.weights == 'raw')}"
    pictures = drawing.figures(result, evaluated.class_names, title)
    said = "the classes, those that were said at 0.5"
    if loaded.record.config.get("task", "single") == "single":
        pictures["reliability"] = plots.reliability_figure(calibrate(result.confidences, result.is_right), title)
        said = "the class, the prediction with its probability"
    if len(rows):
        wrong = int((~result.is_right).sum())
        pictures["worst_mistakes"] = mistakes.sheet(
            evaluated, rows, f"{title}. The {len(rows)} worst of {wrong:,} mistakes: {said}, the loss, the "
            "place of the image in the split")
    paths = [pathlib.Path(values["output_dir"]) / f"{start}_{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        plots.save(plots.as_array(figure), path)
        console.say(f"wrote {path}")
    if not len(rows):
        console.say("no mistakes to show")
    return [str(path) for path in paths]


def _report(evaluated, values, console):
    from cct_tf.evaluation import mistakes
    for line in report.lines(evaluated, values["split"], values["tta"]):
        console.say(line)
    rows = mistakes.worst(evaluated.plain, values["mistakes"])
    pictures = _draw(evaluated, rows, values, console) if values["output_dir"] else []
    shown = [(row, evaluated.split.reader.origin(evaluated.plain.place_of(row))) for row in rows]
    return report.as_dict(evaluated, values["split"], values["tta"], shown) | {"pictures": pictures}


def _compare(folders, chosen, values, console):
    results = []
    for folder, one in zip(folders, chosen, strict=True):
        evaluated = _evaluate(one, values, console)
        results.append((folder, evaluated.loaded, evaluated.averaged or evaluated.plain))
    found = report.compared(results, values["split"]) | {"tta": values["tta"]}
    for line in report.compared_lines(found):
        console.say(line)
    return found


def evaluate(given):
    """Evaluate as the flags say; returns the dict that --json prints."""
    values = {field.name: field.default for field in FIELDS} | given
    folders = _pair(values) if values["compare"] else [values["workdir"]]
    checks.check_workdir(folders[0])
    runtime.check_backend()
    gpus.choose(values["device"])
    compile_cache.check(values["compile_cache"])
    console = Console(quiet=values["json"])
    chosen = [_select(folder, values, given, console.stream) for folder in folders]
    if values["compare"]:
        _check_same(folders, [one.record for one in chosen])
    if values["output_dir"]:
        checks.make_output_dir("--output_dir", values["output_dir"])
    is_asked, values = values["split"] is not None, values | {"split": _split(values, chosen[0].record)}
    if values["split"] == "validation" and not is_asked:
        console.say("no test split in this run: on its validation split, by which the best checkpoint was chosen")
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow(values["compile_cache"], console.warn)
        from cct_tf.evaluation import evaluator  # noqa: F401, counted as a part of the start
    if values["compare"]:
        return _compare(folders, chosen, values, console)
    return _report(_evaluate(chosen[0], values, console), values, console)


def main(given):
    """Evaluate as the flags say, for a person or a program."""
    found = evaluate(given)
    if given.get("json"):
        print(json.dumps(found))


def run():
    """Entry point of `cct-evaluate`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
