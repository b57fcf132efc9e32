"""The step against formulas: loss and gradient, clipping, accumulation, skipping, and invariance to how it is run."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.engine import losses
from cct_tf.machine import runtime
from tests.training import tiny


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Losses of 20 steps on one replica, with everything random on."""
    folder = tmp_path_factory.mktemp("reference")
    tiny.train(folder)
    return [record["train/loss"] for record in tiny.records(folder, "train/")]


@pytest.mark.parametrize("changes", [{"num_replicas": 2}, {"accumulate_steps": 2}, {"num_replicas": 4},
                                     {"num_replicas": 2, "accumulate_steps": 2}, {"jit": "on"}, {"recompute": True},
                                     {"recompute": True, "num_replicas": 2, "accumulate_steps": 2}],
                         ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()))
def test_losses_do_not_depend_on_how_the_run_is_computed(reference, tmp_path, changes):
    """Adam's epsilon is the default 1e-8; the network has no key bias, whose gradient would be rounding noise."""
    tiny.train(tmp_path, **changes)
    losses_ = [record["train/loss"] for record in tiny.records(tmp_path, "train/")]
    np.testing.assert_allclose(losses_, reference, rtol=1e-5)


def test_another_seed_is_another_run(reference, tmp_path):
    tiny.train(tmp_path, seed=1, train_steps=3)
    found = [record["train/loss"] for record in tiny.records(tmp_path, "train/")]
    assert np.abs(np.array(found) / reference[:3] - 1).max() > 1e-3


def _one_step(training, batch):
    """Loss, gradient and accuracy of one batch by the plain formula, from the model alone."""
    with tf.GradientTape() as tape:
        logits = training.network.model(on_device(batch, training.stages), seeds=batch["seed"], training=True)
        per_example = tf.nn.softmax_cross_entropy_with_logits(batch["label"], logits)
        loss = tf.reduce_mean(per_example)
    gradients = tape.gradient(loss, [variable.value for variable in training.network.model.trainable_variables])
    hits = tf.argmax(logits, 1) == tf.argmax(batch["label"], 1)
    return float(loss), gradients, float(tf.reduce_mean(tf.cast(hits, tf.float32)))


def test_one_step_is_adamw_on_the_clipped_gradient_of_the_mean_loss(tmp_path):
    training = tiny.assemble(tmp_path, clip_norm=0.05, weight_decay=0.1, adam_epsilon=1e-3)
    batch = next(iter(training.batches(0, 1)))
    loss, gradients, accuracy = _one_step(training, batch)
    before = [variable.numpy() for variable in training.network.model.trainable_variables]
    training.network.train_step.run(runtime.distribute(training.devices, training.batches(0, 1), 16), [0.01])

    values = training.network.state.interval()
    assert values["train/loss"] == pytest.approx(loss, rel=1e-6)
    assert values["train/accuracy"] == pytest.approx(accuracy)
    norm = float(np.sqrt(sum(np.sum(np.square(g.numpy(), dtype=np.float64)) for g in gradients)))
    assert norm > 0.05  # so that clipping is tested
    assert values["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
    for variable, old, gradient in zip(training.network.model.trainable_variables, before, gradients, strict=True):
        g = gradient.numpy() * 0.05 / norm
        decay = 0.01 * 0.1 if old.ndim > 1 else 0.0
        # Keras' epsilon is added to the uncorrected root of the second moment, sqrt(0.001) |g|.
        correction = np.sqrt(1 - 0.999) / (1 - 0.9)
        expected = old * (1 - decay) - 0.01 * correction * 0.1 * g / (np.sqrt(0.001) * np.abs(g) + 1e-3)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_a_non_finite_update_is_skipped_on_all_replicas_and_counted(tmp_path, num_replicas):
    training = tiny.assemble(tmp_path, num_replicas=num_replicas)
    batches = training.batches(0, 3)
    poison = tf.one_hot(15, 16) * np.inf  # the last example only, which the last replica holds

    def poisoned(step, batch):
        return batch | {"label": batch["label"] + tf.where(step == 1, poison[:, None], 0.0)}

    batches = batches.enumerate().map(poisoned)
    training.network.train_step.run(runtime.distribute(training.devices, batches, 16), [0.01, 0.01, 0.01])
    state = training.network.state
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (3, 1, 0)
    assert int(training.network.optimizer.iterations.numpy()) == 2
    for variable in training.network.model.trainable_variables:
        for copy in training.devices.strategy.experimental_local_results(variable.value):
            assert np.isfinite(copy.numpy()).all()
    assert np.isfinite(state.interval()["train/loss"])


def test_too_many_skipped_updates_in_a_row_end_the_run_with_one_line(tmp_path):
    from cct_tf.errors import UserError
    with pytest.raises(UserError, match="--max_skipped_updates.*last good checkpoint is .*step_00000004"):
        training = tiny.assemble(tmp_path, train_steps=12, checkpoint_every_steps=4, max_skipped_updates=3,
                                 log_every_steps=12)
        clean = training.batches

        def poisoned(start, count):
            return clean(start, count).enumerate(start).map(
                lambda step, batch: batch | {"label": batch["label"] * tf.where(step >= 4, np.nan, 1.0)})

        training.batches = poisoned
        training.run(tiny.NoInterrupts())


def test_rank_of_label_breaks_ties_as_argmax_does_and_never_counts_nan_as_right():
    logits = tf.constant([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [np.nan, np.nan, np.nan]])
    labels = tf.one_hot([0, 1, 0, 0], 3)
    assert losses.rank_of_label(labels, logits).numpy().tolist() == [0, 1, 2, 3]
