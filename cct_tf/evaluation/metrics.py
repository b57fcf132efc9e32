"""What an evaluation found. NumPy only.

Sums are added in float64 and divided once, so the result does not depend on the batch or the number of devices.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """What scikit-learn's classification_report says of each class. K classes.

    Attributes:
        precision: float64 [K], share of the predictions of a class that are right; NaN where there are none.
        recall: float64 [K], share of the examples of a class that are found, its accuracy; NaN where there are none.
        f1: float64 [K], harmonic mean of both; NaN for a class that neither occurs nor is predicted.
        support: int64 [K], examples of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    @property
    def in_macro_mean(self):
        """bool [K]: the classes that occur or are predicted."""
        return ~np.isnan(self.f1)

    def means(self):
        """{"macro": (precision, recall, f1), "weighted": ...}: over the classes that occur or are predicted, alike and
        by support. What is undefined counts as 0, as in scikit-learn."""
        scores = np.nan_to_num(np.stack([self.precision, self.recall, self.f1]))
        return {"macro": tuple(scores[:, self.in_macro_mean].mean(axis=1).tolist()),
                "weighted": tuple((scores @ self.support / self.support.sum()).tolist())}


class Examples:
    """What the evaluations of both tasks have: `losses` float32 [n], and `places`, see `Evaluation`."""

    fitted_thresholds = None  # see `multilabel.MultilabelEvaluation`

    def place_of(self, rows):
        """int [k], numbers of examples -> their places in the split."""
        return rows if self.places is None else self.places[rows]

    def at(self, thresholds):
        """The evaluation with thresholds that were fitted elsewhere; with one label an image there are none."""
        del thresholds
        return self

    @property
    def examples(self):
        return len(self.losses)

    @property
    def loss(self):
        """Mean cross-entropy."""
        return float(np.sum(self.losses, dtype=np.float64) / self.examples)


@dataclasses.dataclass(frozen=True)
class Evaluation(Examples):
    """Result of one evaluation of one split, whose images have one label each. n examples, K classes.

    Attributes:
        labels, predictions: int32 [n].
        ranks: int64 [n], classes placed before the labelled one (`losses.rank_of_label`).
        losses: float32 [n], plain cross-entropy.
        num_classes: int K.
        confidences: float32 [n], the probability of each prediction; NaN where the network's answer is not finite.
        places: int64 [n], places of the examples in the split, ascending; None: 0 to n - 1.
        broken: int, images of the split that count for nothing, for they can't be decoded.
    """

    labels: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray
    num_classes: int
    confidences: np.ndarray | None = None
    places: np.ndarray | None = None
    broken: int = 0

    def only(self, places):
        """The Evaluation of the examples at some places of the split, int [k]."""
        rows = np.isin(self.place_of(np.arange(self.examples)), places)
        columns = {name: getattr(self, name)[rows] for name in ("labels", "predictions", "ranks", "losses")}
        confidences = None if self.confidences is None else self.confidences[rows]
        return dataclasses.replace(self, **columns, confidences=confidences, places=self.place_of(np.flatnonzero(rows)))

    @property
    def is_right(self):
        """bool [n]: whether the label is placed first."""
        return self.ranks == 0

    @property
    def top1(self):
        """Share of examples whose label is placed first."""
        return int(np.sum(self.is_right)) / self.examples

    @property
    def top5(self):
        """Share of examples whose label is among the first min(5, K)."""
        return int(np.sum(self.ranks < min(5, self.num_classes))) / self.examples

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

    @property
    def macro_f1(self):
        """Mean F1 over the classes that occur or are predicted."""
        return self.class_scores.means()["macro"][2]

    @property
    def class_scores(self):
        """`ClassScores`."""
        support = np.bincount(self.labels, minlength=self.num_classes)
        predicted = np.bincount(self.predictions, minlength=self.num_classes)
        hits = np.bincount(self.labels[self.is_right], minlength=self.num_classes)
        return ClassScores(*(np.where(below > 0, above / np.maximum(below, 1), np.nan) for above, below in (
            (hits, predicted), (hits, support), (2 * hits, support + predicted))), support)

    def scalars(self, prefix, extra=()):
        """{"PREFIX/top1": ..., "PREFIX/top5": ..., "PREFIX/loss": ...}, and broken_images if there are any.

        Args:
            prefix: text.
            extra: names of other metrics.
        """
        found = {f"{prefix}/{name}": getattr(self, name) for name in ("top1", "top5", "loss", *extra)}
        return found | ({f"{prefix}/broken_images": self.broken} if self.broken else {})
