"""Resizing against Pillow on real photographs, and normalisation by hand."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.augment import image_ops


@pytest.fixture(scope="module")
def photo():
    from sklearn.datasets import load_sample_images
    return load_sample_images().images[1][:300, :400]  # 300 x 400, a flower


def _levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.9), (64, 1.0), (33, 0.875), (350, 1.0)])
def test_center_fit_is_pillows_resize_and_centre_crop(photo, size, crop_pct):
    fitted = image_ops.center_fit(photo[None], size, crop_pct).numpy()[0]
    side = int(size / crop_pct)
    resized = Image.fromarray(photo).resize((int(side * 400 / 300), side), Image.BICUBIC)
    top, left = round((resized.height - size) / 2), round((resized.width - size) / 2)
    expected = resized.crop((left, top, left + size, top + size))
    assert _levels(fitted, expected).max() <= 1
    assert (_levels(fitted, expected) > 0).mean() < 0.001


def test_center_fit_of_mixed_sizes_in_a_graph_equals_the_eager_one(photo):
    graph = tf.function(lambda image: image_ops.center_fit(image[None], 48)[0],
                        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    for image in (photo, photo[:, :200], photo[:90]):
        assert np.array_equal(graph(image).numpy(), image_ops.center_fit(image[None], 48).numpy()[0])


def test_images_of_the_right_size_pass_untouched(photo):
    square = photo[None, :64, :64]
    assert np.array_equal(np.asarray(image_ops.center_fit(square, 64)), square)


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("box", [(10, 20, 200, 300), (0, 0, 16, 20), (57, 111, 33, 32)])
def test_resample_of_a_box_is_pillows_crop_and_resize(photo, box, bicubic):
    top, left, height, width = box
    start, length = tf.constant([[top, left]], tf.float32), tf.constant([[height, width]], tf.float32)
    ours = image_ops.resample(photo[None], start, length, start, start + length, 32, tf.constant([bicubic]))
    crop = Image.fromarray(photo).crop((left, top, left + width, top + height))
    theirs = crop.resize((32, 32), Image.BICUBIC if bicubic else Image.BILINEAR)
    assert _levels(ours[0], theirs).max() <= 1


def test_normalize_by_hand():
    images = np.array([[[[0, 255, 51]]]], np.uint8)
    found = image_ops.normalize(images, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2)).numpy()
    np.testing.assert_allclose(found, [[[[-1.0, 1.5, 0.5]]]], rtol=1e-6)
