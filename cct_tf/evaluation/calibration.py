"""How far a network's confidence is from its accuracy. NumPy only."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy and confidence of the predictions, by confidence. M bins of equal width; n examples.

    Attributes:
        edges: float64 [M + 1], from 0 to 1; bin m holds confidences in (edges[m], edges[m + 1]].
        counts: int64 [M].
        accuracy, confidence: float64 [M], means of each bin; NaN where it is empty.
        mean_confidence: float, over all examples.
        ece: float, expected calibration error: the mean of |accuracy - confidence| over the bins, each weighted by its
            share of the examples (arXiv:1706.04599 Eq. 3). NaN if a confidence is not finite.
    """

    edges: np.ndarray
    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    mean_confidence: float
    ece: float


def calibrate(confidences, is_right, num_bins=15):
    """The `Calibration` of predictions.

    Args:
        confidences: float [n], probability that the network gave its prediction.
        is_right: bool [n].
        num_bins: int M.
    """
    confidences = np.asarray(confidences, np.float64)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    place = np.digitize(confidences, edges[1:-1], right=True)
    counts = np.bincount(place, minlength=num_bins)
    hits = np.bincount(place, is_right, minlength=num_bins)
    sums = np.bincount(place, confidences, minlength=num_bins)
    accuracy, confidence = (np.where(counts > 0, part / np.maximum(counts, 1), np.nan) for part in (hits, sums))
    return Calibration(edges, counts, accuracy, confidence, float(np.mean(confidences)),
                       float(np.abs(hits - sums).sum() / len(confidences)))
