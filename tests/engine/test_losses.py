"""Losses and class weights against plain NumPy, and the gradient of a step with them."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline
from cct_tf.data.source import Split
from cct_tf.engine import losses
from cct_tf.errors import UserError
from cct_tf.machine import runtime
from cct_tf.settings import config
from tests.training import tiny

DRAWS = np.random.default_rng(0)
LOGITS = DRAWS.normal(scale=4.0, size=(64, 3)).astype(np.float32)
LABELS = DRAWS.dirichlet([0.3] * 3, size=64).astype(np.float32)  # soft, as smoothed and mixed ones are
COUNTS = (5, 1, 14)
SPLIT = Split("train", None, 20, np.repeat(np.arange(3, dtype=np.int32), COUNTS))


def _cross_entropy(labels, logits):
    logits = logits.astype(np.float64)
    return -(labels * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)


def _bce(labels, logits):
    """-(t log p + (1 - t) log(1 - p)) with p = 1 / (1 + exp(-x)), mean over the classes."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(1)


GIVEN = (2.0, 0.0, 0.5)


@pytest.mark.parametrize(("flag", "given", "of_classes"), [
    ("none", None, np.ones(3)), ("balanced", None, 20 / (3 * np.array(COUNTS))), ("a=2,b=0", GIVEN, np.array(GIVEN))])
@pytest.mark.parametrize(("name", "formula"), [("cross_entropy", _cross_entropy), ("bce", _bce)])
def test_loss_of_soft_targets_by_formula(name, formula, flag, given, of_classes):
    optim = config.OptimConfig(loss=name, class_weights=flag)
    found = losses.make_loss(optim, SPLIT, 3, class_weights=given)(tf.constant(LABELS), tf.constant(LOGITS))
    weights = LABELS @ of_classes
    np.testing.assert_allclose(found, weights * formula(LABELS, LOGITS), rtol=1e-5, atol=1e-6)


def test_several_labels_have_binary_cross_entropy_and_a_share_that_is_right():
    loss = losses.make_loss(config.OptimConfig(), SPLIT, 3, "multilabel")(tf.constant(LABELS), tf.constant(LOGITS))
    np.testing.assert_allclose(loss, _bce(LABELS, LOGITS), rtol=1e-5, atol=1e-6)
    logits = tf.constant([[2.0, -1.0, -3.0, 1.0]])
    assert losses.make_accuracy("multilabel")(tf.constant([[0.95, 0.05, 0.6, 0.4]]), logits).numpy() == [0.5]
    first = losses.make_accuracy("single")(tf.constant([[0.9, 0.1], [0.9, 0.1]]), tf.constant([[2.0, 1.0], [1.0, 2.0]]))
    assert first.numpy().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("given", [None, GIVEN])
def test_weights_of_several_labels_multiply_the_terms_of_their_classes(given):
    """sum_k w_k BCE_k / K; balanced w_k: L / (K n_k) of L labels, so that the weights of all labels have mean 1."""
    matrix = np.uint8([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    weights = np.array([5 / 9, 5 / 3, 5 / 3] if given is None else given)
    optim = config.OptimConfig(class_weights="balanced")
    loss = losses.make_loss(optim, Split("train", None, 4, matrix), 3, "multilabel", given)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    terms = -(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))
    np.testing.assert_allclose(loss(tf.constant(LABELS), tf.constant(LOGITS)), terms @ weights / 3, rtol=1e-5,
                               atol=1e-6)


def test_balanced_classes_count_the_same_with_smoothing_too():
    """Equal losses for all images: a class's total is then its weight times its count."""
    optim = config.OptimConfig(class_weights="balanced", label_smoothing=0.1)
    labels = np.eye(3, dtype=np.float32)[SPLIT.labels] * 0.9 + 0.1 / 3
    found = losses.make_loss(optim, SPLIT, 3)(tf.constant(labels), tf.zeros([20, 3])).numpy()
    np.testing.assert_allclose(np.bincount(SPLIT.labels, found), 20 / 3 * np.log(3), rtol=1e-5)


def test_bce_of_large_logits_is_finite():
    loss = losses.binary_cross_entropy(tf.constant([[1.0, 0.0]]), tf.constant([[-200.0, 100.0]]))
    assert loss.numpy() == pytest.approx([150.0])


def test_balanced_classes_count_the_same_in_sum_and_images_1_on_average():
    weights = losses.balanced_weights(SPLIT.labels, 3)
    per_image = weights[SPLIT.labels]
    assert per_image.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(np.bincount(SPLIT.labels, per_image), 20 / 3)


@pytest.mark.parametrize(("labels", "message"), [
    (None, "--class_weights: expected none for a TFDS set that is not held in memory.*found balanced"),
    (np.array([0, 2, 2]), r"--class_weights: expected a training image of every class, found none of class 1")])
def test_classes_that_cannot_be_counted_are_one_line(labels, message):
    with pytest.raises(UserError, match=message):
        losses.make_loss(config.OptimConfig(class_weights="balanced"), Split("train", None, 3, labels), 3)


def test_a_step_follows_its_loss(tmp_path):
    """bce, balanced, on two replicas of two micro-batches: plain gradient descent on the formula's mean."""
    training = tiny.assemble(tmp_path, loss="bce", class_weights="balanced", optimizer="sgd", momentum=0.0,
                             weight_decay=0.0, clip_norm=None, num_replicas=2, accumulate_steps=2)
    batch = next(iter(training.batches(0, 1)))
    labels = training.images.source.splits["train"].labels
    weights = tf.constant(len(labels) / (10 * np.bincount(labels)), tf.float32)
    with tf.GradientTape() as tape:
        logits = training.network.model(on_device(batch, training.stages), seeds=batch["seed"], training=True)
        x, t = logits, batch["label"]
        per_class = -t * tf.math.log_sigmoid(x) - (1 - t) * tf.math.log_sigmoid(-x)
        loss = tf.reduce_mean(tf.gather(weights, tf.argmax(t, 1)) * tf.reduce_mean(per_class, 1))
    kernel = training.network.model.head.kernel
    expected = kernel.numpy() - 0.5 * tape.gradient(loss, kernel.value).numpy()
    training.network.train_step.run(runtime.distribute(training.devices, training.batches(0, 1), 16), [0.5])
    assert training.network.state.interval()["train/loss"] == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_evaluation_is_plain_cross_entropy_whatever_the_loss(tmp_path):
    training = tiny.train(tmp_path, loss="bce", class_weights="balanced", train_steps=1)
    record, = tiny.records(tmp_path, "eval/loss")
    split = training.images.source.splits["test"]
    stages = training.transform.evaluation_stages(10)
    batch, = pipeline.evaluation_batches(split, stages, batch_size=split.num_examples)
    logits = training.network.model(on_device(batch, stages), training=False).numpy()
    assert record["eval/loss"] == pytest.approx(_cross_entropy(np.eye(10)[split.labels], logits).mean(), rel=1e-5)
