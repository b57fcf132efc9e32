"""What a sweep found, as text. No times in it: a sweep that was killed ends with the same table."""

import math

from cct_tf.settings.measure import NAMES, number

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def shown(value):
    """A drawn value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values_text(values):
    """Drawn values as flags, short."""
    return " ".join(f"{name}={shown(value)}" for name, value in values.items())


def _figure(metric, value):
    return "-" if value is None or math.isnan(value) else number(metric, value)


def aligned(rows, left=0):
    """Rows of strings as lines; the columns in `left` (a set, from 0) to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" if column in left else f"{text:>{width}}"
                      for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def lines(rows, space, metric):
    """The table of the trials: list of lines.

    Args:
        rows: list of `results.Row`, in their order.
        space: tuple of `space.Range`.
        metric: name of what the best is chosen by.
    """
    names = [each.name for each in space]
    titles = ("rank", "trial", "state", "evaluations", f"best {NAMES[metric]}", "at evaluation", *names)
    table = [titles]
    for rank, row in enumerate(rows, 1):
        table.append((str(rank) if row.state == "COMPLETE" else "-", str(row.number), STATES[row.state],
                      str(row.evaluations), _figure(metric, row.value), str(row.place) if row.place else "-",
                      *(shown(row.values[name]) if name in row.values else "-" for name in names)))
    notes = [f"trial {row.number}: {row.reason}" for row in rows if row.reason]
    return aligned(table, left={2}) + notes


def finalist_lines(ranking, metric):
    """The table of the repeats: list of lines.

    Args:
        ranking: list of `final.Finalist`, the best first.
        metric: as of `lines`.
    """
    table = [("finalist", "runs", f"mean {NAMES[metric]}", "std", "seeds", "difference from the first, paired t-test")]
    for place, each in enumerate(ranking):
        spread = "-" if each.std is None else f"{each.std:.4f}" if metric == "loss" else f"{100 * each.std:.2f}"
        seeds = " ".join(_figure(metric, value) for value in each.values)
        table.append((f"trial {each.number}", str(each.count), _figure(metric, each.mean), spread, seeds,
                      "-" if not place or each.difference is None else _compared(each, metric)))
    return aligned(table, left={0, 4, 5})


def _compared(each, metric):
    scale, unit = (1, "") if metric == "loss" else (100, " points")
    p_value = "" if each.p_value is None else f", p = {each.p_value:.3f}"
    return f"{scale * each.difference:+.{4 if metric == 'loss' else 2}f}{unit}{p_value}"


def winner_lines(found):
    """Who won, and what it reached; `found` is what result.json holds."""
    metric, tested = found["metric"], found["test"]
    lines = [f"winner: trial {found['trial']} of {found['trials']}, {values_text(found['values'])}",
             f"  validation  {NAMES[metric]} {number(metric, found['validation'])}, the figure it was chosen by"]
    if "repeats" in found:
        repeats = found["repeats"]
        lines.append(f"  repeats     mean {NAMES[metric]} {number(metric, repeats['mean'])} over seeds "
                     f"{', '.join(map(str, repeats['seeds']))}")
    if tested:
        figures = ", ".join(f"{NAMES[name]} {number(name, tested[name])}" for name in dict.fromkeys(
            (metric, "top1", "map", "loss")) if tested.get(name) is not None)
        lines.append(f"  test        {figures} ({tested['examples']:,} images, read for the winner alone)")
    return lines
