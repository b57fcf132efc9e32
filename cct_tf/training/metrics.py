"""What an evaluation found. NumPy only.

Sums are added in float64 and divided once, so the result does not depend on the batch or the number of devices.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation of one split. n examples, K classes.

    Attributes:
        labels, predictions: int32 [n].
        ranks: int64 [n], classes placed before the labelled one (`losses.rank_of_label`).
        losses: float32 [n], plain cross-entropy.
        num_classes: int K.
    """

    labels: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray
    num_classes: int

    @property
    def examples(self):
        return len(self.labels)

    @property
    def top1(self):
        """Share of examples whose label is placed first."""
        return int(np.sum(self.ranks == 0)) / self.examples

    @property
    def top5(self):
        """Share of examples whose label is among the first min(5, K)."""
        return int(np.sum(self.ranks < min(5, self.num_classes))) / self.examples

    @property
    def loss(self):
        """Mean cross-entropy."""
        return float(np.sum(self.losses, dtype=np.float64) / self.examples)

    @property
    def confusion(self):
        """int64 [K, K]: rows are labels, columns predictions."""
        pairs = self.labels.astype(np.int64) * self.num_classes + self.predictions
        return np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    @property
    def per_class(self):
        """Accuracy of each class, float64 [K]; NaN for a class without examples."""
        totals = np.bincount(self.labels, minlength=self.num_classes)
        hits = np.bincount(self.labels[self.ranks == 0], minlength=self.num_classes)
        return np.where(totals > 0, hits / np.maximum(totals, 1), np.nan)

    @property
    def balanced_accuracy(self):
        """Mean of the classes' accuracies, over the classes that have examples."""
        return float(np.nanmean(self.per_class))

    def scalars(self, prefix):
        """{"PREFIX/top1": ..., "PREFIX/top5": ..., "PREFIX/loss": ...}."""
        return {f"{prefix}/top1": self.top1, f"{prefix}/top5": self.top5, f"{prefix}/loss": self.loss}
