"""What teachers add to the loss, against plain NumPy; and the step with a teacher, however it is computed."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly.forward import Forward
from cct_tf.augment.stages import on_device
from cct_tf.engine import losses
from cct_tf.engine.distillation import Distillation, Teachers
from cct_tf.engine.gradients import Gradients
from cct_tf.engine.step import TrainStep
from cct_tf.machine import runtime
from cct_tf.models import create_model
from tests.training import tiny

DRAWS = np.random.default_rng(0)
STUDENT, FIRST, SECOND = DRAWS.normal(scale=3.0, size=[3, 16, 5]).astype(np.float32)


def _softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


def _standardized(logits):
    return (logits - logits.mean(1, keepdims=True)) / (logits.std(1, ddof=1, keepdims=True) + 1e-7)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("teachers", [[FIRST], [FIRST, SECOND]], ids=len)
def test_soft_is_the_divergence_of_the_softened_probabilities(teachers, standardize):
    part = Distillation("soft", weight=0.7, temperature=3.0, standardize=standardize)
    scaled = (lambda logits: _standardized(logits) / 3.0) if standardize else (lambda logits: logits / 3.0)
    p = np.mean([_softmax(scaled(teacher)) for teacher in teachers], axis=0)
    q = _softmax(scaled(STUDENT))
    targets = part.targets([tf.constant(teacher) for teacher in teachers])
    np.testing.assert_allclose(targets, p, rtol=1e-5)
    np.testing.assert_allclose(part.loss(targets, tf.constant(STUDENT)), 0.7 * 9.0 * (p * np.log(p / q)).sum(1),
                               rtol=1e-4, atol=1e-6)


def test_hard_is_the_cross_entropy_of_the_teachers_class():
    part = Distillation("hard", weight=0.5, temperature=3.0)
    targets = part.targets([tf.constant(FIRST), tf.constant(SECOND)])
    classes = (_softmax(FIRST) + _softmax(SECOND)).argmax(1)
    np.testing.assert_array_equal(targets, np.eye(5)[classes])
    np.testing.assert_allclose(part.loss(targets, tf.constant(STUDENT)),
                               -0.5 * np.log(_softmax(STUDENT)[np.arange(16), classes]), rtol=1e-5)


def test_certain_teachers_and_equal_logits_stay_finite():
    part, logits = Distillation("soft", standardize=True), tf.zeros([2, 5])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = part.loss(tf.one_hot([0, 3], 5), logits)
    np.testing.assert_allclose(loss, np.log([5.0, 5.0]), rtol=1e-6)
    assert np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize(("standardize", "jit"), [(False, "off"), (True, "encoder")])
def test_a_student_that_is_its_own_teacher_has_the_plain_gradient(standardize, jit):
    model = create_model("cct_2_3x1_8", num_classes=5, attention_dropout_rate=0.0, drop_path_rate=0.0)
    part = Distillation("soft", weight=2.0, temperature=4.0, standardize=standardize)
    images = tf.constant(DRAWS.normal(size=[16, 8, 8, 3]), tf.float32)
    labels, seeds = tf.one_hot(np.arange(16) % 5, 5), tf.cast(tf.range(16), tf.uint32)
    for variable in model.trainable_variables:
        if "head" in variable.path:  # so that the classes differ
            variable.assign(DRAWS.normal(size=variable.shape))
    targets = Teachers(part, [functools.partial(model, training=False)])(images)
    found = []
    for distillation, more, compiled in ((None, (), "off"), (part, (targets,), jit)):
        gradients = Gradients(model, losses.cross_entropy, 16, compiled, distillation=distillation)
        weights = [tf.convert_to_tensor(variable.value) for variable in gradients.variables]
        found.append(gradients.for_size(16)(weights, images, labels, seeds, tf.constant(1.0), *more))
    (plain, loss, _), (taught, with_teacher, _) = found
    np.testing.assert_allclose(with_teacher, loss, rtol=1e-6)
    norm = float(tf.linalg.global_norm(plain))
    assert norm > 0.1
    for variable, ours, expected in zip(model.trainable_variables, taught, plain, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * norm, err_msg=variable.path)


def _losses(folder, taught=True, **how):
    """Of 4 steps of a tiny run with another network as its teacher."""
    training = tiny.assemble(folder, **how)
    devices, network = training.devices, training.network
    with devices.strategy.scope():
        teacher = create_model("cct_2_3x1_8", num_classes=10, seed=5)
        teacher.head.kernel.assign(np.random.default_rng(1).normal(size=teacher.head.kernel.shape))
    forward = Forward(teacher, devices.kind, how.get("jit", "off"))
    teachers = Teachers(Distillation("soft", 0.5, 2.0, True), [forward])
    step = TrainStep(devices, network.model, network.optimizer, network.state, batch_size=16,
                     accumulate_steps=how.get("accumulate_steps", 1), clip_norm=1.0, jit=how.get("jit", "off"),
                     prepare=functools.partial(on_device, stages=training.stages),
                     teachers=teachers if taught else None)
    found, iterator = [], runtime.distribute(devices, training.batches(0, 4), 16)
    for _ in range(4):
        step.run(iterator, [0.01])
        found.append(network.state.interval()["train/loss"])
        network.state.start_interval()
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return _losses(tmp_path_factory.mktemp("one") / "run", mixup_alpha=0.8)


@pytest.mark.parametrize("how", [{"num_replicas": 2, "accumulate_steps": 2}, {"jit": "all", "accumulate_steps": 2}],
                         ids=lambda how: " ".join(f"{name}={value}" for name, value in how.items()))
def test_losses_with_a_teacher_do_not_depend_on_how_they_are_computed(reference, tmp_path, how):
    np.testing.assert_allclose(_losses(tmp_path, mixup_alpha=0.8, **how), reference, rtol=1e-5)


def test_the_teacher_counts(reference, tmp_path):
    assert np.abs(np.array(_losses(tmp_path, taught=False, mixup_alpha=0.8)) - reference).min() > 0.01
