"""Masks of dropout and stochastic depth: right rate, and a function of (example seed, site, element) alone."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.layers import drop

SEEDS = rng.fold(0, rng.Stream.EXAMPLE, tf.range(64))
ONES = tf.ones([64, 20, 24])


def mask(site=20, rate=0.25, seeds=SEEDS, layer=drop.Dropout):
    return layer(rate, site)(tf.ones([len(seeds), 20, 24]), seeds=seeds, training=True).numpy()


def test_dropped_share_is_the_rate_and_the_rest_keeps_the_mean():
    y = mask()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    share, n = np.mean(y == 0), y.size
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5


def test_mask_does_not_depend_on_the_place_in_the_batch():
    order = [40, 3, 3, 17]
    np.testing.assert_array_equal(mask(seeds=tf.gather(SEEDS, order)), mask()[order])


@pytest.mark.parametrize("other", [{"site": 21}, {"site": 36}, {"seeds": SEEDS + tf.constant(1, tf.uint32)}])
def test_masks_of_other_sites_and_seeds_are_uncorrelated(other):
    a, b = mask() == 0, mask(**other) == 0
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size**0.5


def test_drop_path_zeroes_whole_examples():
    y = mask(rate=0.5, layer=drop.DropPath)
    first = y[:, 0, 0]
    np.testing.assert_array_equal(y, np.broadcast_to(first[:, None, None], y.shape))
    assert set(np.unique(y)) == {np.float32(0), np.float32(2)}
    assert 16 <= np.sum(first == 0) <= 48  # 4 standard deviations of 64 draws


def test_xla_draws_the_same_mask():
    layer = drop.Dropout(0.25, 20)
    compiled = tf.function(lambda x, s: layer(x, seeds=s, training=True), jit_compile=True)
    np.testing.assert_array_equal(compiled(ONES, SEEDS), mask())


@pytest.mark.parametrize("layer", [drop.Dropout, drop.DropPath])
def test_training_without_seeds_is_an_error(layer):
    with pytest.raises(ValueError, match="seeds: expected example seeds"):
        layer(0.1, 20)(ONES, training=True)
    for quiet in (layer(0.1, 20)(ONES, training=False), layer(0.1, 20)(ONES), layer(0.0, 20)(ONES, training=True)):
        np.testing.assert_array_equal(quiet, ONES)


def test_gradient_passes_through_what_was_kept():
    layer = drop.Dropout(0.25, 20)
    with tf.GradientTape() as tape:
        tape.watch(ONES)
        y = layer(ONES, seeds=SEEDS, training=True)
    np.testing.assert_array_equal(tape.gradient(y, ONES), y)


def test_sites_are_distinct_and_in_the_layers_range():
    places = (drop.ATTENTION, drop.PROJECTION, drop.MLP_HIDDEN, drop.MLP_OUTPUT, drop.ATTENTION_PATH, drop.MLP_PATH)
    sites = [drop.TOKENS] + [drop.block_site(block, place) for block in range(100) for place in places]
    assert len(set(sites)) == 601 and max(sites) < drop.LAYER_SITES == 2**16
    assert drop.block_site(0, drop.ATTENTION) == 16 and drop.block_site(3, drop.MLP_PATH) == 69
    with pytest.raises(ValueError):
        drop.block_site(5000, drop.ATTENTION)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        drop.Dropout(rate, 20)
