"""Real images to calibrate int8 with and to compare on: from the run's data set, or files that the user names."""

import dataclasses

import numpy as np

from cct_tf.assembly import inputs, recorded_data
from cct_tf.errors import UserError
from cct_tf.evaluation.prediction import read_image
from cct_tf.export import formats
from cct_tf.images import decode
from cct_tf.machine import runtime


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some images.

    Attributes:
        images: iterable of arrays [H, W, C], as decoded; can be iterated more than once.
        labels: int [n], or uint8 [n, K] where an image may have several; None if they are unknown.
        count: int n.
        name: what they are, such as "test images", for messages.
    """

    images: object
    labels: np.ndarray | None
    count: int
    name: str


def of_run(config, record, part, console):
    """The data set of a run: `source.Source`. Raises UserError if it can't be opened, or differs from the run's.

    Args:
        part: `tree.Part` to open; None for all.
    """
    with formats.images_help():
        images = inputs.open_images(config, console, record.resolved, part)
        recorded_data.check_recorded_data(images, record, config)
    return images.source


def of_split(split, count):
    """At most `count` images of a `source.Split`, evenly spread; the first ones of a streamed split."""
    places = split.reader.spread(count)
    labels = None if split.reader.knows_labels else split.labels[places]
    if labels is None:  # they come with the images
        with decode.broken_images_named():
            images, labels = zip(*split.images(places), strict=True)
        return Sample(images, np.array(labels), len(places), f"{split.name} images")
    return Sample(_Read(split, places), labels, len(places), f"{split.name} images")


def of_files(paths, count, decoding, console):
    """At most `count` of the image files, evenly spread. Broken ones are named and left out.

    `decoding` is (bit depth, PixelType), what `read_image` takes.

    Raises:
        UserError: none can be read.
    """
    good = []
    for place in _spread(len(paths), min(count, len(paths))):
        try:
            # Decoded only to see whether it can be, and not kept: 500 photographs may exceed the memory.
            next(iter(_Files([paths[place]], decoding)))
            good.append(paths[place])
        except decode.BrokenImage as error:
            console.warn(str(error))
    if not good:
        raise UserError("IMAGE: expected at least one image that can be read, found none")
    return Sample(_Files(good, decoding), None, len(good), "images")


def prepared(sample, network):
    """The images of a Sample at the network's size: [n, S, S, C]; `network` is a `prediction.Network`."""
    return np.stack([network.prepare(image) for image in sample.images])


def _spread(n, count):
    return np.arange(count) * n // count


class _Files:
    """Image files, read one after the other."""

    def __init__(self, paths, decoding):
        self._paths, self._decoding = paths, decoding

    def __iter__(self):
        for path in self._paths:
            with runtime.quiet_stderr():
                image = read_image(path, *self._decoding)
            yield image


class _Read:
    """Images of a split, one after the other."""

    def __init__(self, split, places):
        self._split, self._places = split, places

    def __iter__(self):
        with decode.broken_images_named():
            for image, _ in self._split.images(self._places):
                yield image
