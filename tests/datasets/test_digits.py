"""The embedded digits: scikit-learn's images, a constant test split."""

import numpy as np

from cct_tf.datasets import digits, registry
from cct_tf.settings.config import DataConfig


def test_grey_levels_become_the_whole_range_in_three_equal_channels():
    held = registry.open_source(DataConfig()).splits["test"].reader.tensor.numpy()
    levels, _ = digits.arrays()
    assert (levels.min(), levels.max(), held.min(), held.max()) == (0, 16, 0, 255)
    for channel in range(3):
        np.testing.assert_array_equal(held[..., channel], np.floor(levels * (255 / 16) + 0.5))


def test_test_split_is_a_fifth_of_every_class_and_constant():
    first = registry.open_source(DataConfig())
    other = registry.open_source(DataConfig(split_seed=3, validation_fraction=0.1))
    assert (first.splits["train"].num_examples, first.splits["test"].num_examples) == (1438, 359)
    np.testing.assert_array_equal(first.splits["test"].reader.indices, other.splits["test"].reader.indices)
    counts = np.bincount(digits.arrays()[1])
    assert np.abs(np.bincount(first.splits["test"].labels) - counts / 5).max() <= 0.5
    assert np.abs(np.bincount(other.splits["validation"].labels) - (counts * 0.8) * 0.1).max() <= 1


def test_splits_are_disjoint_and_labels_belong_to_their_images():
    opened = registry.open_source(DataConfig(validation_fraction=0.2))
    images, labels = digits.arrays()
    everything = np.concatenate([split.reader.indices for split in opened.splits.values()])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1797))
    for split in opened.splits.values():
        np.testing.assert_array_equal(split.labels, labels[split.reader.indices])


def test_pixels_span_0_to_255_in_three_equal_channels():
    held = registry.open_source(DataConfig()).splits["train"].reader
    pixels = held.tensor.numpy()
    np.testing.assert_array_equal(pixels[..., 0], np.floor(digits.arrays()[0] * (255 / 16) + 0.5))
    assert pixels.max() == 255 and (pixels == pixels[..., :1]).all() and held.image_shape == (8, 8)
    assert "CPU:0" in held.tensor.device
