"""Drawing by class: frequencies against the formula, and draws that are a function of seed and place alone."""

import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline, sampler
from cct_tf.data.source import Split
from cct_tf.errors import UserError
from cct_tf.readers.held import Held

LABELS = np.random.default_rng(0).permutation(np.repeat(np.int32([0, 2, 3]), [900, 100, 4]))  # none of class 1
DRAWS = 200_000


@pytest.mark.parametrize(("name", "expected"), [
    ("balanced", [1 / 3, 0, 1 / 3, 1 / 3]), ("sqrt", np.sqrt([900, 0, 100, 4]) / 42)])
def test_classes_and_their_images_are_drawn_as_often_as_the_formula_says(name, expected):
    np.testing.assert_allclose(sampler.probabilities(name, np.bincount(LABELS)), expected)
    index = sampler.draws(name, LABELS, 5)(tf.range(DRAWS, dtype=tf.int64)).numpy()
    counts = np.bincount(LABELS[index], minlength=4)
    spread = 5 * np.sqrt(DRAWS * np.array(expected) * (1 - np.array(expected)))
    assert (np.abs(counts - DRAWS * np.array(expected)) <= spread).all()
    for label in (0, 2, 3):  # chi-squared of the images of a class: k - 1 on average, +- sqrt(2 (k - 1))
        of_images = np.bincount(index, minlength=len(LABELS))[LABELS == label]
        mean, free = of_images.mean(), len(of_images) - 1
        assert abs(((of_images - mean) ** 2 / mean).sum() - free) < 5 * np.sqrt(2 * free) + 5


def test_a_draw_is_a_function_of_seed_and_place():
    draw = sampler.draws("balanced", LABELS, 5)
    places = tf.range(2**33, 2**33 + 500, dtype=tf.int64)
    found = draw(places).numpy()
    assert np.array_equal(draw(places[::-1]).numpy()[::-1], found)
    assert (sampler.draws("balanced", LABELS, 6)(places).numpy() != found).mean() > 0.9
    assert (draw(places + 500).numpy() != found).mean() > 0.9


PIXELS = np.random.default_rng(1).integers(0, 256, [30, 8, 8, 3]).astype(np.uint8)
SPLIT = Split("train", Held(tf.constant(PIXELS), np.arange(30)), 30, np.repeat(np.int32([0, 1]), [25, 5]))
STAGES = Transform(8, (0.0,), (1.0,), flip="random").training_stages(2)


def _batches(batch_size, start, number, share=(0, 1), repeats=1):
    sampling = pipeline.Sampling(4, batch_size, repeats, "balanced")
    found = list(pipeline.train_batches(SPLIT, STAGES, sampling, start, number, share).as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in found]) for name in ("image", "label", "seed")}


def test_batches_do_not_depend_on_their_size_on_the_first_step_or_on_workers():
    whole = _batches(12, 0, 10)
    drawn = sampler.draws("balanced", SPLIT.labels, 4)(tf.range(120, dtype=tf.int64)).numpy()
    assert np.array_equal(whole["label"].argmax(1), SPLIT.labels[drawn]) and 30 < whole["label"][:, 1].sum() < 90
    smaller, later = _batches(4, 0, 30), _batches(12, 7, 3)
    shares = [_batches(12, 0, 10, (worker, 2)) for worker in range(2)]
    for name in whole:
        assert np.array_equal(smaller[name], whole[name])
        assert np.array_equal(later[name], whole[name][84:])
        joined = np.stack([share[name].reshape(10, 6, *share[name].shape[1:]) for share in shares], axis=1)
        assert np.array_equal(joined.reshape(whole[name].shape), whole[name])


def test_copies_of_repeated_augmentation_are_copies_of_a_draw():
    twice, once = _batches(12, 0, 5, repeats=2)["label"].reshape(5, 2, 6, 2), _batches(6, 0, 5)["label"]
    assert np.array_equal(twice[:, 0], twice[:, 1]) and np.array_equal(twice[:, 0].reshape(30, 2), once)


def test_a_set_whose_labels_are_unknown_is_refused():
    stream = types.SimpleNamespace(labels=None)
    sampler.check("none", stream)
    with pytest.raises(UserError, match="^--sampler: expected none for a TFDS set .* found sqrt$"):
        sampler.check("sqrt", stream)
