"""Is an export what the network is? Both are asked about real images, in batches of several sizes."""

import dataclasses
import itertools

import numpy as np

from cct_tf.errors import UserError
from cct_tf.export.isolated import Broken

_BATCHES = (1, 3, 8)  # then 8 again, and what is left
BATCH = max(_BATCHES)
_LOST = 0.01  # of the accuracy, at most, by int8
_SAME = 0.8  # of the predictions, at least, where there are no labels to tell the accuracy


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        count: int, images.
        difference: float, the largest of a probability; NaN if one is not finite.
        same: float, share of the images with the same most probable class.
        accuracies: (the network's, the export's) in [0, 1], or None without labels.
    """

    count: int
    difference: float
    same: float
    accuracies: tuple | None


def compare(network, export, sample):
    """Ask both about the images of a sample.

    Args:
        network: `prediction.Network` of at least BATCH images.
        export: `reading.Export`.
        sample: `samples.Sample`.

    Returns:
        Comparison.

    Raises:
        Broken: the export can't be run, or answers in another form.
    """
    expected, found = [], []
    for images in _batches(sample.images):
        expected.append(network([network.prepare(image) for image in images])["probabilities"])
        answer = export([export.prepare(image) for image in images])
        found.append(_checked(answer, expected[-1].shape, export.metadata.classes))
    expected, found = np.concatenate(expected), np.concatenate(found)
    ours, theirs = expected.argmax(axis=1), found.argmax(axis=1)
    accuracies = None
    if sample.labels is not None:
        accuracies = tuple(float((each == sample.labels).mean()) for each in (ours, theirs))
    return Comparison(len(found), float(np.abs(found - expected).max()), float((ours == theirs).mean()), accuracies)


def _batches(images):
    images = iter(images)
    for size in itertools.chain(_BATCHES, itertools.repeat(BATCH)):
        batch = list(itertools.islice(images, size))
        if not batch:
            return
        yield batch


def _checked(answer, shape, classes):
    """The probabilities of an answer whose parts agree."""
    probabilities = answer["probabilities"]
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise Broken(f"gave {probabilities.dtype} {list(probabilities.shape)} for float32 {list(shape)}")
    if "label" in answer:
        names = np.array([name.encode() for name in classes], object)
        if not (answer["classes"] == names).all() or not (answer["label"] == names[probabilities.argmax(axis=1)]).all():
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
        if theirs < ours - _LOST:
            raise UserError(f"--quantize={quantize}: expected at most 1 point below the network's accuracy of "
                            f"{100 * ours:.2f}%, found {100 * theirs:.2f}% {on}; {more}")
    elif comparison.same < _SAME:
        raise UserError(f"--quantize={quantize}: expected the network's prediction for at least {100 * _SAME:.0f}%, "
                        f"found it for {100 * comparison.same:.1f}% {on}; {more}")
