"""What a reader is: the images of one split, wherever they are.

    held.Held          all images of one size in one tensor
    encoded.Encoded    files of any size, their bytes held or on disk, decoded when they are used
    array_records.ArrayRecords  records of shards with an index, decoded when they are used
    windowed.Windowed  records of shards without one, streamed and shuffled in windows

Nobody else asks which of them a reader is: whatever depends on it is a method here. A new kind of reader is a subclass
in a module of its own; the defaults are those of a reader that finds any image by its place.

An *example* is a dict: "index", the image's place in the split, and whatever else the reader's `load` needs (a
streamed record, say). Batches of examples have a leading dimension B.

Legend: n images of the split, B batch, H W height and width of an image, C channels. Pixels are uint8, or uint16 of a
`pixel_type` with 16 bits.
"""

import contextlib
import functools

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.errors import UserError
from cct_tf.images import parts
from cct_tf.images.pixel_type import RGB
from cct_tf.readers import budget, tensors

_UNKNOWN = 12_000_000  # pixels of a photograph

# Nothing here needs autograph, whose conversion took most of the time of tracing.
as_written = tf.autograph.experimental.do_not_convert


class Reader:
    """The images of one split.

    Attributes:
        image_shape: (H, W) of every image, where they are of one size and `gather` gets many at once by their places
            alone: such a reader knows no labels and has no columns of its own. Else None.
        holds_pixels: whether the images are held decoded.
        at_network_size: whether the images are what the network takes already, see `holding.hold_at_size`.
        can_fail: whether an image may turn out to be broken, or missing, when it is loaded.
        broken: `broken.Broken` of a reader that bears broken images; None where one ends the command, or there is none.
        knows_labels: whether `load` gives labels; where it doesn't, the split has them.
        shuffling: "indexed", any image may follow any other in the order of training, or "windowed".
        own_columns: tuple of names: what an example of this reader holds beside "index" and "epoch".
        pixel_type: `pixel_type.PixelType` of the images.
    """

    image_shape = None
    holds_pixels = False
    at_network_size = False
    can_fail = False
    broken = None
    knows_labels = False
    shuffling = "indexed"
    own_columns = ()
    pixel_type = RGB

    # What it is.

    def __len__(self):
        """n."""
        raise NotImplementedError

    def describe(self):
        """Where the images are and how they are read: words for the plan."""
        raise NotImplementedError

    def origin(self, place):
        """Where the image at a place comes from: a path, with the record if it holds several; None if unknown."""
        del place
        return None

    @property
    def held_bytes(self):
        """Memory that the images take, with those of other splits that share it."""
        return 0

    def sizes(self, most=256):
        """(height, width) of some images as they are stored, before any rotation by their orientation tags.

        Args:
            most: int, so many at most, evenly spread.

        Returns:
            float64 [k, 2]; k is 0 where looking would mean reading the set.
        """
        raise NotImplementedError

    def fetch(self, batches):
        """What is cheaper for many images at once than in `load`, of the examples that a worker needs.

        Args:
            batches: Dataset of batches of examples, dicts of columns [B].

        Returns:
            Dataset of the same, in order, with all of `own_columns`.
        """
        return batches

    @functools.cached_property
    def most_pixels(self):
        """Pixels of the largest of some images, which says how many are read at a time: int."""
        found = self.sizes(64)
        if not len(found):  # decoded: eight, which a streamed set has at hand
            with contextlib.suppress(UserError, OSError, tf.errors.OpError):
                found = [image.shape[:2] for image, _ in self.images(self.spread(8))]
        return max((int(height * width) for height, width in found), default=_UNKNOWN)

    @property
    def decoding_bytes(self):
        """Bytes that decoding the largest image takes."""
        return tensors.DECODING * self.most_pixels * self.pixel_type.num_bytes // RGB.num_bytes

    # One image.

    def load(self, example):
        """One image, in a graph or eagerly.

        Args:
            example: dict of scalars, see the module's docstring; in a graph one that went through `fetch`.

        Returns:
            (pixels [H, W, C], a tensor, label: integer scalar tensor, or None, see `knows_labels`).

        Raises:
            BrokenImage: eagerly; in a graph tf.errors.OpError at run time, in which `decode.broken_image` finds it.
        """
        raise NotImplementedError

    def load_or_replace(self, example, may_fail=False):
        """As `load`, and whose image it is, see `broken.OnDemand`.

        Args:
            example: as for `load`.
            may_fail: whether a broken image is an error in the graph that need not name it, which takes 0.3 ms less.

        Returns:
            (image, label or None, int64 scalar, place of the image).
        """
        del may_fail
        return *self.load(example), example["index"]

    def load_part(self, example, part, fast=None, may_fail=False):
        """As `load_or_replace`, at least a part of one image, in a graph.

        Args:
            example: as for `load`.
            part, fast: see `decode.decode_part`.
            may_fail: as for `load_or_replace`.

        Returns:
            (pixels [H, W, C], frame, label, place): see `parts` and `load_or_replace`.
        """
        del part, fast
        image, label, place = self.load_or_replace(example, may_fail)
        return *parts.of_whole(image), label, place

    def gather(self, index):
        """Many images, of a reader with an `image_shape`: int64 [B] places -> pixels [B, H, W, C]."""
        raise NotImplementedError

    def images(self, places):
        """Some images, eagerly, one after the other.

        Args:
            places: sequence of k ints.

        Yields:
            (pixels [H, W, C], a NumPy array, int label or None), in the order of `places`.
        """
        for place in places:
            with tf.device("CPU:0"):
                image, label = self.load({"index": tf.constant(int(place), tf.int64)})
            yield image.numpy(), None if label is None else int(label)

    def found(self, places):
        """As `images`, yielding (image, label, place of the image); another one stands for a broken one that may be."""
        for place, (image, label) in zip(places, self.images(places), strict=True):
            yield image, label, place

    def tolerating(self, way, known=()):
        """A reader that bears broken images, see `broken.Broken`; the same where none can turn out to be broken."""
        del way, known
        return self

    # Some of the images.

    def spread(self, count):
        """Places of `count` images that stand for all of them, and are cheap to read: int64 [min(count, n)].

        Evenly spread; of a reader that streams the first.
        """
        count = min(count, len(self))
        return np.arange(count) * len(self) // max(count, 1)

    def select(self, places):
        """A reader of the images at some places, int64 [k] of `spread`."""
        raise NotImplementedError

    # All of them.

    def order(self, seed, batch_size, start, num_batches):
        """The order of the training images, in batches.

        Args:
            seed: int, the run's seed.
            batch_size: int b, images per batch.
            start: int, first batch.
            num_batches: int.

        Returns:
            Dataset of batches of examples: {"index": int64 [b], "epoch": int64 [b], whose order it is, ...}.
        """
        n, first, end = len(self), start * batch_size, (start + num_batches) * batch_size

        @as_written
        def one_epoch(epoch):
            order = rng.permutation(n, rng.fold_pair(seed, rng.Stream.ORDER, epoch))
            left = order[tf.maximum(first - epoch * n, 0):]
            return {"index": left, "epoch": tf.fill(tf.shape(left), epoch)}

        epochs = tf.data.Dataset.range(first // n, (end - 1) // n + 1)
        return epochs.map(one_epoch).rebatch(batch_size, drop_remainder=True).take(num_batches)

    def place_in_epoch(self, seed, epoch, index):
        """Where images stand in the order of an epoch: int64 [k] places of images -> int64 [k].

        A reader that streams can't tell: 0, 1, 2 ...
        """
        order = rng.permutation(len(self), rng.fold_pair(seed, rng.Stream.ORDER, epoch))
        return tf.cast(tf.gather(tf.argsort(order), index), tf.int64)

    def in_order(self, batch_size):
        """Every image once, in order, in whole batches.

        Args:
            batch_size: int B.

        Returns:
            Dataset of ceil(n / B) batches of examples; the last one is filled up with the last image.
        """
        last = len(self) - 1

        @as_written
        def examples(start):
            return {"index": tf.minimum(start + tf.range(batch_size, dtype=tf.int64), last)}

        return tf.data.Dataset.range(0, len(self), batch_size).map(examples)

    def map_pixels(self, function):
        """A function of all pixels, some images at a time, in parallel, in bounded memory.

        Args:
            function: of pixels [..., C] -> tuple of tensors of fixed shapes.

        Returns:
            Dataset of (number of images, *function's results).

        Raises:
            UserError: a reader that would have to read the whole set for it.
        """
        @as_written
        def one(example):
            return tf.constant(1), *function(self.load(example)[0])

        threads = tensors.threads_within(budget.opening(), self.decoding_bytes + tensors.SUMMING)
        places = tf.data.Dataset.range(len(self)).batch(threads)
        examples = self.fetch(places.map(as_written(lambda index: {"index": index}))).unbatch()
        return tensors.by_reference(examples.map(one, num_parallel_calls=threads).prefetch(2))
