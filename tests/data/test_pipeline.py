"""Batches: the order of the training stream, its independence of batch and start, and padding in evaluation."""

import contextlib
import dataclasses
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf import rng
from cct_tf.augment import image_ops, stages
from cct_tf.augment.mix import Mix
from cct_tf.augment.transform import Transform
from cct_tf.data import holding, pipeline, reading, source
from cct_tf.data.source import Split
from cct_tf.evaluation.prediction import Network
from cct_tf.images import decode
from cct_tf.images.pixel_type import RGB
from cct_tf.policies import notation, rand_augment
from cct_tf.readers import budget
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.held import Held
from cct_tf.readers.windowed import Windowed
from cct_tf.runs.resolved import Resolved

N, K = 23, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
ROWS = np.random.default_rng(1).permutation(40)[:N]
LABELS = (np.arange(N) % K).astype(np.int32)
TRANSFORM = Transform(8, (0.5,), (0.25,), crop_padding=1, flip="random")


per_example = reading._per_example


@pytest.fixture(scope="module")
def split():
    return Split("train", Held(tf.constant(IMAGES), ROWS), N, LABELS)


def _train(split, batch_size, start_step, num_steps, transform=TRANSFORM, smoothing=0.0, repeats=1, mixing=None):
    """Columns of all batches, the images as the network takes them."""
    way = transform.training_stages(K, label_smoothing=smoothing, mixing=mixing, seed=4)
    sampling = pipeline.Sampling(4, batch_size, repeats)
    batches = list(pipeline.train_batches(split, way, sampling, start_step, num_steps))
    assert all(batch["image"].dtype == tf.uint8 for batch in batches)
    found = [{"image": stages.on_device(batch, way), "label": batch["label"], "seed": batch["seed"]}
             for batch in batches]
    return {name: np.concatenate([batch[name].numpy() for batch in found]) for name in found[0]}


def test_epochs_follow_the_contract(split):
    batches = list(split.reader.order(4, 10, 0, 7).as_numpy_iterator())
    indices, epochs = (np.concatenate([batch[name] for batch in batches]) for name in ("index", "epoch"))
    assert epochs.tolist() == [place // N for place in range(70)]
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


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_draws_of_an_image_stand_a_share_of_the_batch_apart(split, repeats):
    """Copy r of the j-th of B/R new images has position sB + rB/R + j, and its own example seed."""
    untouched = Transform(8, (0.0,), (1.0,))
    size, new = 12, 12 // repeats
    found = _train(split, size, 1, 3, untouched, repeats=repeats)
    once = _train(split, new, 1, 3, untouched)
    for step in range(3):
        for copy in range(repeats):
            rows = slice(step * size + copy * new, step * size + (copy + 1) * new)
            assert np.array_equal(found["image"][rows], once["image"][step * new:(step + 1) * new])
    assert np.array_equal(found["seed"], rng.fold(4, rng.Stream.EXAMPLE, tf.range(size, 4 * size)).numpy())
    drawn = _train(split, size, 1, 3, repeats=repeats)["image"]
    assert (np.abs(drawn[:new] - drawn[new:2 * new]).max(axis=(1, 2, 3)) > 0).mean() > 0.5


def test_an_alternating_flip_shows_every_image_both_ways_in_two_epochs(split):
    plain = _train(split, N, 0, 4, Transform(8, (0.0,), (1.0,)))["image"].reshape(4, N, 8, 8, 3)
    found = _train(split, N, 0, 4, Transform(8, (0.0,), (1.0,), flip="alternating"))["image"].reshape(plain.shape)
    orders = [rng.permutation(N, rng.fold_pair(4, rng.Stream.ORDER, epoch)).numpy() for epoch in range(4)]
    flipped = np.zeros((4, N), bool)
    for epoch in range(4):
        for place, index in enumerate(orders[epoch]):
            flipped[epoch, index] = not np.array_equal(found[epoch, place], plain[epoch, place])
            expected = plain[epoch, place][:, ::-1] if flipped[epoch, index] else plain[epoch, place]
            assert np.array_equal(found[epoch, place], expected)
    assert np.array_equal(flipped[0], ~flipped[1]) and np.array_equal(flipped[:2], flipped[2:])
    assert 0 < flipped[0].sum() < N


def test_by_itself_a_transform_flips_as_the_training_does(split):
    transform = Transform(8, (0.0,), (1.0,), flip="alternating")
    found = _train(split, N, 0, 2, transform)["image"].reshape(2, N, 8, 8, 3)
    for epoch in range(2):
        index = rng.permutation(N, rng.fold_pair(4, rng.Stream.ORDER, epoch))
        images = tf.gather(IMAGES[ROWS], index)
        seeds = rng.fold(4, rng.Stream.EXAMPLE, epoch * N + tf.range(N, dtype=tf.int64))
        alone = transform.augment(images, seeds, seed=4, index=tf.cast(index, tf.int64),
                                  epoch=tf.fill([N], tf.constant(epoch, tf.int64)))
        assert np.array_equal(transform.finish(alone), found[epoch])


def test_mixing_is_a_function_of_the_step_and_ends_with_its_epoch(split):
    """Batches of 10: step 4 begins at position 40, in epoch 1 of 23 images; step 5 at 50, in epoch 2."""
    untouched, mix = Transform(8, (0.0,), (1.0,)), Mix(1.0, 1.0, 1.0, 0.5)
    plain = _train(split, 10, 0, 8, untouched)
    mixing = stages.Mixing(mix, 4, 10, until_step=5, until_epoch=2)
    mixed = _train(split, 10, 0, 8, untouched, mixing=mixing)
    differs = np.abs(mixed["label"] - plain["label"]).reshape(8, -1).max(axis=1) > 0
    assert differs[:5].sum() >= 3 and not differs[5:].any()
    assert np.array_equal(mixed["image"][50:], plain["image"][50:])
    for step in range(5):
        rows = slice(10 * step, 10 * step + 10)
        images, labels = mix.apply(tf.cast(np.rint(plain["image"][rows] * 255), tf.uint8), plain["label"][rows],
                                   mix.sample(4, tf.constant(step, tf.int64), 8, 8))
        np.testing.assert_allclose(mixed["image"][rows], images.numpy() / 255.0, atol=1e-6)
        np.testing.assert_allclose(mixed["label"][rows], labels.numpy(), atol=1e-6)
    resumed = _train(split, 10, 3, 2, untouched, mixing=mixing)
    assert np.array_equal(resumed["image"], mixed["image"][30:50])


def test_a_policy_ends_with_its_epoch_within_a_batch_too(split):
    """Batches of 10 of 23 images: epoch 1 ends at position 46, within step 4."""
    policy = rand_augment.make_policy(notation.resolve("trivial"), (0.0,), RGB)
    always = Transform(8, (0.0,), (1.0,), policy=policy, crop_padding=1, flip="random")
    until = dataclasses.replace(always, policy_until_epoch=2)
    never = dataclasses.replace(always, policy=None)
    found, augmented, plain = (_train(split, 10, 0, 7, transform)["image"] for transform in (until, always, never))
    assert np.array_equal(found[:46], augmented[:46]) and np.array_equal(found[46:], plain[46:])
    changed = (augmented != plain).any(axis=(1, 2, 3))
    assert changed[40:46].any() and changed[46:50].any() and changed[50:].any()


def test_where_stages_run_one_call_at_a_time_the_next_batch_is_read_meanwhile(monkeypatch):
    read = [threading.Event(), threading.Event()]

    def reading_of(batch):
        read[int(batch)].set()
        return np.zeros([1, 8, 8, 3], np.uint8)

    class Waiting:
        name, where = "waiting", stages.BATCH

        def sample(self, batch, shape):
            return {}

        def apply(self, batch, params):
            seen = tf.numpy_function(lambda: read[1].wait(20), [], tf.bool)
            return batch | {"seen": seen}

    images = tf.data.Dataset.range(2).map(lambda batch: {"image": tf.ensure_shape(
        tf.numpy_function(reading_of, [batch], tf.uint8), [1, 8, 8, 3])})
    monkeypatch.setattr(budget, "_bytes", 0)  # which leaves one call
    assert [bool(batch["seen"]) for batch in pipeline.staged(images, (Waiting(),))] == [True, True]


def test_label_smoothing_spreads_its_share_over_all_classes(split):
    labels = _train(split, 4, 0, 1, smoothing=0.1)["label"]
    np.testing.assert_allclose(np.sort(labels, axis=1)[0], [0.02] * (K - 1) + [0.92], rtol=1e-6)


def test_held_images_of_another_size_are_resized_once(split):
    held = holding.hold_at_size(split, Transform(16, (0.5,), (0.5,)).evaluation_stages(K))
    assert held.reader.image_shape == (16, 16)
    expected = Transform(16, (0.5,), (0.5,)).resize(tf.constant(IMAGES[ROWS]))
    assert np.array_equal(held.reader.tensor.numpy(), expected.numpy())


@pytest.mark.parametrize(("size", "crop_pct"), [(16, 1.0), (16, 0.8), (8, 0.8)])
def test_held_images_are_fitted_once_whatever_the_path(split, size, crop_pct):
    transform = Transform(size, (0.0,), (1.0,), crop_pct=crop_pct)
    once = image_ops.center_fit(tf.constant(IMAGES[ROWS]), size, crop_pct).numpy() / 255.0
    way = transform.evaluation_stages(K)
    for prepared in (split, holding.hold_at_size(split, way)):
        evaluated = pipeline.evaluation_batches(prepared, way, batch_size=N)
        np.testing.assert_allclose(stages.on_device(next(iter(evaluated)), way), once, atol=1e-6)
        order = rng.permutation(N, rng.fold_pair(4, rng.Stream.ORDER, 0)).numpy()
        np.testing.assert_allclose(_train(prepared, N, 0, 1, transform)["image"], once[order], atol=1e-6)


@pytest.mark.parametrize("resized_crop", [None, (0.2, 1.0)])
def test_images_too_large_for_a_batch_are_resized_one_by_one_to_the_same_pixels(split, monkeypatch, resized_crop):
    transform = Transform(6, (0.0,), (1.0,), resized_crop=resized_crop)
    together = _train(split, 10, 0, 5, transform)
    calls = []
    monkeypatch.setattr(reading, "_BATCH_BYTES", 0)
    monkeypatch.setattr(holding, "_MOST_HELD", 0)
    monkeypatch.setattr(reading, "_per_example", lambda *args: calls.append(args) or per_example(*args))
    singly = _train(split, 10, 0, 5, transform)
    # Random crops are products that XLA computes, of one image in another order than of ten.
    assert len(calls) == 1 and np.array_equal(singly["seed"], together["seed"])
    levels = np.rint(255 * np.abs(singly["image"] - together["image"]))
    assert levels.max() <= (0 if resized_crop is None else 1) and (levels > 0).mean() < 0.005


def test_runs_of_before_are_resized_in_their_blocks_to_the_bit(monkeypatch):
    """As version 0 did it: calls of 256 images, whatever their size."""
    number, calls = 300, []
    images = np.random.default_rng(5).integers(0, 256, (number, 40, 30, 3), np.uint8)
    split = Split("train", Held(tf.constant(images), np.arange(number)), number, np.zeros(number, np.int32))
    transform = Transform(16, (0.5,), (0.5,), resize_block=source.rules_of(Resolved(8, (), {})).resize_block)
    monkeypatch.setattr(holding, "_BLOCK_BYTES", 0)
    monkeypatch.setattr(holding.tensors, "batch_within", lambda *args: calls.append(args) or 1)
    held = holding.hold_at_size(split, transform.evaluation_stages(K)).reader.tensor.numpy()
    resize = tf.function(transform.resize)
    expected = np.concatenate([resize(tf.constant(images[start:start + 256])).numpy() for start in (0, 256)])
    assert np.array_equal(held, expected) and not calls
    holding.hold_at_size(split, Transform(16, (0.5,), (0.5,)).evaluation_stages(K))
    assert calls  # new runs bound their blocks


def _photographs(kind):
    """A split of images of several sizes as PNG files, or of one size, held; and its images."""
    from sklearn.datasets import load_sample_images
    photo = load_sample_images().images[0]
    sizes = [(70, 90)] * 7 if kind == "held" else [(70, 90), (81, 66), (70, 91), (97, 70), (40, 44), (75, 75), (71, 89)]
    images = [photo[10 * row:10 * row + height, 50:50 + width] for row, (height, width) in enumerate(sizes)]
    if kind == "held":
        reader = Held(tf.constant(np.stack(images)), np.arange(7))
    else:
        reader = Encoded(tf.stack([tf.io.encode_png(image) for image in images]), ["image"] * 7, np.arange(7), False)
    return Split("train", reader, 7, (np.arange(7) % K).astype(np.int32)), images


@pytest.mark.parametrize("kind", ["held", "mixed sizes"])
@pytest.mark.parametrize(("resampler", "resized_crop"), [("pillow", None), ("pillow", (0.2, 1.0)), ("matrix", None)])
def test_photographs_are_resized_by_what_the_rules_say_wherever_they_are_used(kind, resampler, resized_crop):
    """By Pillow, or as runs of before: by products of matrices, which differ by a level here and there."""
    split, images = _photographs(kind)
    transform = Transform(24, (0.0,), (1.0,), crop_pct=0.9, resized_crop=resized_crop, resampler=resampler)
    alone = np.stack([transform.resize(image[None])[0] for image in images])
    fitted = np.stack([_by_pillow(image) for image in images])
    assert np.array_equal(alone, fitted) == (resampler == "pillow")
    assert np.abs(alone.astype(int) - fitted).max() <= 1
    way = transform.evaluation_stages(K)
    batch, = pipeline.evaluation_batches(split, way, batch_size=7)
    assert np.array_equal(batch["image"], alone)
    predictor = Network(types.SimpleNamespace(pooling=None, image_size=24), transform, "CPU", 7)
    assert np.array_equal([predictor.prepare(image) for image in images], alone)
    trained = np.rint(255 * _train(split, 7, 0, 2, transform)["image"])
    order = np.concatenate([rng.permutation(7, rng.fold_pair(4, rng.Stream.ORDER, epoch)) for epoch in (0, 1)])
    seeds = None if resized_crop is None else rng.fold(4, rng.Stream.EXAMPLE, tf.range(14))
    expected = np.stack([transform.resize(images[index][None], seeds if seeds is None else seeds[row:row + 1])[0]
                         for row, index in enumerate(order)])
    assert np.array_equal(trained, expected)


class _Records:
    """Reads records that are PNG files behind a byte, the label."""

    def encoded(self, record):
        label = tf.io.decode_raw(tf.strings.substr(record, 0, 1), tf.uint8)[0]
        return tf.strings.substr(record, 1, -1), tf.cast(label, tf.int64)

    def __call__(self, record):
        contents, label = self.encoded(record)
        return decode.decode(contents), label


def _streamed(images, folder):
    path = str(folder / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for label, image in enumerate(images):
            writer.write(bytes([label % K]) + tf.io.encode_png(image).numpy())
    return Split("validation", Windowed([path], [len(images)], [0], _Records(), window=3), len(images), None)


@pytest.mark.parametrize(("kind", "resampler"), [("held", "pillow"), ("mixed sizes", "pillow"), ("streamed", "pillow"),
                                                 ("held", "matrix"), ("mixed sizes", "matrix")])
def test_a_split_prepared_once_has_the_pixels_and_labels_of_one_prepared_each_time(kind, resampler, tmp_path):
    split, images = _photographs("held" if kind == "held" else "mixed sizes")
    split = _streamed(images, tmp_path) if kind == "streamed" else split
    transform = Transform(24, (0.0,), (1.0,), crop_pct=0.9, resampler=resampler, flip="random")
    way, roomy = transform.evaluation_stages(K), dataclasses.replace(split, room=24 * 24 * 3)
    assert holding.hold_at_size(roomy, way).reader.at_network_size
    kept = holding.hold_at_size(dataclasses.replace(split, room=24 * 24 * 3 - 1), way).reader.at_network_size
    assert kept == (kind == "held")  # whose images are in memory already
    for size in (4, 7, 10):
        batches = [list(pipeline.evaluation_batches(each, way, batch_size=size).as_numpy_iterator())
                   for each in (dataclasses.replace(split, room=0.0), roomy)]
        for plain, held in zip(*batches, strict=True):
            assert plain.keys() == held.keys()
            for name in plain:
                real = plain["mask"] > 0 if name in ("image", "label") else slice(None)
                assert np.array_equal(plain[name][real], held[name][real]), name
    if kind != "streamed":
        way = transform.training_stages(K)
        plain, held = (_train(each, 4, 0, 5, transform) for each in (split, holding.hold_at_size(roomy, way)))
        assert all(np.array_equal(plain[name], held[name]) for name in plain)
    else:  # held images would come in another order
        stream = dataclasses.replace(roomy, name="train")
        assert holding.hold_at_size(stream, transform.training_stages(K)) is stream


@pytest.mark.parametrize(("kind", "resampler"), [("held", "matrix"), ("held", "pillow"), ("mixed sizes", "pillow")])
def test_what_is_prepared_once_shows_how_far_it_is(kind, resampler, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def count(total, what, stream):
        shown.append((total, what, stream))
        yield shown.append

    monkeypatch.setattr(holding.progress, "count", count)
    monkeypatch.setattr(holding.tensors, "MOST_IMAGES", 3)
    split, way = _photographs(kind)[0], Transform(24, (0.0,), (1.0,), resampler=resampler).evaluation_stages(K)
    roomy = dataclasses.replace(split, room=24 * 24 * 3)
    pipeline.evaluation_batches(roomy, way, batch_size=7, stream="the terminal")
    assert shown[0] == (7, "preparing the train images", "the terminal")
    assert sum(shown[1:]) == 7 and len(shown) > 2


def test_the_room_of_a_budget_goes_to_the_evaluated_splits_first_and_less_what_is_held():
    def split(name, number, held):
        return Split(name, types.SimpleNamespace(held_bytes=held), number, None)

    splits = {"train": split("train", 900, 40), "validation": split("validation", 40, 40),
              "test": split("test", 60, 40)}
    opened = source.Source("", (), splits, None, None, "", (), "", None).with_room(10_040)
    assert {name: each.room for name, each in opened.splits.items()} == {"train": 10, "validation": 100, "test": 100}
    assert opened.with_room(39).splits["test"].room == 0


def _by_pillow(image):
    """The evaluation's way to 24 pixels with --crop_pct=0.9: shorter side to 26, then the middle."""
    height, width = image.shape[:2]
    resized = [26 * side // min(height, width) for side in (height, width)]
    top, left = (round((side - 24) / 2) for side in resized)
    pixels = Image.fromarray(image).resize(resized[::-1], Image.BICUBIC)
    return np.asarray(pixels.crop((left, top, left + 24, top + 24)))


@pytest.mark.parametrize(("wanted", "replicas", "expected"), [(7, 1, 7), (7, 2, 8), (10_000, 1, 23), (10_000, 2, 24)])
def test_evaluation_counts_every_example_once(split, wanted, replicas, expected):
    size = pipeline.padded_batch_size(wanted, N, replicas)
    assert size == expected
    way = TRANSFORM.evaluation_stages(K)
    batches = list(pipeline.evaluation_batches(split, way, batch_size=size).as_numpy_iterator())
    assert all(len(batch["mask"]) == size for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches]) > 0
    labels = np.concatenate([batch["label"] for batch in batches]).argmax(1)
    images = np.concatenate([stages.on_device(batch, way) for batch in batches])
    assert labels[mask].tolist() == LABELS.tolist()
    np.testing.assert_allclose(images[mask], (IMAGES[ROWS] / 255.0 - 0.5) / 0.25, atol=1e-5)
