"""What is looked at of each image of a data set.

Legend: n images of all splits together.
"""

import concurrent.futures
import dataclasses
import hashlib

import numpy as np
from PIL import Image

from cct_tf.data import label_kinds
from cct_tf.images import decode
from cct_tf.readers import progress, tensors

_BLOCK = 64  # images a thread looks at, one after the other
THUMB = 16  # pixels of a side


@dataclasses.dataclass(frozen=True)
class Facts:
    """The images of a data set, in columns.

    Attributes:
        splits: object [n], names.
        places: int64 [n], in the split.
        labels: object [n], tuples of names of classes.
        names: object [n], paths, or `split[place]` where there is none.
        sizes: int32 [n, 2], height and width.
        grey: bool [n], whether the channels are equal.
        widened: bool [n], whether its 16 bits hold levels of 8 bits alone, each 257 times.
        digests: object [n], bytes: equal for equal pixels.
        hashes: uint64 [n], of what the image shows, see `perceptual_hash`.
        thumbs: uint8 [n, 16, 16], grey.
        broken: list of (name, reason).
    """

    splits: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    grey: np.ndarray
    widened: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    broken: list

    def __len__(self):
        return len(self.places)


def perceptual_hash(image):
    """dHash of 64 bits: whether each of 8 x 8 places of the image is darker than the place to its right.

    Args:
        image: Pillow's image of mode "L".
    """
    cells = np.asarray(image.resize((9, 8), Image.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def look(source, stream=None):
    """Decode every image of a data set once.

    Args:
        source: `source.Source`.
        stream: text stream for progress, or None.

    Returns:
        Facts.
    """
    rows, broken = [], [(str(name), reason) for name, reason in source.broken]
    total = sum(split.num_examples for split in source.splits.values())
    with progress.count(total, "looking at the images", stream) as advance:
        for split in source.splits.values():
            for block in _blocks(split):
                advance(len(block))
                for found in block:
                    (rows if len(found) > 2 else broken).append(found)
    columns = zip(*rows, strict=True) if rows else [()] * 10
    splits, places, labels, names, sizes, grey, widened, digests, hashes, thumbs = columns
    return Facts(_objects(splits), np.array(places, np.int64),
                 _objects([label_kinds.names(label, source.class_names) for label in labels]), _objects(names),
                 np.array(sizes, np.int32).reshape(-1, 2), np.array(grey, bool), np.array(widened, bool),
                 _objects(digests), np.array(hashes, np.uint64),
                 np.array(thumbs, np.uint8).reshape(-1, THUMB, THUMB), broken)


def _objects(values):
    found = np.empty(len(values), object)
    found[:] = list(values)
    return found


def _blocks(split):
    """Yield lists of what was found of some images, in order: rows of `Facts`, or (name, reason) of a broken image."""
    places = range(split.num_examples)
    blocks = [places[start:start + _BLOCK] for start in places[::_BLOCK]]
    if split.reader.shuffling == "windowed":  # which has to read all records before one
        found = enumerate(split.reader.tolerating("mask").found(places))
        yield [_row(split, place, image, split.label_of(place, label)) if of == place else
               (_name(split, place), "it can't be decoded") for place, (image, label, of) in found]
        return
    with concurrent.futures.ThreadPoolExecutor(tensors.num_threads()) as pool:
        yield from pool.map(lambda block: [_looked(split, place) for place in block], blocks)


def _looked(split, place):
    name = _name(split, place)
    try:
        image, label, _ = next(iter(split.reader.found([place])))
    except decode.BrokenImage as error:
        return name, decode.reason_of(error, name)
    return _row(split, place, image, split.label_of(place, label))


def _name(split, place):
    return split.reader.origin(place) or f"{split.name}[{place}]"


def picture(image):
    """An image for a person: uint8 or uint16 [H, W, C] -> uint8 [H, W, 3].

    In colour or grey of 8 bits it is itself. Of others the first three channels are red, green and blue, stretched over
    the range of the image.
    """
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    levels = image[:, :, :3].astype(np.float64)
    if levels.shape[2] == 2:
        levels = np.concatenate([levels, levels.mean(axis=2, keepdims=True)], axis=2)
    span = max(float(levels.max() - levels.min()), 1.0)
    return np.broadcast_to(np.rint(255 * (levels - levels.min()) / span).astype(np.uint8), (*image.shape[:2], 3))


def _row(split, place, image, label):
    grey = Image.fromarray(np.ascontiguousarray(picture(image))).convert("L")
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16)
    is_grey = bool((image[..., :1] == image).all())
    is_widened = image.dtype == np.uint16 and image.any() and not (image % 257).any()
    return (split.name, place, label, _name(split, place), image.shape[:2], is_grey, is_widened, digest.digest(),
            perceptual_hash(grey), np.asarray(grey.resize((THUMB, THUMB), Image.BOX)))
