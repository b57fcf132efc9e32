"""Crop, resized crop and flip: pixels against NumPy, distributions against closed forms."""

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment import geometric
from cct_tf.augment.geometric import AlternatingFlip, RandomCrop, RandomFlip, RandomResizedCrop
from cct_tf.augment.transform import Transform

SEEDS = rng.fold(1, rng.Stream.EXAMPLE, tf.range(20_000))
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), np.uint8)


def test_crop_cuts_the_sampled_window_out_of_the_padded_image():
    op = RandomCrop(3)
    offsets = op.sample(SEEDS[:6])
    cropped = op.apply(IMAGES, offsets).numpy()
    for image, (y, x), found in zip(IMAGES, offsets.numpy(), cropped, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        assert np.array_equal(found, padded[y:y + 10, x:x + 12])


def test_crop_offsets_are_uniform_and_independent():
    offsets = RandomCrop(4).sample(SEEDS).numpy()
    counts = np.zeros((9, 9))
    np.add.at(counts, (offsets[:, 0], offsets[:, 1]), 1)
    expected = len(offsets) / 81
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 80) < 5 * np.sqrt(2 * 80)


def test_flip_mirrors_half_of_the_images():
    op = RandomFlip()
    flipped = op.sample(SEEDS).numpy()
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(flipped))
    found = op.apply(IMAGES, tf.constant([True, False] * 3)).numpy()
    assert np.array_equal(found[::2], IMAGES[::2, :, ::-1])
    assert np.array_equal(found[1::2], IMAGES[1::2])


def test_alternating_flip_mirrors_an_image_in_every_second_epoch():
    op, keys = AlternatingFlip(), rng.fold(1, rng.Stream.IMAGE, tf.range(20_000))
    flipped = np.stack([op.sample(keys, tf.fill([20_000], tf.constant(epoch, tf.int64))) for epoch in range(4)])
    assert (flipped[0] != flipped[1]).all()
    assert (flipped[0] == flipped[2]).all() and (flipped[1] == flipped[3]).all()
    assert abs(flipped[0].mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    mixed = op.sample(keys[:2], tf.constant([0, 1], tf.int64)).numpy()  # a batch across the end of an epoch
    assert mixed.tolist() == [flipped[0, 0], flipped[1, 1]]
    found = op.apply(IMAGES, tf.constant([True, False] * 3)).numpy()
    assert np.array_equal(found[::2], IMAGES[::2, :, ::-1]) and np.array_equal(found[1::2], IMAGES[1::2])


def test_resized_crop_draws_the_area_and_ratio_it_should():
    """With ratios close to 1 nearly every first draw fits, so area and log ratio are uniform."""
    params = RandomResizedCrop(32, (0.2, 0.8), (0.9, 1 / 0.9)).sample(SEEDS, 1000, 1000)
    top, left, height, width = params["box"].numpy().T
    area, log_ratio = height * width / 1e6, np.log(width / height)
    for values, low, high in ((area, 0.2, 0.8), (log_ratio, np.log(0.9), -np.log(0.9))):
        deviation = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 5 * deviation / np.sqrt(len(values))
        assert abs(values.std() / deviation - 1) < 0.02
        assert values.min() > low - 0.002 and values.max() < high + 0.002
    assert top.min() == 0 and (top + height).max() == 1000
    down, right = top / (1000 - height), left / (1000 - width)  # share of the room the box leaves
    assert abs(down.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(down, right)[0, 1]) < 5 / np.sqrt(len(down))
    assert abs(params["bicubic"].numpy().mean() - 0.5) < 0.015


def test_resized_crop_without_a_fitting_draw_takes_the_largest_centred_box():
    # A whole-area crop of ratio 2 never fits into a square.
    params = RandomResizedCrop(8, (1.0, 1.0), (2.0, 2.0)).sample(SEEDS[:4], 40, 40)
    assert params["box"].numpy().tolist() == [[10, 0, 20, 40]] * 4


def test_pixels_of_an_example_do_not_depend_on_its_batch():
    transform = Transform(8, (0.5,), (0.5,), crop_padding=2, resized_crop=(0.3, 1.0), flip="random")

    def prepare(images, seeds):
        return transform.augment(transform.resize(images, seeds), seeds).numpy()

    whole = prepare(tf.constant(IMAGES), SEEDS[:6])
    for index in range(6):
        assert np.array_equal(prepare(tf.constant(IMAGES[index:index + 1]), SEEDS[index:index + 1])[0], whole[index])


def test_unfinish_is_the_inverse_of_finish():
    transform = Transform(10, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    np.testing.assert_allclose(transform.unfinish(transform.finish(tf.constant(IMAGES))), IMAGES / 255.0, atol=1e-6)


def test_eager_calls_share_a_program(monkeypatch):
    apply, traced = geometric.RandomFlip.apply, []
    monkeypatch.setattr(geometric.RandomFlip, "apply", lambda *args: traced.append(1) or apply(*args))
    for seed in range(3):
        images, seeds = tf.zeros([3, 7, 7, 3], tf.uint8), tf.constant([seed, 5, 6], tf.uint32)
        Transform(7, (0.5,), (0.5,), flip="random").augment(images, seeds)
    assert len(traced) == 1
