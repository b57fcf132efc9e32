"""Images to compare with, from every kind of reader, and what a comparison makes of them."""

import weakref

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.data.source import Split
from cct_tf.errors import UserError
from cct_tf.export import check, formats, samples
from cct_tf.export.check import Comparison
from cct_tf.images.pixel_type import RGB
from cct_tf.machine.console import Console
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.held import Held
from cct_tf.readers.windowed import Windowed


@pytest.fixture
def pixels(tmp_path):
    """uint8 [6, 8, 8, 3], also as files 0.png ..."""
    images = np.random.default_rng(0).integers(0, 256, [6, 8, 8, 3], np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return images


def test_images_and_labels_come_evenly_spread_from_every_kind_of_reader(pixels, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for image in pixels:
            writer.write(image.tobytes())

    def decode(record):
        image = tf.reshape(tf.io.decode_raw(record, tf.uint8), [8, 8, 3])
        return image, tf.cast(image[0, 0, 0], tf.int64)

    order, labels = np.array([5, 3, 1, 0], np.int64), np.array([2, 1, 7, 0], np.int32)
    for reader in (Held(tf.constant(pixels), order), Encoded(tf.constant(paths), paths, order, True)):
        sample = samples.of_split(Split("test", reader, 4, labels), 2)
        for _ in range(2):  # it may be gone through again
            assert np.array_equal(list(sample.images), pixels[[5, 1]])
        assert sample.labels.tolist() == [2, 7] and (sample.count, sample.name) == (2, "test images")
        assert samples.of_split(Split("test", reader, 4, labels), 100).count == 4
    records = Windowed([str(tmp_path / "records")], [4], [1], decode, 2)
    sample = samples.of_split(Split("test", records, 4, None), 2)
    assert np.array_equal(sample.images, pixels[1:3]) and np.array_equal(sample.labels, pixels[1:3, 0, 0, 0])


def test_files_are_evenly_spread_and_at_least_one_can_be_read(pixels, tmp_path, capfd):
    found = samples.of_files([tmp_path / f"{number}.png" for number in range(6)], 3, (16, RGB), Console())
    for _ in range(2):
        assert np.array_equal(list(found.images), pixels[[0, 2, 4]]) and found.labels is None
    (tmp_path / "text.png").write_text("none")
    with pytest.raises(UserError, match="at least one image"):
        samples.of_files([tmp_path / "text.png"], 3, (16, RGB), Console())


def test_no_file_is_held(pixels, tmp_path, monkeypatch):
    read, held = samples.read_image, []

    def counted(*args):
        image = read(*args)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr(samples, "read_image", counted)
    found = samples.of_files([tmp_path / f"{number}.png" for number in range(6)], 6, (16, RGB), Console())
    assert found.count == len(held) == 6 and not any(each() is not None for each in held)


@pytest.mark.parametrize(("quantize", "difference", "same", "accuracies", "words"), [
    ("none", 1e-4, 1.0, None, None),
    ("none", 1.1e-4, 1.0, (0.5, 0.5), "within 0.0001"),
    ("none", float("nan"), 1.0, None, "found nan"),
    ("int8", 0.5, 0.3, (0.99, 0.98), None),
    ("int8", 0.5, 0.3, (0.5, 0.9), None),
    ("int8", 0.1, 1.0, (0.99, 0.979), "at most 1 point below"),
    ("int8", float("nan"), 1.0, (0.9, 0.9), "finite"),
    ("int8", 0.1, 0.8, None, None),
    ("int8", 0.1, 0.79, None, "at least 80%"),
])
def test_what_is_judged_good_enough(quantize, difference, same, accuracies, words):
    sample = samples.Sample([], None, 100, "images")
    arguments = Comparison(100, difference, same, accuracies), formats.FORMATS["litert"], quantize, sample
    if words is None:
        check.judge(*arguments)
        return
    with pytest.raises(UserError, match=words):
        check.judge(*arguments)
