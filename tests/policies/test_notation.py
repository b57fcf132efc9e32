"""What policies draw: arguments by hand, distributions against closed forms, independence of the batch."""

import collections
import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.policies import notation
from cct_tf.policies.notation import BICUBIC, BILINEAR, Op
from cct_tf.policies.rand_augment import make_policy, normal

SIZE = 32
N = 120_000
SEEDS = rng.fold(3, rng.Stream.EXAMPLE, tf.range(N))
NAMES = ("rand-m9-mstd0.5-inc1", "rand-m5-mstd101-n3", "cifar10", "cifar10_torchvision", "imagenet", "svhn", "trivial")
RECIPE = "rand-m9-mstd0.5-inc1"
MEAN = (0.4914, 0.4822, 0.4465)


def draws(name, seeds=SEEDS, size=SIZE):
    """The stages as dicts of arrays."""
    stages = make_policy(notation.resolve(name), MEAN).sample(seeds, size)
    return [{key: value.numpy() for key, value in stage.items()} for stage in stages]


@pytest.fixture(scope="module")
def recipe():
    return draws(RECIPE)


def assert_counts(found, expected):
    """Pearson's chi-square: `expected` maps outcomes to probabilities; outcomes rarer than 5 in N are pooled."""
    assert sum(expected.values()) == pytest.approx(1.0)
    assert set(found) <= {outcome for outcome, probability in expected.items() if probability > 0}
    total = sum(found.values())
    pairs = [(found[outcome], probability * total) for outcome, probability in expected.items()]
    common = [pair for pair in pairs if pair[1] >= 5]
    rare = np.sum([pair for pair in pairs if pair[1] < 5], axis=0) if len(common) < len(pairs) else (0, 0)
    if rare[1] > 0:
        assert abs(rare[0] - rare[1]) < 5 * math.sqrt(rare[1]) + 1
    freedom = len(common) - 1
    chi_square = sum((count - mean) ** 2 / mean for count, mean in common)
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def outcomes(stages):
    """Each example's operations and arguments, all stages together."""
    columns = [column for stage in stages for column in (stage["op"].tolist(), stage["argument"].tolist())]
    return collections.Counter(zip(*columns, strict=True))


# RandAugment. RECIPE_FACTS: timm's arguments at magnitude m, for images of 32 pixels.
def both(distance, centre=0.0):
    return {centre - distance, centre + distance}


ENHANCEMENTS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.SHARPNESS)
ARGUMENTS = [
    ("rand-m9-inc1-p1", {Op.ROTATE: both(27), Op.POSTERIZE: {1}, Op.SOLARIZE: {26}, Op.SOLARIZE_ADD: {99},
                         Op.SHEAR_X: both(0.27), Op.TRANSLATE_X: both(12.96), Op.COLOR: both(0.81, 1)}),
    ("rand-m10-inc1-p1", {Op.ROTATE: both(30), Op.POSTERIZE: {0}, Op.SOLARIZE: {0}, Op.SOLARIZE_ADD: {110},
                          Op.SHEAR_X: both(0.3), Op.TRANSLATE_X: both(14.4), Op.COLOR: both(0.9, 1)}),
    ("rand-m4.5-inc1-p1", {Op.ROTATE: both(13.5), Op.POSTERIZE: {3}, Op.SOLARIZE: {141}, Op.SOLARIZE_ADD: {49},
                           Op.SHEAR_X: both(0.135), Op.TRANSLATE_X: both(6.48), Op.COLOR: both(0.405, 1)}),
    ("rand-m0-inc1-p1", {Op.ROTATE: {0}, Op.POSTERIZE: {4}, Op.SOLARIZE: {256}, Op.SOLARIZE_ADD: {0},
                         Op.SHEAR_X: {0}, Op.TRANSLATE_X: {0}, Op.COLOR: {1}}),
    ("rand-m9-inc0-p1", {Op.ROTATE: both(27), Op.POSTERIZE: {3}, Op.SOLARIZE: {230}, Op.SOLARIZE_ADD: {99},
                         Op.SHEAR_X: both(0.27), Op.TRANSLATE_X: both(12.96), Op.COLOR: {1.72}}),
    ("rand-m0-inc0-p1", {Op.ROTATE: {0}, Op.POSTERIZE: {0}, Op.SOLARIZE: {0}, Op.SOLARIZE_ADD: {0},
                         Op.SHEAR_X: {0}, Op.TRANSLATE_X: {0}, Op.COLOR: {0.1}}),
]


@pytest.mark.parametrize(("name", "by_hand"), ARGUMENTS)
def test_rand_augment_arguments(name, by_hand):
    expected = by_hand | dict.fromkeys(ENHANCEMENTS, by_hand[Op.COLOR])
    expected |= {Op.SHEAR_Y: by_hand[Op.SHEAR_X], Op.TRANSLATE_Y: by_hand[Op.TRANSLATE_X]}
    expected |= dict.fromkeys((Op.AUTO_CONTRAST, Op.EQUALIZE, Op.INVERT), {0})
    for stage in draws(name, SEEDS[:2000]):
        assert set(stage["op"]) == set(expected)
        for op, values in expected.items():
            found = np.unique(stage["argument"][stage["op"] == op])
            np.testing.assert_allclose(found, sorted(values), rtol=1e-12)


def test_rand_augment_translates_by_a_share_of_the_side():
    stage, _ = draws("rand-m9-p1-inc1", SEEDS[:2000], size=224)
    for op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
        np.testing.assert_allclose(np.abs(stage["argument"][stage["op"] == op]), 0.405 * 224, rtol=1e-12)


def test_rand_augment_operations_and_their_independence(recipe):
    """Half of the draws do nothing; the 15 operations share the other half; the stages know nothing of each other."""
    chance = {op: 0.5 if op == Op.IDENTITY else 0.5 / 15 for op in Op}
    assert len(chance) == 16
    pairs = collections.Counter(zip(*(stage["op"].tolist() for stage in recipe), strict=True))
    assert_counts(pairs, {(one, two): chance[one] * chance[two] for one, two in itertools.product(Op, Op)})


@pytest.mark.parametrize(("name", "rate"), [("rand-p0.1", 0.1), ("rand-p0", 0.0), ("rand-p1", 1.0)])
def test_rand_augment_applies_with_its_probability(name, rate):
    for stage in draws(name):
        applied = stage["op"] != Op.IDENTITY
        assert abs(applied.mean() - rate) <= 5 * math.sqrt(rate * (1 - rate) / N)
        assert (stage["argument"][~applied] == 0).all()


def magnitudes(stage, enhanced=0.09):
    """Magnitudes and signs of the operations whose argument shows both exactly, and where they are."""
    unit = {Op.ROTATE: 3.0, Op.SHEAR_X: 0.03, Op.SHEAR_Y: 0.03, Op.TRANSLATE_X: 0.045 * SIZE,
            Op.TRANSLATE_Y: 0.045 * SIZE} | dict.fromkeys(ENHANCEMENTS, enhanced)
    units = np.array([unit.get(op, np.nan) for op in Op])[stage["op"]]
    signed = (stage["argument"] - np.isin(stage["op"], ENHANCEMENTS)) / units
    shown = ~np.isnan(signed)
    return np.abs(signed[shown]), np.sign(signed[shown]), shown


def test_rand_augment_magnitudes_are_a_clipped_normal(recipe):
    """9 + X / 2 with X = min(Z, c), c = 2: E X = c (1 - F(c)) - f(c), E X^2 = F(c) - c f(c) + c^2 (1 - F(c))."""
    unit = NormalDist()
    tail, density = 1 - unit.cdf(2), unit.pdf(2)
    first = 2 * tail - density
    second = 1 - tail - 2 * density + 4 * tail
    for stage in recipe:
        found, _, _ = magnitudes(stage)
        count = len(found)
        assert abs(count / N - 0.5 * 9 / 15) < 0.01
        assert abs(found.mean() - (9 + 0.5 * first)) < 5 * 0.5 / math.sqrt(count)
        assert abs(found.var() / (0.25 * (second - first**2)) - 1) < 5 * math.sqrt(2 / count)
        clipped = found > 10 - 1e-9
        assert abs(clipped.mean() - 0.02275) < 5 * math.sqrt(0.02275 / count)
        assert found.max() < 10 + 1e-9
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
            below = (found < NormalDist(9, 0.5).inv_cdf(share)).mean()
            assert abs(below - share) < 5 * math.sqrt(share * (1 - share) / count)


def test_rand_augment_uniform_magnitudes():
    found, _, _ = magnitudes(draws("rand-m8-mstd101-inc1-p1")[0])
    count = len(found)
    assert found.min() >= 0 and found.max() < 8
    assert abs(found.mean() - 4) < 5 * 8 / math.sqrt(12 * count)
    assert abs(found.var() - 64 / 12) < 5 * 64 / math.sqrt(180 * count)


def test_normal_has_the_quantiles_it_should():
    """Evenly spaced bits run through the distribution."""
    count = 1 << 18
    bits = tf.cast(tf.range(count, dtype=tf.int64) * (2**32 // count) + 2**32 // (2 * count), tf.uint32)
    found = normal(bits).numpy()
    share = (np.arange(count) + 0.5) / count
    exact = np.vectorize(NormalDist().cdf)(found[::97])
    np.testing.assert_allclose(exact, share[::97], atol=5e-5)
    assert (np.diff(found) > 0).all() and np.abs(found).max() <= 4
    assert abs(found.mean()) < 1e-6 and abs(found.var() - 1) < 1e-3


def test_rand_augment_signs_and_interpolation_are_fair_coins_of_their_own(recipe):
    coins = []
    for stage in recipe:
        _, sign, shown = magnitudes(stage)
        full = np.zeros(N)
        full[shown] = sign
        coins += [full, np.where(stage["interpolation"] == BICUBIC, 1.0, -1.0), (stage["op"] != Op.IDENTITY) * 2.0 - 1]
        assert set(stage["interpolation"]) == {BILINEAR, BICUBIC}
    for coin in coins:
        assert abs(coin.sum()) < 5 * math.sqrt(np.abs(coin).sum())
    for one, two in itertools.combinations(coins, 2):
        assert abs((one * two).sum()) < 5 * math.sqrt(np.abs(one * two).sum())


def test_rand_augment_magnitudes_depend_on_nothing_else(recipe):
    """Of one stage: not on sign, operation or interpolation; not on the other stage's."""
    for stage in recipe:
        found, sign, shown = magnitudes(stage)
        for other in (sign, stage["interpolation"][shown], stage["op"][shown]):
            assert abs(np.corrcoef(found, other)[0, 1]) < 5 / math.sqrt(len(found))
    (one, _, there), (two, _, here) = (magnitudes(stage) for stage in recipe)
    both_shown = there & here
    pair = one[both_shown[there]], two[both_shown[here]]
    assert abs(np.corrcoef(*pair)[0, 1]) < 5 / math.sqrt(both_shown.sum())


@pytest.mark.parametrize("name", ["cifar10", "cifar10_torchvision", "imagenet", "svhn", "trivial"])
def test_rows_probabilities_and_signs_have_the_joint_distribution_of_the_table(name):
    """Every outcome (operations and arguments of all stages) with the probability that the rows give it."""
    policy = notation.resolve(name)
    expected = collections.Counter()
    for row in policy.rows:
        branches = []
        for op, probability, bin_ in row:
            values = notation.arguments(policy.reading, Op[op], SIZE)[bin_].tolist()
            branches.append([((int(Op.IDENTITY), 0.0), 1 - probability)]
                            + [((int(Op[op]), value), probability / 2) for value in values])
        for combination in itertools.product(*branches):
            outcome = tuple(itertools.chain.from_iterable(key for key, _ in combination))
            expected[outcome] += math.prod(chance for _, chance in combination) / len(policy.rows)
    assert_counts(outcomes(draws(name)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_draws_of_an_example_do_not_depend_on_its_batch(name):
    """To the last bit, in batches of any size, in a graph that does not know it and inside tf.data."""
    policy = make_policy(notation.resolve(name), MEAN)
    sample = tf.function(lambda seeds: policy.sample(seeds, SIZE), input_signature=[tf.TensorSpec([None], tf.uint32)])
    seeds = SEEDS[:259]
    whole = draws(name, seeds)
    for batch in (1, 3, 7, 128):
        pieces = [sample(seeds[start:start + batch]) for start in range(0, 259, batch)]
        for stage, parts in zip(whole, zip(*pieces, strict=True), strict=True):
            for key, values in stage.items():
                found = np.concatenate([part[key].numpy() for part in parts])
                assert np.array_equal(found, values)
    pipeline = tf.data.Dataset.from_tensor_slices(seeds).batch(100).map(lambda seeds: policy.sample(seeds, SIZE))
    for key in whole[0]:
        found = np.concatenate([stages[-1][key] for stages in pipeline.as_numpy_iterator()])
        assert np.array_equal(found, whole[-1][key])


@pytest.mark.parametrize("name", NAMES)
def test_stages_have_the_types_that_apply_takes(name):
    policy = make_policy(notation.resolve(name), MEAN)
    stages = policy.sample(SEEDS[:5], SIZE)
    assert len(stages) == {"trivial": 1, "rand-m5-mstd101-n3": 3}.get(name, 2)
    for stage in stages:
        assert {key: (value.dtype, value.shape.as_list()) for key, value in stage.items()} == {
            "op": (tf.int32, [5]), "argument": (tf.float64, [5]), "interpolation": (tf.int32, [5])}


@pytest.mark.parametrize(("name", "mean", "fill"), [
    (RECIPE, MEAN, (125, 123, 114)),  # round(255 mean)
    (RECIPE, (0.2860,), (73, 73, 73)),
    (RECIPE, (1.0, 0.0, 0.5), (255, 0, 128)),
    ("cifar10", MEAN, (128, 128, 128)),
    ("imagenet", MEAN, (0, 0, 0)),
    ("trivial", MEAN, (0, 0, 0)),
])
def test_fill(name, mean, fill):
    assert make_policy(notation.resolve(name), mean).fill == fill


def test_no_policy():
    assert make_policy(notation.resolve("none"), MEAN) is None
