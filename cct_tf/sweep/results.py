"""Trials as rows of a table, the repeats of the finalists, their ranking. No TensorFlow here."""

import dataclasses
import math
import statistics

from cct_tf.sweep.study import best_of


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial.

    Attributes:
        number: int; state: name of Optuna's state; values: dict of what was drawn.
        evaluations: int, how many were reported.
        value: float, the best of them, NaN without; place: int, which it was, from 1, 0 without.
        reason: why it failed, or "".
    """

    number: int
    state: str
    values: dict
    evaluations: int
    value: float
    place: int
    reason: str


_ORDER = ("COMPLETE", "PRUNED", "RUNNING", "FAIL", "WAITING")


def rows(trials, maximize):
    """Optuna's trials as rows: complete ones from the best on, then pruned, unfinished and failed ones."""
    found = []
    for trial in trials:
        seen = [trial.intermediate_values[place] for place in sorted(trial.intermediate_values)]
        place, value = best_of(seen, maximize)
        found.append(Row(trial.number, trial.state.name, trial.user_attrs.get("values", {}), len(seen), value, place,
                         trial.user_attrs.get("reason", "")))
    return sorted(found, key=lambda row: (_ORDER.index(row.state), *_rank(row.value, maximize), row.number))


def _rank(value, maximize):
    return math.isnan(value), 0.0 if math.isnan(value) else -value if maximize else value


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A trial whose training was repeated under other seeds.

    Attributes:
        number: of the trial.
        values: tuple of floats, one a seed; NaN where the training failed.
        difference: float, mean over the seeds of its value less that of the first in the ranking; None of the first,
            and without common seeds.
        p_value: float, of Student's paired t-test over the seeds, two-sided; None where it can't be said.
    """

    number: int
    values: tuple
    difference: float | None = None
    p_value: float | None = None

    @property
    def known(self):
        return [value for value in self.values if not math.isnan(value)]

    @property
    def count(self):
        return len(self.known)

    @property
    def mean(self):
        return statistics.fmean(self.known) if self.known else math.nan

    @property
    def std(self):
        """Of the sample, n - 1; None of fewer than two."""
        return statistics.stdev(self.known) if self.count > 1 else None


def rank(values, maximize):
    """Finalists from the best mean on; one with a failed repeat comes after those without.

    Args:
        values: dict number of the trial -> tuple of floats, one a seed, in the same order of seeds.
        maximize: bool.

    Returns:
        list of Finalist.
    """
    found = sorted((Finalist(number, seeds) for number, seeds in values.items()), key=lambda each: (
        each.count < len(each.values), *_rank(each.mean, maximize), each.number))
    return found[:1] + [_against(each, found[0]) for each in found[1:]]


def _against(each, first):
    pairs = [(mine, its) for mine, its in zip(each.values, first.values, strict=True)
             if not (math.isnan(mine) or math.isnan(its))]
    if not pairs:
        return each
    differences = [mine - its for mine, its in pairs]
    return dataclasses.replace(each, difference=statistics.fmean(differences), p_value=paired_t(differences))


def paired_t(differences):
    """P-value of Student's paired t-test (Biometrika 6, 1908), two-sided; None where the differences have no spread."""
    if len(differences) < 2 or not (spread := statistics.stdev(differences)):
        return None
    from scipy import special  # comes with scikit-learn
    t = statistics.fmean(differences) / (spread / math.sqrt(len(differences)))
    return float(2 * special.stdtr(len(differences) - 1, -abs(t)))
