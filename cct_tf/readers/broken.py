"""Images that turn out to be broken while they are used, of a set that nobody has decoded before.

Without `Broken` such an image ends the command, which names it. With it

    replace   the next image by its place that decodes stands for it, with its own label: training
    mask      it counts for nothing: evaluation

and it is *listed*: it is not decoded again, mended or not. What stands for an image is a function of its place and of
which images are broken, listed or not: so neither threads nor workers have to agree on anything but the list.
"""

import dataclasses
import errno
import os
import threading

import numpy as np
import tensorflow as tf

from cct_tf.errors import storage_fault
from cct_tf.images import decode, parts
from cct_tf.machine import files, python_calls
from cct_tf.readers import tensors
from cct_tf.readers.reader import Reader, as_written

NONE = -1  # the place of an image that is masked
# What says that a file is not there, or is none. Others are no word on the image: too many open files, say.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is known of a broken image.

    Attributes:
        reason: what is wrong with it, text.
        position: int, the first position of the training order that asked for it; None: it was found without one.
    """

    reason: str
    position: int | None = None

    def earlier(self, other):
        """This one, with the position of another one of the same image if that is earlier."""
        if self.position is None or other.position is None or self.position <= other.position:
            return self
        return other


class Broken:
    """The broken images of one split, for all threads that read it.

    Args:
        number: int n, images of the split.
        way: "replace" or "mask".
        known: dict place -> Finding of those that are listed from the start.
    """

    def __init__(self, number, way, known=()):
        self.way, self.tell, self._number = way, None, number
        self._known, self._lock = {}, threading.RLock()
        with tf.init_scope(), tf.device("CPU:0"):  # read by graphs while Python threads write to it
            self._is_listed = tf.Variable(tf.zeros([number], tf.bool), trainable=False)
        for place, finding in dict(known).items():
            self.add(place, finding)

    @property
    def known(self):
        """dict place -> Finding, by place."""
        with self._lock:
            return dict(sorted(self._known.items()))

    def listen(self, tell):
        """Call `tell(place, finding)` for each image found from now on, before anything stands for it."""
        self.tell = tell

    def add(self, place, finding):
        """List an image that somebody else found; of two positions the first one counts."""
        with self._lock:
            before = self._known.get(place)
            self._known[place] = finding if before is None else before.earlier(finding)
            if before is None:
                with tf.init_scope(), tf.device("CPU:0"):
                    self._is_listed.scatter_nd_update([[place]], [True])

    def of(self, places):
        """The `Broken` of some images, int64 [k] places: it tells nobody."""
        known = self.known
        return Broken(len(places), self.way, {number: known[place] for number, place in enumerate(places.tolist())
                                              if place in known})

    def is_listed(self, place):
        """In a graph: int64 scalar -> bool scalar."""
        return tf.gather(self._is_listed, place)

    def find(self, reader, place, position=None, is_look=False):
        """An image, or what stands for it.

        Args:
            reader: OnDemand.
            place: int.
            position: int, of the training order; None: not of a training.
            is_look: whether it is for a picture, or the like: then another image stands for a broken one, whatever
                `way` is, and nothing is listed.

        Returns:
            (NumPy array [H, W, C], label or None, place of the image that it is, or NONE).

        Raises:
            BrokenImage: no image of the split can be decoded, or it is not the image's fault.
            OSError: the storage is at fault.
        """
        for candidate in (other % self._number for other in range(place, place + self._number)):
            with self._lock:
                before = self._known.get(candidate)
            if before is None:
                try:
                    return *reader.decoded(candidate), candidate
                except decode.BrokenImage as error:
                    _require_fault_of_image(error, reader, candidate)
                    before = Finding(decode.reason_of(error, reader.origin(candidate)))
            if is_look:
                continue
            self._note(candidate, Finding(before.reason, position))
            if self.way == "mask":
                return np.zeros([1, 1, reader.pixel_type.channels], reader.pixel_type.dtype), None, NONE
        nothing = ValueError("expected an image of the split that can be decoded, found none")
        raise decode.named(nothing, reader.origin(place))

    def _note(self, place, finding):
        with self._lock:
            before = self._known.get(place)
            if before is not None and before.earlier(finding) is before:
                return
            if self.tell is not None:
                self.tell(place, finding)
            self.add(place, finding)


def _require_fault_of_image(error, reader, place):
    """Raise unless it is the image that is broken: a storage that is gone must not spoil a run.

    Args:
        error: BrokenImage.
    """
    cause, home = error, reader.home(place)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.errno is not None:
        if storage_fault(cause):
            raise OSError(cause.errno, f"{home}; {os.strerror(cause.errno)}") from None
        if cause.errno not in _GONE:
            raise error
    if isinstance(cause, (MemoryError, tf.errors.ResourceExhaustedError)):
        raise error
    if not files.exists(home):
        raise OSError(errno.ESTALE, f"{home}; {os.strerror(errno.ESTALE)}") from None


class OnDemand(Reader):
    """A reader whose images are read and decoded when they are used, so that any may turn out to be broken.

    Attributes:
        broken: Broken; None: a broken image ends the command. A field of each subclass.
    """

    broken = None
    can_fail = True

    def tolerating(self, way, known=()):
        """The same, with a `Broken` of its own; arguments as there."""
        return dataclasses.replace(self, broken=Broken(len(self), way, known))

    # What a subclass does.

    def attempt(self, example):
        """As `load`, in a graph; the error need not say which image it was."""
        raise NotImplementedError

    def attempt_part(self, example, part, fast=None):
        """(pixels, frame, label) of `load_part`, in a graph; the error need not say which image it was."""
        del part, fast
        image, label = self.attempt(example)
        return *parts.of_whole(image), label

    def decoded(self, place):
        """(NumPy array [H, W, C], label or None) of the image at a place, eagerly; BrokenImage names it."""
        raise NotImplementedError

    def home(self, place):
        """Path of the folder or file that the image at a place lies in, without which nothing can be said of it."""
        raise NotImplementedError

    # What follows from it.

    def found(self, places):
        for place in map(int, places):
            with tf.device("CPU:0"):  # not around the yield: it would be the caller's device too
                image, label, place = self._find(place)
            yield image, None if label is None else int(label), place

    def _find(self, place):
        if self.broken is None:
            return *self.decoded(place), place
        return self.broken.find(self, place, is_look=True)

    def images(self, places):
        for image, label, _ in self.found(places):
            yield image, label

    def load(self, example):
        return self.load_or_replace(example)[:2]

    def load_or_replace(self, example, may_fail=False):
        if tf.executing_eagerly():
            image, label, place = self._find(int(example["index"]))
            return tensors.on_cpu(image), None if label is None else tensors.on_cpu(label), place
        attempt, of_image = (lambda: self.attempt(example)), (lambda image: (image,))
        image, label, place = self._once(example, attempt) if may_fail else self._tried(example, attempt, of_image)
        return image, label, place

    def load_part(self, example, part, fast=None, may_fail=False):
        def attempt():
            return self.attempt_part(example, part, fast)

        return self._once(example, attempt) if may_fail else self._tried(example, attempt, parts.of_whole)

    def _once(self, example, attempt):
        """What `attempt` gives, (pixels, ..., label), and the place; of an image that is listed an error, too."""
        place = example["index"]
        if self.broken is None:
            return *attempt(), place
        with tf.control_dependencies([tf.debugging.Assert(~self.broken.is_listed(place), ["listed"])]):
            return *attempt(), tf.identity(place)

    def _tried(self, example, attempt, of_image):
        """As `_once`; if `attempt` fails, `of_image` of what Python finds."""
        place, position = example["index"], example.get("position", tf.constant(NONE, tf.int64))
        tries = 1 if self.broken is None else tf.where(self.broken.is_listed(place), 0, 1)

        @as_written
        def once(_):
            *pixels, label = attempt()
            return *pixels, tf.constant(0, tf.int64) if label is None else tf.cast(label, tf.int64), place

        @as_written
        def by_python(place):
            image, label, place = self._found_by_python(place, position)
            return *of_image(image), label, place

        # "Try, else" in a graph: a data set of one element that is empty if decoding fails, and then the next one.
        tried = tf.data.Dataset.range(tf.cast(tries, tf.int64)).map(once).ignore_errors()
        other = tf.data.Dataset.from_tensors(place).map(by_python)
        *pixels, label, place = tried.concatenate(other).take(1).get_single_element()
        return *pixels, label if self.knows_labels else None, place

    def _found_by_python(self, place, position):
        """`Broken.find`, called from a graph: a TensorFlow operation can't say which image it failed on."""
        def find(place, position):
            if self.broken is None:
                found = *self.decoded(int(place)), place
            else:
                found = self.broken.find(self, int(place), None if position == NONE else int(position))
            image, label, place = found
            return image, np.int64(label or 0), np.int64(place)

        kinds = tf.as_dtype(self.pixel_type.dtype), tf.int64, tf.int64
        image, label, place = python_calls.call(find, [place, position], kinds, stateful=True)
        image = tf.ensure_shape(image, [None, None, self.pixel_type.channels])
        return image, tf.ensure_shape(label, []), tf.ensure_shape(place, [])
