"""JPEGs for the benchmark, made on the spot from the two photographs that come with scikit-learn. No TensorFlow here.

Each file shows another part of a photograph at another scale. A part that is larger than the photograph goes on
mirrored at its edges, so large files have as much detail in a pixel as small ones.
"""

import contextlib
import os
import pathlib
import re
import tempfile

import numpy as np
from PIL import Image

from cct_tf.errors import UserError

QUALITY = 92
MOST_PIXELS = 10**8  # of one file
_ALL_PIXELS, _FEWEST, _MOST = 2**28, 24, 256  # of all files together; their number
_TESTED = 2  # files of the test split, for a run has one
_SCALES = (0.5, 1.5)  # pixels of the file for one of the photograph, along a side


def parse_size(text):
    """(width, height) of text such as "500x375"; UserError if no image of this size is made."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    size = found and (int(found[1]), int(found[2]))
    if not size or size[0] * size[1] > MOST_PIXELS or max(size) > 65500:  # which is JPEG's limit
        raise UserError(f"--source_size: expected WIDTHxHEIGHT, such as 500x375, of at most {MOST_PIXELS:,} pixels, "
                        f"found {text!r}")
    return size


def number_of(size):
    """How many files to train on are made of a size: 256, fewer of large ones."""
    return max(_FEWEST, min(_MOST, _ALL_PIXELS // (size[0] * size[1])))


def write(folder, size, number):
    """Write a data set for `--dataset=folder`: FOLDER/train/CLASS/*.jpg and a small FOLDER/test.

    Args:
        folder: pathlib.Path, made if it isn't there.
        size: (width, height) of every file.
        number: int, files to train on.
    """
    from sklearn.datasets import load_sample_images  # a second; nobody else needs it
    loaded = load_sample_images()
    names = [pathlib.Path(name).stem for name in loaded.filenames]
    for split, count in (("train", number), ("test", _TESTED)):
        draws = np.random.default_rng(count)
        for place in range(count):
            name, photograph = names[place % len(names)], loaded.images[place % len(names)]
            path = folder / split / name / f"{place:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _part(photograph, size, draws).save(path, quality=QUALITY)


def _part(photograph, size, draws):
    """A random part of a photograph, uint8 [H, W, 3], as a Pillow image of `size` (width, height)."""
    scale = draws.uniform(*_SCALES)
    across, down = (_mirrored(side, max(1, round(length / scale)), draws)
                    for side, length in zip(photograph.shape[1::-1], size, strict=True))
    return Image.fromarray(photograph[down][:, across]).resize(size, Image.BICUBIC)


def _mirrored(side, length, draws):
    """`length` neighbouring places of a row of `side` pixels that goes on mirrored, from a random one on: int [length].
    """
    places = (draws.integers(2 * side) + np.arange(length)) % (2 * side)
    return np.minimum(places, 2 * side - 1 - places)


@contextlib.contextmanager
def folder(size):
    """A temporary data set of JPEGs of one size, removed afterwards: yields its path.

    What opening it leaves in the user's cache goes with it.
    """
    with tempfile.TemporaryDirectory(prefix="cct_benchmark_") as name:
        root, before = pathlib.Path(name), os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        try:
            write(root / "images", size, number_of(size))
            yield root / "images"
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
