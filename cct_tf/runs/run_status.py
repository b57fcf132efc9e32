"""The status of a run: its best evaluation, when it is time to stop, its rollbacks. No TensorFlow here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """What evaluations and rollbacks so far amount to. A checkpoint's `run_record.Record` holds it.

    Attributes:
        last_evaluated_step: int, 0 if never.
        best: dict {"step", "top1", "loss"} of the best evaluation, or None. Ties keep the earlier one.
        evaluations_without_best: int, evaluations since the best one.
        rollback_count: int, how often the run went back because it diverged.
        learning_rate_factor: float, what the rollbacks multiply every learning rate by.
    """

    last_evaluated_step: int = 0
    best: dict | None = None
    evaluations_without_best: int = 0
    rollback_count: int = 0
    learning_rate_factor: float = 1.0

    def after(self, step, evaluation):
        """The status after an evaluation at `step`: (RunStatus, whether it is the best so far).

        Args:
            step: int.
            evaluation: `metrics.Evaluation`.
        """
        is_best = self.best is None or evaluation.top1 > self.best["top1"]
        best = {"step": step, "top1": evaluation.top1, "loss": evaluation.loss} if is_best else self.best
        without_best = 0 if is_best else self.evaluations_without_best + 1
        after = dataclasses.replace(self, last_evaluated_step=step, best=best, evaluations_without_best=without_best)
        return after, is_best

    def is_over(self, patience):
        """Whether a run ends here because it waited long enough for a new best.

        Args:
            patience: int, evaluations in a row without one (--early_stop_evaluations); 0 = never.
        """
        return 0 < patience <= self.evaluations_without_best
