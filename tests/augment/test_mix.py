"""Mixup and cutmix: pixels against NumPy, what is drawn against closed forms."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from cct_tf.augment.mix import Mix, cutmix_box

STEPS = 20_000
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 10, 12, 3), np.uint8)
LABELS = RANDOM.random((6, 4)).astype(np.float32)
PARTNERS = [1, 0, 3, 2, 5, 4]


def _draws(mix, height, width, steps=STEPS):
    """What `sample` gives in many steps, stacked."""
    dataset = tf.data.Dataset.range(steps).map(lambda step: mix.sample(7, step, height, width), num_parallel_calls=2)
    return next(iter(dataset.batch(steps).as_numpy_iterator()))


def _params(share, box=(0, 0, 0, 0), cutmix=False):
    return {"share": tf.constant(share, tf.float32), "box": tf.constant(box), "cutmix": tf.constant(cutmix)}


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 40_000 / 65_536, 1.0])
def test_mixup_blends_neighbours_and_rounds_halves_to_even(share):
    images, labels = Mix(1.0, 0.0).apply(tf.constant(IMAGES), LABELS, _params(share))
    blend = IMAGES * np.float64(share) + IMAGES[PARTNERS] * (1 - np.float64(share))
    assert np.array_equal(images, np.rint(blend).astype(np.uint8))
    np.testing.assert_allclose(labels, LABELS * share + LABELS[PARTNERS] * (1 - share), rtol=1e-6)


def test_cutmix_pastes_the_box_of_the_neighbour():
    images, labels = Mix(0.0, 1.0).apply(tf.constant(IMAGES), LABELS, _params(0.8, (2, 3, 6, 9), True))
    expected = IMAGES.copy()
    expected[:, 2:6, 3:9] = IMAGES[PARTNERS, 2:6, 3:9]
    assert np.array_equal(images, expected)
    np.testing.assert_allclose(labels, LABELS * 0.8 + LABELS[PARTNERS] * 0.2, rtol=1e-6)


def test_pixels_are_the_same_with_xla_for_every_pair_of_levels():
    mix = Mix(0.8, 0.0)
    levels = np.arange(256, dtype=np.uint8)
    pairs = np.stack(np.meshgrid(levels, levels))[..., None].repeat(3, axis=3)  # [2, 256, 256, 3]
    labels = np.eye(2, dtype=np.float32)
    compiled = tf.function(mix.apply, jit_compile=True)
    for step in range(40):
        params = mix.sample(3, step, 256, 256)
        assert np.array_equal(compiled(pairs, labels, params)[0], mix.apply(tf.constant(pairs), labels, params)[0])


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.8, 1.0, 4.0])
def test_share_of_mixup_follows_the_beta_distribution(alpha):
    share = _draws(Mix(alpha, 0.0), 32, 32)["share"].astype(np.float64)
    variance, kurtosis = 1 / (4 * (2 * alpha + 1)), 3 - 6 / (2 * alpha + 3)
    assert abs(share.mean() - 0.5) < 5 * np.sqrt(variance / STEPS)
    assert abs(share.var() - variance) < 5 * variance * np.sqrt((kurtosis - 1) / STEPS)
    if alpha >= 0.2:  # below, many shares are 0 or 1 to 16 bits
        assert scipy.stats.kstest(share, scipy.stats.beta(alpha, alpha).cdf).statistic < 0.05
        assert scipy.stats.kstest(share[(share > 0.01) & (share < 0.99)], _inner_beta(alpha)).pvalue > 1e-3


def _inner_beta(alpha):
    """Cumulative distribution of Beta(alpha, alpha) between 0.01 and 0.99."""
    cdf = scipy.stats.beta(alpha, alpha).cdf
    return lambda share: (cdf(share) - cdf(0.01)) / (cdf(0.99) - cdf(0.01))


@pytest.mark.parametrize("height, width", [(32, 32), (10, 27)])
def test_cutmix_box_is_that_of_the_formula(height, width):
    for _ in range(300):
        share, y, x = RANDOM.random(), RANDOM.integers(height), RANDOM.integers(width)
        rows, columns = int(height * np.sqrt(1 - share)), int(width * np.sqrt(1 - share))
        expected = [max(y - rows // 2, 0), max(x - columns // 2, 0), min(y + rows // 2, height),
                    min(x + columns // 2, width)]
        assert cutmix_box(tf.constant(share, tf.float64), tf.constant([y, x], tf.int32), height, width
                          ).numpy().tolist() == expected


def test_cutmix_counts_the_area_that_is_left_inside_the_image():
    """Of a side r of the image r - r^2 / 4 stays inside on average; r^2 is uniform for alpha 1."""
    drawn = _draws(Mix(0.0, 1.0), 1000, 1000)
    areas = _areas(drawn["box"]) / 1e6
    np.testing.assert_allclose(drawn["share"], 1 - areas, atol=1e-6)
    expected = 2 * (1 / 4 - 1 / 10 + 1 / 96)
    assert abs(areas.mean() - expected) < 5 * areas.std() / np.sqrt(STEPS) + 1e-3  # sides are whole pixels
    assert drawn["cutmix"].all() and drawn["box"].min() == 0 and drawn["box"].max() == 1000


def test_the_centre_of_a_box_is_uniform():
    """With a huge alpha every side is 2 * (floor(64 sqrt(1/2)) // 2) = 44 pixels, and an end inside the image tells."""
    box = _draws(Mix(0.0, 1e9), 64, 64)["box"]
    start, end = box[:, :2], box[:, 2:]
    centre = np.where(start > 0, start + 22, end - 22)
    counts = [np.bincount(centre[:, axis], minlength=64) for axis in (0, 1)]
    for count in counts:
        chi_square = ((count - STEPS / 64) ** 2 / (STEPS / 64)).sum()
        assert len(count) == 64 and abs(chi_square - 63) < 5 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(centre.T)[0, 1]) < 5 / np.sqrt(STEPS)


def test_batches_are_mixed_and_switched_at_their_probabilities():
    drawn = _draws(Mix(0.8, 1.0, probability=0.6, switch_probability=0.3), 32, 32)
    mixed = drawn["cutmix"] | (drawn["share"] < 1)  # Beta(0.8, 0.8) is 1 to 16 bits once in 20,000
    assert abs(mixed.mean() - 0.6) < 5 * np.sqrt(0.6 * 0.4 / STEPS)
    assert abs(drawn["cutmix"].mean() - 0.18) < 5 * np.sqrt(0.18 * 0.82 / STEPS)
    assert not _areas(drawn["box"])[~drawn["cutmix"]].any()
    mixup = drawn["share"][mixed & ~drawn["cutmix"]]
    assert abs(mixup.var() * 4 * 2.6 - 1) < 0.05  # of Beta(0.8, 0.8), not of cutmix' Beta(1, 1): 0.87


@pytest.mark.parametrize("mix, cutmix", [(Mix(0.8, 0.0, 1.0, 0.5), 0), (Mix(0.0, 1.0, 1.0, 0.5), 1),
                                         (Mix(0.8, 1.0, 1.0, 0.0), 0), (Mix(0.8, 1.0, 1.0, 1.0), 1),
                                         (Mix(0.8, 1.0, 0.0, 1.0), 0)])
def test_one_kind_alone(mix, cutmix):
    drawn = _draws(mix, 32, 32, 200)
    assert drawn["cutmix"].mean() == cutmix
    assert (drawn["share"] == 1).all() == (mix.probability == 0)


def test_a_batch_that_is_not_mixed_is_left_alone():
    mix = Mix(0.8, 1.0, probability=0.0)
    images, labels = mix.apply(tf.constant(IMAGES), LABELS, mix.sample(1, 0, 10, 12))
    assert np.array_equal(images, IMAGES) and np.array_equal(labels, LABELS)


def test_sample_is_a_function_of_seed_and_step():
    mix = Mix(0.8, 1.0)
    inside = _draws(mix, 32, 32, 20)
    shares = [float(mix.sample(7, step, 32, 32)["share"]) for step in range(20)]
    assert inside["share"].tolist() == shares and len(set(shares)) == 20
    assert shares != [float(mix.sample(8, step, 32, 32)["share"]) for step in range(20)]
