"""What `evaluate` and its --compare found, as lines for a person and as dicts for JSON. No TensorFlow here."""

import math

import numpy as np

from cct_tf.evaluation import multilabel_report, significance
from cct_tf.evaluation.calibration import calibrate
from cct_tf.evaluation.multilabel import MultilabelEvaluation
from cct_tf.evaluation.report_parts import LETTERS, MOST_CLASSES, finite
from cct_tf.machine.console import shortened
from cct_tf.settings import averages

_NAMED = 3  # classes without images
_SIGNIFICANT = 0.05


def _has_several(result):
    return isinstance(result, MultilabelEvaluation)


def _accuracy(result):
    if _has_several(result):
        return multilabel_report.accuracy(result)
    return (f"top-1 {100 * result.top1:.2f}%   top-{min(5, result.num_classes)} {100 * result.top5:.2f}%   "
            f"loss {result.loss:.4f}")


def lines(evaluated, split, tta):
    """An `evaluator.Evaluated` of the split of that name for a person: list of strings.

    Args:
        evaluated: `evaluator.Evaluated`.
        split: its name.
        tta: kind of test-time augmentation, or "none".
    """
    result, loaded = evaluated.plain, evaluated.loaded
    shown = [f"{loaded.path}, {averages.WEIGHTS[loaded.weights]} weights, {split} split: "
             f"{result.examples:,} images"]
    if _has_several(result):
        shown += multilabel_report.lines(evaluated) + _broken_lines(evaluated)
    else:
        shown.append(f"  {_accuracy(result)}   balanced {100 * result.balanced_accuracy:.2f}%")
        shown += _broken_lines(evaluated) + _lacking_lines(evaluated)
        found = calibrate(result.confidences, result.is_right)
        shown.append(f"  expected calibration error {100 * found.ece:.2f}%   mean confidence "
                     f"{100 * found.mean_confidence:.2f}%")
    if evaluated.averaged:
        shown += [f"  with test-time augmentation ({tta}, {evaluated.num_views} views):",
                  f"  {_accuracy(evaluated.averaged)}"]
    return shown + (multilabel_report.class_lines if _has_several(result) else _class_lines)(evaluated)


def _broken_lines(evaluated):
    """How many images count for nothing, and the first of them."""
    count = evaluated.plain.broken
    if not count:
        return []
    reader = evaluated.split.reader
    names = ", ".join(str(reader.origin(place)) for place in list(reader.broken.known)[:_NAMED])
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    return [f"  left out: {count:,} that can't be decoded ({names}{more})"]


def _lacking(evaluated):
    """The names of the classes that have no images."""
    return [name for name, count in zip(evaluated.class_names, evaluated.plain.class_scores.support, strict=True)
            if not count]


def _lacking_lines(evaluated):
    """What the means are over, where they are not over all classes."""
    lacking, scores, total = _lacking(evaluated), evaluated.plain.class_scores, len(evaluated.class_names)
    if not lacking:
        return []
    more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
    named = ", ".join(shortened(name, LETTERS) for name in lacking[:_NAMED]) + more
    return [f"  no images of {len(lacking)} of {total} classes: {named}",
            f"  balanced accuracy is over the {total - len(lacking)} with images, the macro mean over the "
            f"{int(scores.in_macro_mean.sum())} that occur or are predicted"]


def _class_lines(evaluated):
    """The table of classes, the worst ones where there are many."""
    scores, names = evaluated.plain.class_scores, evaluated.class_names
    rows = [(shortened(name, LETTERS), *row)
            for name, *row in zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)]
    shown = []
    if len(rows) > MOST_CLASSES:
        rows = sorted((row for row in rows if row[4]), key=lambda row: row[2])[:MOST_CLASSES]
        shown.append(f"  the {len(rows)} worst of {len(names)} classes by recall (all of them: --json)")
    total = int(scores.support.sum())
    rows += [(f"{kind} mean", *values, total) for kind, values in scores.means().items()]
    width = max(len(row[0]) for row in rows)
    shown.append(f"  {'':<{width}} precision   recall       F1   images")
    for name, *values, count in rows:
        cells = "".join(f"{100 * value:8.2f}%" if math.isfinite(value) else f"{'-':>9}" for value in values)
        shown.append(f"  {name:<{width}} {cells} {count:8,}")
    return shown


def as_dict(evaluated, split, tta, mistakes):
    """The same for JSON.

    Args:
        evaluated, split, tta: as for `lines`.
        mistakes: list of (place in the split, path or None), the worst first.
    """
    result, loaded = evaluated.plain, evaluated.loaded
    found = {"step": loaded.record.step, "split": split, "weights": loaded.weights, "examples": result.examples}
    found |= (multilabel_report.as_dict if _has_several(result) else _as_dict)(evaluated, mistakes)
    found |= {"broken_images": result.broken} if result.broken else {}
    found["checkpoint"] = str(loaded.path)
    if evaluated.averaged:
        found["tta"] = {"kind": tta, "views": evaluated.num_views} | _headline(evaluated.averaged)
    return found


def _headline(result):
    """The first metrics of an evaluation, for JSON."""
    names = ("map", "f1", "loss") if _has_several(result) else ("top1", "top5", "loss")
    return {name: finite(getattr(result, name)) for name in names}


def _as_dict(evaluated, mistakes):
    """What was found of images with one label each; arguments as of `as_dict`."""
    result, names = evaluated.plain, evaluated.class_names
    scores = result.class_scores
    return {"top1": result.top1, "top5": result.top5, "loss": finite(result.loss),
            "balanced_accuracy": result.balanced_accuracy, "classes_without_images": _lacking(evaluated),
            "classes_in_balanced_accuracy": int((scores.support > 0).sum()),
            "classes_in_macro_mean": int(scores.in_macro_mean.sum()),
            "per_class": {name: finite(accuracy) for name, accuracy in zip(names, result.per_class, strict=True)},
            "classes": [{"name": name, "precision": finite(precision), "recall": finite(recall), "f1": finite(f1),
                         "support": int(support)} for name, precision, recall, f1, support in zip(
                             names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)],
            **{f"{kind}_mean": dict(zip(("precision", "recall", "f1"), values, strict=True))
               for kind, values in scores.means().items()},
            "calibration": _calibration(result),
            "worst_mistakes": [{"image": int(result.place_of(row)), "origin": origin,
                                "label": names[result.labels[row]], "prediction": names[result.predictions[row]],
                                "confidence": finite(result.confidences[row]),
                                "loss": finite(result.losses[row])} for row, origin in mistakes]}


def _calibration(result):
    found = calibrate(result.confidences, result.is_right)
    return {"ece": finite(found.ece), "mean_confidence": finite(found.mean_confidence),
            "bins": [{"above": float(low), "to": float(high), "images": int(count), "accuracy": finite(accuracy),
                      "confidence": finite(confidence)} for low, high, count, accuracy, confidence in zip(
                          found.edges[:-1], found.edges[1:], found.counts, found.accuracy, found.confidence,
                          strict=True)]}


def compared(results, split):
    """Two networks on the same images, for JSON.

    Args:
        results: two (workdir, `networks.Loaded`, `metrics.Evaluation`), called A and B.
        split: its name.
    """
    (_, _, a), (_, _, b) = results
    if a.broken or b.broken:  # one may know of more than the other
        common = np.intersect1d(*(each.place_of(np.arange(each.examples)) for each in (a, b)))
        a, b = a.only(common), b.only(common)
    test = significance.mcnemar(int(np.sum(a.is_right & ~b.is_right)), int(np.sum(b.is_right & ~a.is_right)))
    found = {"split": split, "examples": a.examples}
    for letter, (workdir, loaded, _), result in zip("ab", results, (a, b), strict=True):
        found[letter] = {"workdir": workdir, "checkpoint": str(loaded.path), "step": loaded.record.step,
                         "weights": loaded.weights} | _headline(result)
    return found | {"both_right": int(np.sum(a.is_right & b.is_right)), "only_a_right": test.only_a,
                    "only_b_right": test.only_b, "both_wrong": int(np.sum(~a.is_right & ~b.is_right)),
                    "method": test.method, "statistic": test.statistic, "p_value": test.p_value}


def compared_lines(found):
    """What `compared` gave, for a person: list of strings."""
    name, title = ("map", "mAP") if "map" in found["a"] else ("top1", "top-1")
    shown = [f"{found['split']} split: {found['examples']:,} images"
             + (", right where all labels are (at 0.5)" if name == "map" else "")]
    for letter in "ab":
        one = found[letter]
        loss = math.nan if one["loss"] is None else one["loss"]
        shown.append(f"  {letter.upper()}: {one['checkpoint']}, {averages.WEIGHTS[one['weights']]} weights: "
                     f"{title} {100 * one[name]:.2f}%   loss {loss:.4f}")
    shown.append(f"  both right {found['both_right']:,}   only A {found['only_a_right']:,}   only B "
                 f"{found['only_b_right']:,}   both wrong {found['both_wrong']:,}")
    statistic = "" if found["statistic"] is None else f", statistic {found['statistic']:.2f}"
    shown.append(f"  McNemar's test ({found['method']}{statistic}): p = {found['p_value']:.2g}")
    return [*shown, f"  {_meaning(found)}", "  This is about these weights, not about their recipes: another seed "
            "gives other ones (cct_tf.compare shows how far they lie apart)."]


def _meaning(found):
    """A sentence that says what the p-value means."""
    a, b = found["only_a_right"], found["only_b_right"]
    if not a + b:
        return "Both are right on the same images: nothing tells them apart."
    chance = f"by chance in {100 * found['p_value']:.3g}% of the cases"
    if found["p_value"] >= _SIGNIFICANT:
        return (f"No difference is shown: were both equally good, one as large as {max(a, b):,} to {min(a, b):,} would "
                f"come {chance}.")
    better, worse = ("A", "B") if a > b else ("B", "A")
    return (f"{better} is better than {worse}: were both equally good, a difference as large as {max(a, b):,} to "
            f"{min(a, b):,} would come {chance} only.")
