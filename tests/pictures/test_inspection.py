"""Pictures and features of evaluation images: which images, and what TensorBoard's projector reads of them."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from cct_tf.augment.transform import Transform
from cct_tf.datasets import registry
from cct_tf.models import create_model
from cct_tf.pictures import inspection, projector
from cct_tf.readers.windowed import Windowed
from cct_tf.settings.config import DataConfig
from tests.datasets import test_tfds

MEAN, STD = (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)


@pytest.fixture(scope="module")
def digits():
    return registry.open_source(DataConfig(dataset="digits"), None)


def test_images_are_spread_evenly_over_the_split(digits):
    split = digits.splits["test"]
    looks = inspection.Inspection(split, Transform(8, MEAN, STD), digits.class_names)
    (images, shown, classes), = looks._batches(6)
    rows = [0, 59, 119, 179, 239, 299]  # floor(359 i / 6)
    assert classes == split.labels[rows].tolist()
    pixels = split.reader.tensor.numpy()[split.reader.indices[rows]]
    np.testing.assert_allclose(images, (pixels / 255.0 - 0.3) / 0.4, atol=1e-5)
    np.testing.assert_array_equal(shown, pixels)


def test_of_a_streamed_split_the_first_images_are_taken(tmp_path):
    examples = [test_tfds._example(index) for index in range(20)]
    test_tfds._write(tmp_path, "grey", (6, 5, 1), {"train": examples, "test": examples[:9]})
    source = registry.open_source(DataConfig(dataset="grey", data_dir=str(tmp_path), in_memory_gib=0.0), None)
    split = source.splits["test"]
    assert isinstance(split.reader, Windowed)
    looks = inspection.Inspection(split, Transform(8, MEAN, STD), source.class_names)
    (_, _, classes), = looks._batches(6)
    assert classes == [label for _, label in examples[:6]]


def test_the_projector_reads_features_classes_and_thumbnails(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_MOST_FEATURES", 70)  # two batches, the second one padded
    model, split = create_model("cct_2_3x1_8"), digits.splits["test"]
    looks = inspection.Inspection(split, Transform(8, MEAN, STD), ["a\tclass", *digits.class_names[1:]])
    looks.write_features(model, tmp_path)
    config, = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    rows = np.arange(70) * 359 // 70
    pixels = split.reader.tensor.numpy()[split.reader.indices[rows]]
    images = ((pixels / 255.0 - 0.3) / 0.4).astype("float32")
    np.testing.assert_allclose(np.loadtxt(tmp_path / config.tensor_path), model.features(images), atol=2e-5)
    names = ["a class", *digits.class_names[1:]]
    predicted = np.argmax(model(images), axis=1)
    lines = (tmp_path / config.metadata_path).read_text().splitlines()
    assert lines == ["class\tpredicted", *(f"{names[label]}\t{names[guess]}"
                                           for label, guess in zip(split.labels[rows], predicted, strict=True))]
    sprite = np.asarray(Image.open(tmp_path / config.sprite.image_path))
    assert list(config.sprite.single_image_dim) == [8, 8] and sprite.shape == (72, 72, 3)  # 9 x 9 of 8 pixels
    np.testing.assert_array_equal(sprite[16:24, 8:16], pixels[2 * 9 + 1])
    assert (sprite[56:64, 56:64] == 255).all()  # place 7 * 9 + 7 = 70: nothing there


def test_thumbnails_are_means_of_whole_squares():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    means = images.reshape(2, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(projector.reduced(images) - means).max() <= 0.5
    np.testing.assert_array_equal(projector.reduced(images[:, :9, :9]), images[:, :9, :9])  # small ones stay
