"""Runs side by side: `python -m cct_tf.compare runs/a runs/b [--csv=FILE] [--plot=FILE.png]`."""

import csv
import functools
import json
import os
import pathlib
import sys

from cct_tf.assembly import checks
from cct_tf.errors import UserError
from cct_tf.machine.console import Console
from cct_tf.runs import side_by_side as runs_lib
from cct_tf.runs.workdir import naming
from cct_tf.settings import command, config, flags, measure

USAGE = """usage: python -m cct_tf.compare WORKDIR ... [--csv=FILE.csv] [--plot=FILE.png] [--json]

Shows runs of cct_tf.train side by side: best, last and test accuracy (or the metric that chose the best, such as mAP of
several labels), images/s, and the flags in which they differ.
Runs that differ by --seed or --fold alone are a group, with the mean and the sample standard deviation of those that
finished.
Reads run.json, config.cfg and metrics.jsonl; starts no TensorFlow."""

FIELDS = [
    flags.command_field("csv", str, None, "write a table with a row for each run too, a file that ends in .csv",
                        path=True),
    flags.command_field("plot", str, None, "draw evaluation accuracy and training loss over the epochs, a colour for "
                        "each group, into a file that ends in .png", path=True),
    command.JSON,
    config.FIELDS["debug"],
]
_KINDS = ("best", "last", "test")


def _value(run, kind, name):
    """A metric of the "best", "last" or "test" evaluation of a run, or None."""
    return (getattr(run, kind) or {}).get(name)


def _shown_metrics(runs):
    """The metrics that the table shows of some runs, see `measure.Measure.shown`; "top1" where there are no others."""
    return list(dict.fromkeys(run.measure.shown for run in runs)) or ["top1"]


def _measures(runs):
    """{name: function of a run -> float or None} of what is summed up over groups."""
    found = {f"{kind}_{name}": functools.partial(_value, kind=kind, name=name)
             for name in _shown_metrics(runs) for kind in _KINDS}
    return found | {"images_per_second": lambda run: run.images_per_second}


def _shown(value):
    if value is None or value == ():
        return "default"
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value):
    return f"{100 * value:.2f}%" if value is not None else "-"


def _settings(group):
    """The flags that are a group's own, or what says more."""
    text = " ".join(f"{name}={_shown(value)}" for name, value in group.settings.items())
    return text or (group.runs[0].workdir if len(group.runs) == 1 else "the same flags")


def _aligned(rows, left):
    """Rows of strings as lines; the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" if column < left else f"{text:>{width}}"
                      for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def _table(groups):
    with_folds = any(run.fold for group in groups for run in group.runs)
    rows = [("run", "group", "state", "seed", *["fold"] * with_folds, "steps", "best", "at step", "loss", "last",
             "test", "images/s")]
    for number, group in enumerate(groups, 1):
        for run in group.runs:
            best = run.best or {}
            rows.append((run.workdir, str(number), run.state, "?" if run.seed is None else str(run.seed),
                         *[run.fold or "-"] * with_folds,
                         f"{run.step:,}" + (f"/{run.total_steps:,}" if run.total_steps else ""),
                         _percent(best.get(run.measure.shown)), f"{best['step']:,}" if best else "-",
                         f"{best['loss']:.4f}" if best.get("loss") is not None else "-",
                         *(_percent(_value(run, kind, run.measure.shown)) for kind in ("last", "test")),
                         f"{run.images_per_second:,.0f}" if run.images_per_second else "-"))
    return _aligned(rows, left=3)


def _spread(summary):
    if not summary["count"]:
        return "-"
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.2f}"
    return f"{_percent(summary['mean'])}{spread} (n={summary['count']})"


def _group_table(groups):
    rows = [("group", "runs", "best: mean ± std", "last", "test", "flags")]
    for number, group in enumerate(groups, 1):
        name = group.runs[0].measure.shown
        spreads = [_spread(group.summary(functools.partial(_value, kind=kind, name=name))) for kind in _KINDS]
        rows.append((str(number), str(len(group.runs)), *spreads, _settings(group)))
    return _aligned(rows, left=6)


def _notes(runs):
    """Lines on what makes the table say less than it seems to."""
    notes = [f"{run.workdir}: {note}" for run in runs for note in run.notes]
    shown, by = _shown_metrics(runs), dict.fromkeys(run.measure for run in runs)
    if shown != ["top1"]:
        notes.append("best, last and test are " + ", ".join(measure.NAMES[name] for name in shown)
                     + (", each run's own: these figures can't be compared" if len(shown) > 1 else ""))
    if any(each.name == "loss" for each in by):
        notes.append("the best is the checkpoint of the lowest loss: " + ", ".join(
            run.workdir for run in runs if run.measure.name == "loss"))
    for name in runs_lib.differing(runs, how=True):
        notes.append(f"--{name} (changes no result): "
                     + ", ".join(f"{_shown(run.config[name])} {run.workdir}" for run in runs if run.config))
    data = {}
    for run in runs:
        data.setdefault(run.data, []).append(run)
    data.pop(None, None)
    if len(data) > 1:
        kinds = [f"{members[0].evaluated_on} split of {members[0].config['dataset']}, fingerprint {key[:12]}: "
                 + ", ".join(run.workdir for run in members) for key, members in data.items()]
        notes.append(f"other images or splits, so these figures can't be compared: {'; '.join(kinds)}")
    return notes


def _missing_folds(groups):
    """Lines on groups that are no whole cross-validation yet."""
    notes = []
    for number, group in enumerate(groups, 1):
        missing, count = group.missing_folds
        if missing:
            notes.append(f"group {number} has no finished run of fold {', '.join(map(str, missing))} of {count}")
    return notes


def _as_dicts(groups):
    """(rows of the runs, rows of the groups) as dicts."""
    runs = [run for group in groups for run in group.runs]
    fields = runs_lib.differing(runs, how=False) + runs_lib.differing(runs, how=True)
    rows = []
    for number, group in enumerate(groups, 1):
        for run in group.runs:
            rows.append({"workdir": run.workdir, "group": number, "state": run.state, "seed": run.seed,
                         "fold": run.fold, "step": run.step, "total_steps": run.total_steps,
                         "evaluated_on": run.evaluated_on, "best": run.best, "last": run.last, "test": run.test,
                         "images_per_second": run.images_per_second, "fingerprint": run.fingerprint,
                         "config": {name: run.config and run.config[name] for name in fields},
                         "notes": list(run.notes)})
    return rows, [{"group": number, "runs": [run.workdir for run in group.runs], "config": group.settings,
                   **{name: group.summary(get) for name, get in _measures(runs).items()}}
                  for number, group in enumerate(groups, 1)]


def _write_csv(path, rows, groups, runs):
    """A row for each run; what a run has not is empty. The figures of its group stand in each of its rows."""
    flat, metrics = [], dict.fromkeys(("step", *(name for run in runs for name in run.measure.kept)))
    for row in rows:
        of_group = groups[row["group"] - 1]
        flat.append({name: value for name, value in row.items() if not isinstance(value, (dict, list)) and
                     name not in ("best", "last", "test")}
                    | {f"{kind}_{part}": (row[kind] or {}).get(part) for kind in ("best", "last", "test")
                       for part in metrics}
                    | {f"group_{name}_{part}": of_group[name][part] for name in _measures(runs)
                       for part in ("mean", "std", "count")}
                    | {f"--{name}": _shown(value) for name, value in row["config"].items()})
    with naming(path), open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)


def _plot(path, groups):
    from cct_tf.pictures import plots
    labels = []
    for number, group in enumerate(groups, 1):
        count = f" ({len(group.runs)} runs)" if len(group.runs) > 1 else ""
        labels.append((f"{number}: {_settings(group)}{count}", group.runs))
    plots.save(plots.as_array(plots.comparison_figure(labels)), pathlib.Path(path))


def _check(values):
    folders = values["workdirs"]
    if not folders:
        raise UserError("WORKDIR: expected the folders of runs, found none")
    seen = {}
    for folder in folders:
        real = os.path.realpath(folder)
        if real in seen:
            raise UserError(f"WORKDIR: expected each run once, found {seen[real]} and {folder}")
        seen[real] = folder
    for name in ("csv", "plot"):
        if values[name]:
            checks.check_output(f"--{name}", values[name], {"csv": ".csv", "plot": ".png"}[name])


def main(given):
    """Compare as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    _check(values)
    runs = [runs_lib.read(folder) for folder in values["workdirs"]]
    groups, console = runs_lib.group(runs), Console(quiet=values["json"])
    rows, group_rows = _as_dicts(groups)
    notes = _notes(runs) + _missing_folds(groups)
    if values["json"]:
        print(json.dumps({"runs": rows, "groups": group_rows, "notes": notes}))
    for line in [*_table(groups), "", *_group_table(groups), *([""] if notes else []), *notes]:
        console.say(line)
    for name, write in (("csv", lambda path: _write_csv(path, rows, group_rows, runs)),
                        ("plot", lambda path: _plot(path, groups))):
        if values[name]:
            write(values[name])
            console.say(f"wrote {values[name]}")
    if values["plot"] and not any(run.curve(run.measure.shown) or run.curve("loss") for run in runs):
        console.warn(f"{values['plot']}: no run has curves to draw")


def run():
    """Entry point of `cct-compare`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS, positional="workdirs")


if __name__ == "__main__":
    run()
