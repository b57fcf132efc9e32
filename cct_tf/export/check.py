"""Compares an export with its network, on real images in batches of several sizes."""

import dataclasses
import itertools

import numpy as np

from cct_tf.errors import UserError
from cct_tf.export.isolated import Broken

_BATCHES = (1, 3, 8)  # then batches of 8, and the rest
BATCH = max(_BATCHES)
_MOST_LOST = 0.01  # accuracy that int8 may lose
_LEAST_SAME = 0.8  # share of equal predictions that int8 needs, if there are no labels to measure the accuracy by


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an export compares with its network.

    Attributes:
        count: int, images compared.
        difference: float, largest difference of a probability; NaN if a probability is not finite.
        same: float, share of images in [0, 1] for which both predict the same class; with several labels, of pairs of
            an image and a class of which both say the same, at the thresholds.
        accuracies: (network's, export's) in [0, 1], or None without labels; with several, the share of such pairs.
    """

    count: int
    difference: float
    same: float
    accuracies: tuple | None


def compare(network, export, sample):
    """Run both on the images of a sample.

    Args:
        network: `prediction.Network` with a batch size of at least BATCH.
        export: `reading.Export`.
        sample: `samples.Sample`.

    Returns:
        Comparison.

    Raises:
        Broken: the export can't be run, or its outputs have another form.
    """
    expected, found = [], []
    for images in _batches(sample.images):
        expected.append(network([network.prepare(image) for image in images])["probabilities"])
        answer = export([export.prepare(image) for image in images])
        found.append(_checked(answer, expected[-1].shape, export.metadata.classes))
    expected, found = np.concatenate(expected), np.concatenate(found)
    ours, theirs = (_said(each, export.metadata) for each in (expected, found))
    accuracies = None
    if sample.labels is not None:
        accuracies = tuple(float((each == sample.labels).mean()) for each in (ours, theirs))
    return Comparison(len(found), float(np.abs(found - expected).max()), float((ours == theirs).mean()), accuracies)


def _said(probabilities, metadata):
    """What is predicted: the class int [n], or bool [n, K]."""
    if metadata.is_multilabel:
        return probabilities >= np.array(metadata.thresholds, np.float32)
    return probabilities.argmax(axis=1)


def _batches(images):
    images = iter(images)
    for size in itertools.chain(_BATCHES, itertools.repeat(BATCH)):
        batch = list(itertools.islice(images, size))
        if not batch:
            return
        yield batch


def _checked(answer, shape, classes):
    """The probabilities among an export's outputs. Raises Broken if they, or the classes beside them, are malformed.

    `classes` is a list of names.
    """
    probabilities = answer["probabilities"]
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise Broken(f"gave {probabilities.dtype} {list(probabilities.shape)} for float32 {list(shape)}")
    if "classes" in answer:
        names = np.array([name.encode() for name in classes], object)
        own = answer["label"] == names[probabilities.argmax(axis=1)] if "label" in answer else True
        if not (answer["classes"] == names).all() or not np.all(own):
            raise Broken("gave other names of classes")
    return probabilities


def judge(comparison, kind, quantize, sample):
    """Raise UserError if an export differs too much.

    Args:
        comparison: Comparison.
        kind: `formats.Format`.
        quantize: "none" or "int8".
        sample: `samples.Sample` that was compared.
    """
    on = f"on {comparison.count} {sample.name}"
    if quantize == "none":
        if not comparison.difference <= kind.tolerance:  # NaN is not
            raise UserError(f"--format={kind.name}: expected probabilities within {kind.tolerance:g} of the network's, "
                            f"found {comparison.difference:.2g} {on}; nothing was written")
        return
    if not np.isfinite(comparison.difference):
        raise UserError(f"--quantize={quantize}: expected finite probabilities, found others {on}; nothing was written")
    more = "try more --calibration_images, or --quantize=none; nothing was written"
    if comparison.accuracies:
        ours, theirs = comparison.accuracies
        if theirs < ours - _MOST_LOST:
            raise UserError(f"--quantize={quantize}: expected at most 1 point below the network's accuracy of "
                            f"{100 * ours:.2f}%, found {100 * theirs:.2f}% {on}; {more}")
    elif comparison.same < _LEAST_SAME:
        raise UserError(f"--quantize={quantize}: expected the network's prediction for at least "
                        f"{100 * _LEAST_SAME:.0f}%, found it for {100 * comparison.same:.1f}% {on}; {more}")
