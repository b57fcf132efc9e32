"""The part of `report` that is about images with several labels. No TensorFlow here."""

import math

import numpy as np

from cct_tf.evaluation.report_parts import LETTERS, MOST_CLASSES, finite
from cct_tf.machine.console import shortened

_PERCENT = (("map", "mAP"), ("map_micro", "micro"), ("f1", "F1 at 0.5"), ("f1_micro", "micro"))


def accuracy(result):
    """A line on a `multilabel.MultilabelEvaluation`."""
    shares = "   ".join(f"{title} {100 * getattr(result, name):.2f}%" for name, title in _PERCENT)
    return f"{shares}   loss {result.loss:.4f}"


def fitted_on(evaluated):
    """On which images the thresholds of an `evaluator.Evaluated` were fitted, in words."""
    if evaluated.plain.thresholds is None:
        return "these images themselves, for this checkpoint was not evaluated in training"
    return f"the {evaluated.loaded.record.resolved.evaluated_split} split"


def lines(evaluated):
    """What was found, after the head: list of strings."""
    result = evaluated.plain
    return [f"  {accuracy(result)}",
            f"  all labels of an image right at 0.5 {100 * result.is_right.mean():.2f}%   F1 at fitted thresholds "
            f"{100 * result.f1_fitted:.2f}% (of {fitted_on(evaluated)})"]


def class_lines(evaluated):
    """The table of classes, the worst ones where there are many."""
    result, names = evaluated.plain, evaluated.class_names
    columns = class_columns(result)
    order = range(len(names))
    shown = []
    if len(names) > MOST_CLASSES:
        order = [row for row in np.argsort(columns["average_precision"], kind="stable") if columns["support"][row]]
        order = order[:MOST_CLASSES]
        shown.append(f"  the {len(order)} worst of {len(names)} classes by average precision (all of them: --json)")
    width = max((len(shortened(names[row], LETTERS)) for row in order), default=0)
    shown.append(f"  {'':<{width}}       AP      AUC  precision   recall       F1  threshold  F1 there   images")
    for row in order:
        cells = "".join(_cell(columns[name][row], length) for name, length in (
            ("average_precision", 9), ("auc", 9), ("precision", 11), ("recall", 9), ("f1", 9)))
        shown.append(f"  {shortened(names[row], LETTERS):<{width}}{cells}{columns['threshold'][row]:11.4f}"
                     f"{_cell(columns['f1_fitted'][row], 10)}{columns['support'][row]:9,}")
    return shown


def _cell(value, width):
    return f"{100 * value:{width - 1}.2f}%" if math.isfinite(value) else f"{'-':>{width}}"


def class_columns(result):
    """{name: array [K]} of a `multilabel.MultilabelEvaluation`: precision, recall and F1 are at 0.5."""
    scores = result.class_scores()
    return {"average_precision": result.average_precision, "auc": result.auc, "precision": scores.precision,
            "recall": scores.recall, "f1": scores.f1, "threshold": np.array(result.chosen_thresholds),
            "f1_fitted": result.class_scores(result.chosen_thresholds).f1, "support": scores.support}


def as_dict(evaluated, mistakes):
    """What was found, for JSON; `mistakes` as of `report.as_dict`."""
    result, names = evaluated.plain, evaluated.class_names
    columns, said = class_columns(result), result.above()
    classes = [{"name": name} | {key: int(column[row]) if key == "support" else finite(column[row])
                                 for key, column in columns.items()} for row, name in enumerate(names)]
    found = {name: finite(getattr(result, name)) for name in ("map", "map_micro", "f1", "f1_micro", "f1_fitted",
                                                              "loss")}
    return {"task": "multilabel"} | found | {
        "all_labels_right": float(result.is_right.mean()), "thresholds_fitted_on": fitted_on(evaluated),
        "classes": classes,
        "worst_mistakes": [{"image": int(result.place_of(row)), "origin": origin,
                            "labels": _named(result.labels[row], names), "predictions": _named(said[row], names),
                            "loss": finite(result.losses[row])} for row, origin in mistakes]}


def _named(row, names):
    return [names[index] for index in np.flatnonzero(row)]
