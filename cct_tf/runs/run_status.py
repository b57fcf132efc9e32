"""How a run stands: its best and last evaluation, when it is time to stop, its rollbacks. No TensorFlow here."""

import dataclasses


@dataclasses.dataclass
class Standing:
    """What evaluations and rollbacks so far amount to; a checkpoint's record holds it all, but for `last`.

    Attributes:
        patience: int, the run ends after so many evaluations in a row without a new best; 0 = never.
        last_evaluated_step: int, 0 if never.
        without_best: int, evaluations since the best one.
        rollback_count: int, how often the run went back because it diverged.
        learning_rate_factor: float, what that multiplies every learning rate by.
        best, last: dicts {"step", "top1", "loss"} or None. Ties keep the earlier one as the best.
    """

    patience: int = 0
    last_evaluated_step: int = 0
    without_best: int = 0
    best: dict | None = None
    last: dict | None = None
    rollback_count: int = 0
    learning_rate_factor: float = 1.0

    def take(self, step, evaluation):
        """Count an evaluation (`metrics.Evaluation`) at `step`; returns whether it is the best so far."""
        self.last = {"step": step, "top1": evaluation.top1, "loss": evaluation.loss}
        is_best = self.best is None or evaluation.top1 > self.best["top1"]
        if is_best:
            self.best = self.last
        self.without_best = 0 if is_best else self.without_best + 1
        self.last_evaluated_step = step
        return is_best

    @property
    def is_over(self):
        """Whether the run has waited long enough for a new best."""
        return 0 < self.patience <= self.without_best
