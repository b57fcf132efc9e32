"""The step against formulas: loss and gradient, clipping, accumulation, skipping, and invariance to how it is run."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.engine import losses
from cct_tf.engine.step import MOST_STEPS
from cct_tf.machine import runtime
from tests.training import tiny


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Of runs on one replica, with everything random on."""
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), max_skipped_updates=3, checkpoint_every_steps=4)


@pytest.fixture(scope="module")
def reference(trainer, tmp_path_factory):
    """Losses of 20 steps."""
    folder = tmp_path_factory.mktemp("reference")
    trainer.train(folder)
    return [record["train/loss"] for record in tiny.records(folder, "train/")]


@pytest.mark.parametrize("changes", [{"num_replicas": 4, "accumulate_steps": 2, "recompute": True},
                                     {"jit": "on", "accumulate_steps": 2}],
                         ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()))
def test_losses_do_not_depend_on_how_the_run_is_computed(reference, tmp_path, changes):
    """Adam's epsilon is the default 1e-8; the network has no key bias, whose gradient would be rounding noise."""
    tiny.train(tmp_path, test_at_end=False, **changes)
    losses_ = [record["train/loss"] for record in tiny.records(tmp_path, "train/")]
    np.testing.assert_allclose(losses_, reference, rtol=1e-5)


def test_another_seed_is_another_run(reference, tmp_path):
    tiny.train(tmp_path, seed=1, train_steps=3, test_at_end=False)
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
def test_a_non_finite_update_is_skipped_on_all_replicas_and_counted(trainer, tmp_path, num_replicas):
    training = trainer.assemble(tmp_path) if num_replicas == 1 else tiny.assemble(tmp_path, num_replicas=num_replicas)
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


def test_steps_after_too_many_skipped_updates_change_nothing(trainer, tmp_path):
    """So the state at the end of a chunk is the one in which a loop would have stopped."""
    training = trainer.assemble(tmp_path)
    batches = training.batches(0, 8).enumerate().map(
        lambda step, batch: batch | {"label": batch["label"] * tf.where((step >= 1) & (step <= 3), np.nan, 1.0)})
    run, state = training.network.train_step.run, training.network.state
    iterator = runtime.distribute(training.devices, batches, 16)
    run(iterator, [0.01] * 4)
    kept = [variable.numpy() for variable in (*training.network.model.variables, *state.variables)]
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (4, 3, 3)
    run(iterator, [0.01] * 4)
    for variable, before in zip((*training.network.model.variables, *state.variables), kept, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)


def _nested(graph):
    """(operation, its graph) of a graph and of all functions that it calls."""
    seen, left = set(), [graph]
    while left:
        graph = left.pop()
        for operation in graph.get_operations():
            yield operation, graph
            for value in operation.node_def.attr.values():
                name = value.func.name
                if name and name not in seen:
                    seen.add(name)
                    left.append(graph._get_function(name.encode()).graph)


def _asks_for_counters_only(tensor):
    """Whether a predicate follows from int32 values alone: a loss or a gradient is none."""
    left, seen = [tensor], set()
    while left:
        tensor = left.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.dtype not in (tf.bool, tf.int32) or tensor.op.type == "Placeholder" and tensor.dtype != tf.int32:
            return False
        left += tensor.op.inputs
    return True


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_branch_or_loop_of_a_chunk_asks_for_a_loss_or_a_gradient(optimizer, tmp_path):
    """A GPU would have to compute it before the host can queue the next operation."""
    with tf.device("CPU:1"):
        training = tiny.assemble(tmp_path, num_replicas=2, accumulate_steps=2, ema_decay=0.9, clip_norm=1.0,
                                 optimizer=optimizer)
    step = training.network.train_step
    assert step.wait_seconds.device.endswith("CPU:0")  # the host's clock, which no other device has to ask for
    iterator = runtime.distribute(training.devices, training.batches(0, 2), 16)
    step.run(iterator, [0.01] * 2)
    graph = step._run.get_concrete_function(iterator, tf.zeros([MOST_STEPS]), tf.constant(0)).graph
    found = {"While": 0, "If": 0}
    for operation, inside in _nested(graph):
        kind = operation.type.removeprefix("Stateless")
        if kind == "While":
            predicate = inside._get_function(operation.get_attr("cond").name.encode()).graph.outputs[0]
        elif kind in ("If", "Case"):
            predicate = operation.inputs[0]
        else:
            continue
        found[kind] = found.get(kind, 0) + 1
        assert _asks_for_counters_only(predicate), operation.name
    assert found["While"] >= 2  # the chunk's, and that of the micro-batches


def test_too_many_skipped_updates_in_a_row_end_the_run_with_one_line(trainer, tmp_path):
    from cct_tf.errors import UserError
    with pytest.raises(UserError, match="--max_skipped_updates.*last good checkpoint is .*step_00000004"):
        training = trainer.assemble(tmp_path)
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
