"""Batches: the order of the training stream, its independence of batch and start, and padding in evaluation."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline
from cct_tf.data.source import Held, Split

N, K = 23, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
ROWS = np.random.default_rng(1).permutation(40)[:N]
LABELS = (np.arange(N) % K).astype(np.int32)
TRANSFORM = Transform(8, (0.5,), (0.25,), crop_padding=1, flip="random")


@pytest.fixture(scope="module")
def split():
    return Split("train", Held(tf.constant(IMAGES), ROWS), N, LABELS)


def _train(split, batch_size, start_step, num_steps, transform=TRANSFORM, smoothing=0.0):
    batches = pipeline.train_batches(split, transform, num_classes=K, label_smoothing=smoothing, seed=4,
                                     batch_size=batch_size, start_step=start_step, num_steps=num_steps)
    return {name: np.concatenate(parts) for name, parts in
            {name: [batch[name].numpy() for batch in batches] for name in ("image", "label", "seed")}.items()}


def test_positions_and_epochs_follow_the_contract():
    batches = list(pipeline.ordered_positions(N, 4, 10, 0, 7).as_numpy_iterator())
    positions = np.concatenate([batch["position"] for batch in batches])
    indices = np.concatenate([batch["index"] for batch in batches])
    assert positions.tolist() == list(range(70))
    for epoch in range(3):
        order = rng.permutation(N, rng.fold_pair(4, rng.Stream.ORDER, epoch)).numpy()
        assert indices[epoch * N:(epoch + 1) * N].tolist() == order.tolist()


@pytest.mark.parametrize("batch_size", [4, 20, 60])
def test_the_stream_does_not_depend_on_the_batch_size(split, batch_size):
    reference, found = _train(split, 60, 0, 2), _train(split, batch_size, 0, 120 // batch_size)
    for name in reference:
        assert np.array_equal(found[name], reference[name])


@pytest.mark.parametrize("start", [1, 7, 29])
def test_any_step_can_be_the_first(split, start):
    reference, found = _train(split, 4, 0, 30), _train(split, 4, start, 30 - start)
    for name in reference:
        assert np.array_equal(found[name], reference[name][4 * start:])


def test_images_labels_and_seeds_belong_together(split):
    plain = _train(split, N, 0, 1, Transform(8, (0.0,), (1.0,)))
    order = rng.permutation(N, rng.fold_pair(4, rng.Stream.ORDER, 0)).numpy()
    np.testing.assert_allclose(plain["image"], IMAGES[ROWS[order]] / 255.0, atol=1e-6)
    assert np.array_equal(plain["label"].argmax(1), LABELS[order])
    assert np.array_equal(plain["seed"], rng.fold(4, rng.Stream.EXAMPLE, tf.range(N)).numpy())


def test_label_smoothing_spreads_its_share_over_all_classes(split):
    labels = _train(split, 4, 0, 1, smoothing=0.1)["label"]
    np.testing.assert_allclose(np.sort(labels, axis=1)[0], [0.02] * (K - 1) + [0.92], rtol=1e-6)


def test_held_images_of_another_size_are_resized_once(split):
    held = pipeline.hold_at_size(split, Transform(16, (0.5,), (0.5,)))
    assert held.reader.image_shape == (16, 16)
    expected = Transform(16, (0.5,), (0.5,)).fit(tf.constant(IMAGES[ROWS]))
    assert np.array_equal(held.reader.images.numpy(), expected.numpy())


@pytest.mark.parametrize(("wanted", "replicas", "expected"), [(7, 1, 7), (7, 2, 8), (10_000, 1, 23), (10_000, 2, 24)])
def test_evaluation_counts_every_example_once(split, wanted, replicas, expected):
    size = pipeline.padded_batch_size(wanted, N, replicas)
    assert size == expected
    batches = list(pipeline.evaluation_batches(split, TRANSFORM, num_classes=K, batch_size=size).as_numpy_iterator())
    assert all(len(batch["mask"]) == size for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches]) > 0
    labels = np.concatenate([batch["label"] for batch in batches]).argmax(1)
    images = np.concatenate([batch["image"] for batch in batches])
    assert labels[mask].tolist() == LABELS.tolist()
    np.testing.assert_allclose(images[mask], (IMAGES[ROWS] / 255.0 - 0.5) / 0.25, atol=1e-5)
