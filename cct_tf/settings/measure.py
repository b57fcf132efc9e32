"""What a run is judged by: the metric that chooses its best checkpoint. No TensorFlow here."""

import dataclasses
import math

NAMES = {"top1": "top-1", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "map": "mAP", "f1": "F1",
         "loss": "loss"}
TASKS = {"single": ("top1", "balanced_accuracy", "loss", "macro_f1"), "multilabel": ("map", "loss", "f1")}


def is_multilabel(values):
    """Whether the images of a run may have several labels each; `values`: its flat config, of any version."""
    return values.get("task") == "multilabel"


@dataclasses.dataclass(frozen=True)
class Measure:
    """How the evaluations of a run are compared. Each is a dict, the values of `kept` by name, and maybe "step".

    Attributes:
        name: the metric that chooses the best, one of those of the task in TASKS.
        headline: the first metric of the task, which is always shown.
    """

    name: str = "top1"
    headline: str = "top1"

    @property
    def kept(self):
        """Names of the metrics that are written down of each evaluation: tuple."""
        return tuple(dict.fromkeys((self.headline, "loss", self.name)))

    @property
    def shown(self):
        """The metric of a table with room for one, a share in [0, 1]."""
        return self.headline if self.name == "loss" else self.name

    @property
    def extra(self):
        """The metric of `kept` that is not written down in every run of the task: a tuple of one name or none."""
        return () if self.name in ("top1", "loss", "map", "f1") else (self.name,)

    def of(self, evaluation):
        """{name: float} of `kept`; `evaluation` has them as attributes."""
        return {name: getattr(evaluation, name) for name in self.kept}

    def is_better(self, values, than):
        """Whether an evaluation is better than another, or than None, which all are. No value is worse than NaN."""
        if than is None:
            return True
        sign = -1.0 if self.name == "loss" else 1.0
        new, old = sign * values[self.name], sign * than[self.name]
        return new > old or (math.isnan(old) and not math.isnan(new))

    def words(self, values):
        """An evaluation for a person: "top-1 97.22%, loss 0.0812"."""
        names = dict.fromkeys((self.headline, self.shown, "loss"))
        known = [name for name in names if values.get(name) is not None]
        return ", ".join(f"{NAMES[name]} {number(name, values[name])}" for name in known)


TOP1 = Measure()


def measure_of(values):
    """The `Measure` of a run; `values`: its flat config, of any version."""
    headline = TASKS[values.get("task") or "single"][0]
    return Measure(values.get("best_metric") or headline, headline)


def number(name, value):
    """The value of a metric for a person: a share as "97.22%", the loss as "0.0812"."""
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f}%"
