"""Random erasing: pixels with given boxes, boxes and noise against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment.erasing import RandomErasing

SEEDS = rng.fold(1, rng.Stream.EXAMPLE, tf.range(20_000))
IMAGES = np.random.default_rng(0).normal(size=(5, 9, 11, 3)).astype(np.float32)
BOXES = np.array([[2, 3, 7, 5], [0, 0, 9, 11], [0, 0, 0, 0], [8, 10, 9, 11], [4, 4, 4, 9]], np.int32)
PARAMS = {"box": tf.constant(BOXES), "seeds": SEEDS[:5]}
MODES = ("constant", "channel", "pixel")


def _inside(box, height, width):
    """bool [H, W], the pixels of a box."""
    mask = np.zeros((height, width), bool)
    mask[box[0]:box[2], box[1]:box[3]] = True
    return mask


def _noise(mode, count, side):
    """What fills a whole image: [count, side, side, 3]."""
    box = tf.tile(tf.constant([[0, 0, side, side]]), [count, 1])
    images = tf.fill([count, side, side, 3], 99.0)
    return RandomErasing(1.0, mode).apply(images, {"box": box, "seeds": SEEDS[:count]}).numpy()


@pytest.mark.parametrize("mode", MODES)
def test_only_the_box_is_filled_and_with_what_the_mode_says(mode):
    erased = RandomErasing(1.0, mode).apply(tf.constant(IMAGES), PARAMS).numpy()
    for image, found, box in zip(IMAGES, erased, BOXES, strict=True):
        mask = _inside(box, 9, 11)
        assert np.array_equal(found[~mask], image[~mask])
        distinct = np.unique(found[mask], axis=0)
        assert len(distinct) == (mask.sum() if mode == "pixel" else min(mask.sum(), 1))
        if mode == "constant":
            assert not found[mask].any()
        elif mask.any():
            assert len(np.unique(distinct[0])) == 3  # a number for each channel


def test_boxes_have_the_area_and_aspect_of_the_paper():
    """Uniform area, log-uniform aspect. Up to an area of 0.3 every aspect fits; above, some draws are thrown away."""
    top, left, bottom, right = RandomErasing(1.0).sample(SEEDS, 2000, 2000)["box"].numpy().T
    height, width = bottom - top, right - left
    area, log_aspect = height * width / 4e6, np.log(height / width)
    assert height.max() < 2000 and width.max() < 2000 and area.max() < 1 / 3 + 1e-3
    most = -np.log(0.3)
    integral = [side + (side * np.log(side) - side) / most for side in (0.3, 1 / 3)]
    rejected = (integral[1] - integral[0]) / (1 / 3 - 0.02)
    small = area < 0.3
    expected = (0.3 - 0.02) / (1 / 3 - 0.02) / (1 - rejected)
    assert abs(small.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(area))
    for values, low, high in ((area[small], 0.02, 0.3), (log_aspect[small], -most, most)):
        deviation = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 5 * deviation / np.sqrt(len(values))
        assert abs(values.std() / deviation - 1) < 0.02
    down, along = top / (2000 - height), left / (2000 - width)  # share of the room the box leaves
    for place in (down, along):
        assert abs(place.mean() - 0.5) < 5 / np.sqrt(12 * len(place)) and abs(place.std() * np.sqrt(12) - 1) < 0.02
    assert abs(np.corrcoef(down, along)[0, 1]) < 5 / np.sqrt(len(top))


@pytest.mark.parametrize("height, width", [(8, 8), (32, 32), (20, 80)])
def test_boxes_lie_inside_the_image_and_reach_its_borders(height, width):
    top, left, bottom, right = RandomErasing(1.0).sample(SEEDS, height, width)["box"].numpy().T
    assert top.min() == 0 and left.min() == 0 and bottom.max() == height and right.max() == width
    assert (bottom - top).max() < height and (right - left).max() < width
    assert (bottom > top).all() and (right > left).all()


def test_images_are_erased_at_the_probability():
    box = RandomErasing(0.25).sample(SEEDS, 32, 32)["box"].numpy()
    assert abs((box[:, 2] > box[:, 0]).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / len(box))


def test_nothing_is_erased_where_no_draw_fits():
    # An area of at least 8 pixels is at least 2 rows high, and a box has to be lower than the image.
    assert not RandomErasing(1.0).sample(SEEDS[:500], 2, 200)["box"].numpy().any()


@pytest.mark.parametrize("mode, count, side", [("pixel", 128, 32), ("channel", 20_000, 1)])
def test_noise_is_normal(mode, count, side):
    noise = _noise(mode, count, side).astype(np.float64)
    size = noise.size
    assert abs(noise.mean()) < 5 / np.sqrt(size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / size)
    assert abs((noise**3).mean()) < 5 * np.sqrt(15 / size)
    assert abs((noise**4).mean() - 3) < 5 * np.sqrt(96 / size)
    assert abs((noise > 1.0).mean() - 0.158655) < 5 * np.sqrt(0.1335 / size)
    assert np.isfinite(noise).all() and 4 < np.abs(noise).max() < 4.5


def test_noise_is_uncorrelated_between_examples_pixels_and_channels():
    noise = _noise("pixel", 64, 32)
    pairs = ((noise[:-1], noise[1:]), (noise[:, :-1], noise[:, 1:]), (noise[:, :, :-1], noise[:, :, 1:]),
             (noise[..., 0], noise[..., 1]), (noise[..., 1], noise[..., 2]))
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


@pytest.mark.parametrize("mode", MODES)
def test_an_example_does_not_depend_on_its_batch_nor_on_xla(mode):
    op = RandomErasing(0.8, mode)

    def erase(images, seeds):
        return op.apply(images, op.sample(seeds, 9, 11))

    whole = erase(IMAGES, SEEDS[:5]).numpy()
    for index in range(5):
        assert np.array_equal(erase(IMAGES[index:index + 1], SEEDS[index:index + 1])[0], whole[index])
    params = op.sample(SEEDS[:5], 9, 11)
    assert np.array_equal(tf.function(op.apply, jit_compile=True)(tf.constant(IMAGES), params), whole)
