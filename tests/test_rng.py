"""The randomness contract: right rates, no correlations, the same bits everywhere."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.rng import Stream


def _unit(bits):
    """uint32 -> float64 in [0, 1) with all 32 bits."""
    return np.asarray(bits, np.float64) / 2.0**32


def _correlation(a, b):
    return abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def test_example_seeds_of_one_run_never_repeat():
    seeds = rng.fold(3, Stream.EXAMPLE, tf.range(200_000)).numpy()
    assert len(np.unique(seeds)) == len(seeds)


def test_both_words_of_an_index_and_of_the_seed_count():
    values = {int(rng.fold(seed, stream, index)) for seed in (0, 1, 2**40) for stream in (Stream.ORDER, Stream.EXAMPLE)
              for index in (0, 1, 2**32, 2**32 + 1)}
    assert len(values) == 3 * 2 * 4


def test_python_and_tensor_indices_agree():
    indices = [0, 7, 2**31, 2**32 + 5, 2**62]
    tensor = rng.fold(11, Stream.STEP, tf.constant(indices, tf.int64)).numpy()
    assert [int(rng.fold(11, Stream.STEP, index)) for index in indices] == tensor.tolist()


def test_the_numbers_are_those_of_every_earlier_version():
    """Whole numbers are the same on all machines, and a run must go on under newer code."""
    seeds = rng.fold(2**40 + 7, Stream.EXAMPLE, tf.constant([5, 2**33], tf.int64))
    assert seeds.numpy().tolist() == [0x8085118A, 0x927115D5]
    assert rng.draw(seeds, 17).numpy().tolist() == [0x5372C47B, 0xCD31EDAD]
    assert rng.bits(seeds, 17, (2, 2)).numpy().ravel().tolist() == [
        0x3A98EFD7, 0xFA717008, 0x4EF86B7B, 0x481B1DA2, 0x0A2D9BFB, 0x288AF720, 0xFC655A5D, 0x4EDB5E5A]
    assert rng.fold_pair(3, Stream.ORDER, 4).numpy().tolist() == [1055133792, -1117370866]


def test_what_is_hashed_in_python_is_hashed_alike():
    numbers = [0, 1, 77, 2**31, 2**32 - 1]
    assert [rng.mix(number) for number in numbers] == rng.mix(tf.constant(numbers, tf.uint32)).numpy().tolist()
    assert rng.mix(2**32 + 77) == rng.mix(77)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
def test_sizes_known_only_in_the_graph_give_the_same_bits(shape):
    seeds = rng.fold(9, Stream.EXAMPLE, tf.range(10))
    expected = rng.bits(seeds, 5, shape).numpy()
    for known in range(len(shape)):
        sizes = shape[:known] + tuple(tf.constant(size) for size in shape[known:])
        assert np.array_equal(rng.bits(seeds, 5, sizes).numpy(), expected)


@pytest.mark.parametrize("stream", [Stream.EXAMPLE, Stream.STEP, Stream.IMAGE])
def test_neighbouring_indices_are_uncorrelated_and_uniform(stream):
    values = _unit(rng.fold(5, stream, tf.range(100_000)))
    assert abs(values.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(values))
    assert abs(values.var() - 1 / 12) < 0.002
    for distance in (1, 2, 128):
        assert _correlation(values[:-distance], values[distance:]) < 4 / np.sqrt(len(values))


def test_streams_are_uncorrelated():
    values = [_unit(rng.fold(5, stream, tf.range(50_000))) for stream in Stream]
    for first in range(len(values)):
        for second in range(first):
            assert _correlation(values[first], values[second]) < 4.5 / np.sqrt(50_000)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_mask_drops_at_its_rate(rate):
    seeds = rng.fold(1, Stream.EXAMPLE, tf.range(256))
    kept = rng.keep_mask(seeds, 17, (2, 64, 64), rate).numpy()
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs((1 - kept.mean()) - rate) < 4 * deviation


def test_masks_are_uncorrelated_between_examples_layers_elements_and_steps():
    first = rng.fold(1, Stream.EXAMPLE, tf.range(64))
    later = rng.fold(1, Stream.EXAMPLE, tf.range(64) + 64)
    mask = rng.keep_mask(first, 17, (64, 64), 0.3).numpy().astype(float)
    others = {"layer": rng.keep_mask(first, 18, (64, 64), 0.3), "step": rng.keep_mask(later, 17, (64, 64), 0.3)}
    bound = 4.5 / np.sqrt(mask.size)
    for other in others.values():
        assert _correlation(mask, other.numpy()) < bound
    assert _correlation(mask[:-1], mask[1:]) < bound
    assert _correlation(mask[:, :-1], mask[:, 1:]) < bound
    assert _correlation(mask[:, :, :-1], mask[:, :, 1:]) < bound


def test_no_example_has_the_numbers_of_another_in_another_order():
    """What a plain counter xor seed would give: sorted numbers that agree in large part."""
    bits = rng.bits(rng.fold(1, Stream.EXAMPLE, tf.range(40)), 3, (4096,)).numpy()
    shared = max(len(np.intersect1d(bits[a], bits[b])) for a in range(40) for b in range(a))
    assert shared <= 3  # expectation 4096^2 / 2^32 = 0.004


def test_bits_do_not_depend_on_the_rest_of_the_batch():
    seeds = rng.fold(9, Stream.EXAMPLE, tf.range(10))
    whole = rng.bits(seeds, 5, (3, 7)).numpy()
    assert np.array_equal(rng.bits(seeds[4:6], 5, (3, 7)).numpy(), whole[4:6])


def test_xla_gives_the_same_bits():
    seeds = rng.fold(9, Stream.EXAMPLE, tf.range(10))
    compiled = tf.function(lambda s: rng.bits(s, 5, (3, 7)), jit_compile=True)
    assert np.array_equal(compiled(seeds).numpy(), rng.bits(seeds, 5, (3, 7)).numpy())


def test_elements_of_a_shape_are_all_different():
    bits = rng.bits(rng.fold(9, Stream.EXAMPLE, tf.range(1)), 5, (8, 32, 32)).numpy()
    assert len(np.unique(bits)) == 8 * 32 * 32


def test_order_is_a_permutation_and_epochs_are_uncorrelated():
    n = 10_000
    orders = [rng.permutation(n, rng.fold_pair(7, Stream.ORDER, epoch)).numpy() for epoch in range(4)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(n))
    for first in range(4):
        for second in range(first):
            assert _correlation(orders[first], orders[second]) < 4 / np.sqrt(n)


def test_order_is_the_same_in_graphs_and_in_tf_data():
    eager = rng.permutation(100, rng.fold_pair(7, Stream.ORDER, 3)).numpy()
    graph = tf.function(lambda epoch: rng.permutation(100, rng.fold_pair(7, Stream.ORDER, epoch)))
    dataset = tf.data.Dataset.range(3, 4).map(lambda epoch: rng.permutation(100, rng.fold_pair(7, Stream.ORDER, epoch)))
    assert np.array_equal(graph(tf.constant(3, tf.int64)).numpy(), eager)
    assert np.array_equal(next(iter(dataset)).numpy(), eager)


def test_uniform_int_covers_its_range_evenly():
    values = rng.uniform_int(rng.fold(1, Stream.EXAMPLE, tf.range(90_000)), 9).numpy()
    counts = np.bincount(values, minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)
