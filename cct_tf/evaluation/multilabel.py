"""What an evaluation of images with several labels found: scikit-learn's metrics. No TensorFlow here.

Legend: n examples, K classes.
"""

import dataclasses
import functools

import numpy as np

from cct_tf.evaluation.metrics import ClassScores, Examples

HALF = 0.5  # the threshold of classes for which none was fitted


@dataclasses.dataclass(frozen=True)
class MultilabelEvaluation(Examples):
    """Result of one evaluation of one split, whose images may have several labels.

    A class counts in a mean over the classes where its value is defined: average precision where the class has images,
    F1 where it has some or is predicted. Answers that are not finite count as wrong for every class.

    Attributes:
        labels: uint8 [n, K], 1 where an image has a class.
        scores: float32 [n, K], probabilities.
        losses: float32 [n], plain binary cross-entropy, the mean over the classes.
        num_classes: int K.
        places, broken: as of `metrics.Evaluation`.
        thresholds: K floats that were fitted on the validation split, for `f1_fitted`; None: those fitted on these
            examples themselves.
    """

    labels: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    num_classes: int
    places: np.ndarray | None = None
    broken: int = 0
    thresholds: tuple | None = None

    def at(self, thresholds):
        return dataclasses.replace(self, thresholds=thresholds)

    def only(self, places):
        """The evaluation of the examples at some places of the split, int [k]."""
        rows = np.isin(self.place_of(np.arange(self.examples)), places)
        return dataclasses.replace(self, labels=self.labels[rows], scores=self.scores[rows], losses=self.losses[rows],
                                   places=self.place_of(np.flatnonzero(rows)))

    @functools.cached_property
    def _finite_scores(self):
        finite = np.isfinite(self.scores).all(axis=1, keepdims=True)
        return np.where(finite, self.scores, 1 - self.labels).astype(np.float32)

    @functools.cached_property
    def average_precision(self):
        """Of each class, float64 [K]; NaN for a class without images."""
        from sklearn.metrics import average_precision_score
        return self._each(average_precision_score, self.labels.any(axis=0))

    @functools.cached_property
    def auc(self):
        """Area under the ROC curve of each class, float64 [K]; NaN for a class that no image or every image has."""
        from sklearn.metrics import roc_auc_score
        return self._each(roc_auc_score, self.labels.any(axis=0) & ~self.labels.all(axis=0))

    def _each(self, metric, defined):
        return np.array([metric(labels, scores) if there else np.nan for labels, scores, there in zip(
            self.labels.T, self._finite_scores.T, defined, strict=True)])

    @property
    def map(self):
        """Mean average precision over the classes."""
        return float(np.nanmean(self.average_precision)) if self.labels.any() else float("nan")

    @functools.cached_property
    def map_micro(self):
        """Average precision of all pairs of an image and a class."""
        from sklearn.metrics import average_precision_score
        if not self.labels.any():
            return float("nan")
        return float(average_precision_score(self.labels, self._finite_scores, average="micro"))

    @functools.cached_property
    def fitted_thresholds(self):
        """The thresholds of the highest F1 of each class here, K floats, see `fit_threshold`."""
        return tuple(fit_threshold(labels, scores) for labels, scores in zip(
            self.labels.T, self._finite_scores.T, strict=True))

    def above(self, thresholds=HALF):
        """bool [n, K]: the classes that are said of each image; `thresholds`: a float or K of them."""
        return self._finite_scores >= np.asarray(thresholds, np.float64)

    def class_scores(self, thresholds=HALF):
        """`metrics.ClassScores` at some thresholds."""
        from sklearn.metrics import precision_recall_fscore_support
        return ClassScores(*precision_recall_fscore_support(self.labels, self.above(thresholds), average=None,
                                                            zero_division=np.nan))

    @functools.cached_property
    def f1(self):
        """F1 at 0.5, mean over the classes."""
        return self._macro_f1(HALF)

    @functools.cached_property
    def f1_micro(self):
        """F1 at 0.5 of all pairs of an image and a class."""
        from sklearn.metrics import f1_score
        return float(f1_score(self.labels, self.above(), average="micro", zero_division=0))

    @functools.cached_property
    def f1_fitted(self):
        """F1 at fitted thresholds, see `thresholds`, mean over the classes."""
        return self._macro_f1(self.chosen_thresholds)

    @property
    def chosen_thresholds(self):
        """`thresholds`, or where there are none those fitted here: tuple of K floats."""
        return self.fitted_thresholds if self.thresholds is None else self.thresholds

    def _macro_f1(self, thresholds):
        scores = self.class_scores(thresholds)
        return scores.means()["macro"][2] if scores.in_macro_mean.any() else float("nan")

    @functools.cached_property
    def is_right(self):
        """bool [n]: whether all classes of an image are said, and no others, at 0.5."""
        return (self.above() == (self.labels > 0)).all(axis=1)

    def scalars(self, prefix, extra=()):
        """{"PREFIX/map": ..., "PREFIX/map_micro", "PREFIX/f1" ...}, and broken_images if there are any."""
        names = dict.fromkeys(("map", "map_micro", "f1", "f1_micro", "f1_fitted", "loss", *extra))
        return {f"{prefix}/{name}": getattr(self, name) for name in names} | (
            {f"{prefix}/broken_images": self.broken} if self.broken else {})


def fit_threshold(labels, scores):
    """The threshold at which one class has the highest F1, the lowest of equals; 0.5 for a class without images.

    It lies midway between the lowest score that is to count and the next lower one, so that a last bit turns nothing.

    Args:
        labels: uint8 [n].
        scores: float32 [n], finite.
    """
    from sklearn.metrics import precision_recall_curve
    if not labels.any():
        return HALF
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    lowest = float(thresholds[np.argmax(f1[:-1])])
    below = scores[scores < lowest]
    return (lowest + (float(below.max()) if len(below) else 0.0)) / 2
