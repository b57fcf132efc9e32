"""The status of a run: its best evaluation, when it is time to stop, its rollbacks. No TensorFlow here."""

import dataclasses

from cct_tf.settings.measure import TOP1


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """What evaluations and rollbacks so far amount to. A checkpoint's `run_record.Record` holds it.

    Attributes:
        last_evaluated_step: int, 0 if never.
        best: dict {"step"} and what `measure.Measure` keeps, such as {"top1", "loss"}, of the best evaluation, or None.
            Ties keep the earlier one.
        evaluations_without_best: int, evaluations since the best one.
        rollback_count: int, how often the run went back because it diverged.
        learning_rate_factor: float, what the rollbacks multiply every learning rate by.
        thresholds: of each class, fitted at `last_evaluated_step`, see `multilabel.MultilabelEvaluation`: tuple of K
            floats; None with one label an image, and before the first evaluation.
    """

    last_evaluated_step: int = 0
    best: dict | None = None
    evaluations_without_best: int = 0
    rollback_count: int = 0
    learning_rate_factor: float = 1.0
    thresholds: tuple | None = None

    def __post_init__(self):
        if self.thresholds is not None:  # a list, of JSON
            object.__setattr__(self, "thresholds", tuple(self.thresholds))

    def after(self, step, evaluation, measure=TOP1):
        """The status after an evaluation at `step`: (RunStatus, whether it is the best so far).

        Args:
            step: int.
            evaluation: `metrics.Evaluation` or `multilabel.MultilabelEvaluation`.
            measure: `measure.Measure` of the run.
        """
        found = measure.of(evaluation)
        is_best = measure.is_better(found, self.best)
        best = {"step": step} | found if is_best else self.best
        without_best = 0 if is_best else self.evaluations_without_best + 1
        after = dataclasses.replace(self, last_evaluated_step=step, best=best, evaluations_without_best=without_best,
                                    thresholds=evaluation.fitted_thresholds)
        return after, is_best

    def is_over(self, patience):
        """Whether a run ends here because it waited long enough for a new best.

        Args:
            patience: int, evaluations in a row without one (--early_stop_evaluations); 0 = never.
        """
        return 0 < patience <= self.evaluations_without_best
