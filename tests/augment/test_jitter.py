"""Colour jitter and vertical flip against torchvision's formulas on Pillow's images, pixel by pixel."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from cct_tf import rng
from cct_tf.augment import hue
from cct_tf.augment.geometric import RandomFlip
from cct_tf.augment.jitter import ColorJitter, make_jitter
from cct_tf.augment.transform import Transform
from cct_tf.policies.notation import Op
from tests.policies.test_operations import patches

SEEDS = rng.fold(1, rng.Stream.EXAMPLE, tf.range(20_000))
ENHANCERS = {Op.BRIGHTNESS: ImageEnhance.Brightness, Op.CONTRAST: ImageEnhance.Contrast, Op.COLOR: ImageEnhance.Color}


def _turned(image, shift):
    """torchvision's adjust_hue of a Pillow image; `shift` is np.int32(hue_factor * 255)."""
    hue_levels, saturation, value = image.convert("HSV").split()
    levels = (np.asarray(hue_levels).astype(int) + shift) % 256  # its uint8 goes round
    return Image.merge("HSV", (Image.fromarray(levels.astype(np.uint8)), saturation, value)).convert("RGB")


def test_every_colour_turns_as_pillow_turns_it():
    random = np.random.default_rng(0)
    corners = np.array(list(itertools.product((0, 1, 127, 128, 254, 255), repeat=3)), np.uint8)
    images = random.integers(0, 256, [64, 128, 128, 3], np.uint8)
    images[:, 0, :128], images[:, 1, :88] = corners[:128], corners[128:]
    images[:, 2] = random.integers(0, 256, [64, 128, 1])  # greys
    shifts = np.concatenate([[0, 1, -1, 127, -127, 64], random.integers(-127, 128, 58)])
    found = hue.turn(images, np.arange(64) != 63, tf.constant(shifts, tf.int32)).numpy()
    for image, shift, ours in zip(images[:63], shifts, found, strict=False):
        assert np.array_equal(ours, _turned(Image.fromarray(image), int(shift)))
    assert np.array_equal(found[63], images[63])  # which was not chosen


@pytest.mark.parametrize("shape", [(32, 32), (20, 32)])
def test_jitter_is_pillows_enhancers_in_the_sampled_order(shape):
    images = patches()[:, :shape[0], :shape[1]]
    op, seeds = ColorJitter(0.4, 0.5, 1.5, 0.2), SEEDS[:len(images)]
    steps, found = op.sample(seeds), images
    for step in steps:
        found = op.apply(found, step)
    for index, image in enumerate(images):
        picture, seen = Image.fromarray(image), set()
        for step in steps:
            way = "hue" if step["turned"][index] else Op(int(step["op"][index]))
            seen.add(way)
            if way == "hue":
                picture = _turned(picture, int(step["shift"][index]))
            else:
                picture = ENHANCERS[way](picture).enhance(float(step["argument"][index]))
        assert seen == {"hue", *ENHANCERS} and np.array_equal(found[index], picture), index


def test_amounts_are_uniform_and_every_order_is_as_likely():
    steps = ColorJitter(0.4, 0.0, 1.5, 0.25).sample(SEEDS)  # no contrast
    kinds = np.stack([np.where(step["turned"], -1, step["op"]) for step in steps], axis=1)
    orders, counts = np.unique(kinds, axis=0, return_counts=True)
    assert len(orders) == 6 and (np.abs(counts - len(kinds) / 6) < 5 * np.sqrt(len(kinds) / 6)).all()
    amounts = np.stack([np.where(step["turned"], step["shift"], step["argument"]) for step in steps], axis=1)
    for kind, low, high in ((Op.BRIGHTNESS, 0.6, 1.4), (Op.COLOR, 0.0, 2.5), (-1, -63.0, 63.0)):
        values = amounts[kinds == kind]
        assert len(values) == len(kinds) and low <= values.min() and values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * len(values))
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.03)


def test_one_number_is_for_all_but_the_hue():
    assert make_jitter((0.4,)) == make_jitter((0.4, 0.4, 0.4)) == ColorJitter(0.4, 0.4, 0.4, 0.0)
    assert make_jitter(None) is None


def test_vertical_flip_mirrors_half_of_the_images_and_not_those_that_the_other_flip_does():
    op, images = RandomFlip(axis=1), patches()[:6]
    flipped = op.sample(SEEDS).numpy()
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(flipped))
    found = op.apply(images, tf.constant([True, False] * 3)).numpy()
    assert np.array_equal(found[::2], images[::2, ::-1]) and np.array_equal(found[1::2], images[1::2])
    both = Transform(32, (0.5,), (0.5,), flip="random", vertical_flip=True)
    ways = [(image, image[:, ::-1], image[::-1], image[::-1, ::-1]) for image in images]
    drawn = [both.augment(images, SEEDS[start:start + 6]).numpy() for start in range(0, 120, 6)]
    places = [next(k for k, way in enumerate(ways[row]) if np.array_equal(batch[row], way))
              for batch in drawn for row in range(6)]
    assert min(np.bincount(places, minlength=4)) > 15


def test_pixels_of_an_example_do_not_depend_on_its_batch():
    transform = Transform(32, (0.5,), (0.5,), jitter=ColorJitter(0.4, 0.4, 0.4, 0.1), vertical_flip=True)
    images, seeds = patches()[:20], SEEDS[:20]
    together = transform.augment(images, seeds).numpy()
    assert (together != images).any(axis=(1, 2, 3)).mean() > 0.9
    for rows in (slice(3, 4), slice(5, 12)):
        assert np.array_equal(transform.augment(images[rows], seeds[rows]), together[rows])
