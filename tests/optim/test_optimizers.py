"""Each optimizer against its formulas in NumPy: decay, layer factors, excluded variables, and what it keeps."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.models import create_model
from cct_tf.optim.optimizers import make_optimizer
from cct_tf.runs import checkpoint
from cct_tf.settings import config

RATE, DECAY, LAYER, EPSILON = 0.1, 0.5, 0.6, 1e-3
# Of a network of two blocks: the exponent of the layer decay, and whether Muon (and not its Adam) takes it.
VARIABLES = {"tokenizer/kernel": ((2, 2, 3, 4), 3, False), "positions/embedding": ((5, 4), 3, False),
             "class_token/embedding": ((1, 4), 3, False), "block_0/mlp/kernel": ((4, 3), 2, True),
             "block_1/mlp/kernel": ((3, 5), 1, True), "block_1/norm/gamma": ((4,), 1, False),
             "block_1/attention/qkv/kernel": ((3, 6), 1, True), "pooling/score/kernel": ((4, 1), 0, False),
             "head/kernel": ((4, 3), 0, False), "head/bias": ((3,), 0, False)}


def _variables(draws):
    """Trainable variables under the paths of a network called net."""
    made = []
    for path, (shape, _, _) in VARIABLES.items():
        *scopes, name = path.split("/")
        with contextlib.ExitStack() as stack:
            for scope in ("net", *scopes):
                stack.enter_context(keras.name_scope(scope))
            made.append(keras.Variable(draws.normal(size=shape), dtype="float32", name=name))
    return made


def _adam(x, g, slots, rate, step, scale_by_norm=False):
    """arXiv:1412.6980; for LAMB (arXiv:1904.00962) scaled to the norm of the variable, with epsilon after the root.

    Keras' Adam adds epsilon to the root of the second moment before its bias is corrected.
    """
    slots["m"] = 0.8 * slots.get("m", 0) + 0.2 * g
    slots["v"] = 0.95 * slots.get("v", 0) + 0.05 * g**2
    m, v, correction = slots["m"] / (1 - 0.8**step), slots["v"], 1 - 0.95**step
    if not scale_by_norm:
        return x - rate * m * np.sqrt(correction) / (np.sqrt(v) + EPSILON)
    update = m / (np.sqrt(v / correction) + EPSILON)
    return x - rate * update * np.linalg.norm(x) / np.linalg.norm(update)


def _sgd(x, g, slots, rate):
    """Nesterov's momentum, of steps: arXiv:1212.0901 Eq. 6 and 7."""
    slots["m"] = 0.7 * slots.get("m", 0) - rate * g
    return x + 0.7 * slots["m"] - rate * g


def _lion(x, g, slots, rate):
    """arXiv:2302.06675 Program 1."""
    m = slots.get("m", 0)
    slots["m"] = 0.95 * m + 0.05 * g
    return x - rate * np.sign(0.8 * m + 0.2 * g)


def _muon(x, g, slots, rate):
    """Nesterov momentum, five quintic Newton-Schulz steps, scaled by 0.2 sqrt(longer side) (arXiv:2502.16982 Eq. 4).

    The steps act on singular values alone, so here they are done on those.
    """
    slots["m"] = 0.7 * slots.get("m", 0) + g
    left, values, right = np.linalg.svd(g + 0.7 * slots["m"], full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return x - rate * 0.2 * np.sqrt(max(x.shape)) * (left * values) @ right


def _by_formula(name, is_matrix, x, g, slots, rate, step):
    if name == "sgd":
        return _sgd(x, g, slots, rate)
    if name == "lion":
        return _lion(x, g, slots, rate)
    if name == "muon" and is_matrix:
        return _muon(x, g, slots, rate)
    return _adam(x, g, slots, rate, step, scale_by_norm=name == "lamb")


@pytest.mark.parametrize(("cautious", "corrected"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("layer_decay", [1.0, LAYER])
@pytest.mark.parametrize("mask", ["matrices", "all"])
@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("adamw", False), ("sgd", True), ("sgd", False),
                                             ("muon", True), ("muon", False), ("lion", True), ("lamb", True)])
def test_updates_are_those_of_the_formulas(name, fused, mask, layer_decay, cautious, corrected):
    """Three updates, the rate assigned before each; decay decoupled, times the rate of the variable.

    Cautious (arXiv:2510.12402 Algorithm 1): x - rate (u + decay I(u x >= 0) x), where the plain update is x - rate u.
    Corrected (arXiv:2506.02285): decay rate / peak in place of decay, of kernels but the head's. The peak is 0.2, 0.4
    for 256 images.
    """
    draws = np.random.default_rng(0)
    variables = _variables(draws)
    optimizer = make_optimizer(config.OptimConfig(
        optimizer=name, learning_rate=0.4, weight_decay=DECAY, weight_decay_mask=mask, layer_decay=layer_decay,
        momentum=0.7, beta_1=0.8, beta_2=0.95, adam_epsilon=EPSILON, cautious_weight_decay=cautious,
        corrected_weight_decay=corrected, batch_size=128, learning_rate_scaling="linear"), variables, fused)
    expected, slots = [variable.numpy().astype(np.float64) for variable in variables], [{} for _ in variables]
    for step, rate in enumerate((RATE, RATE, RATE / 4), 1):
        gradients = [draws.normal(size=variable.shape).astype(np.float32) for variable in variables]
        optimizer.learning_rate.assign(rate)
        optimizer.apply_gradients([(tf.constant(g), v) for g, v in zip(gradients, variables, strict=True)])
        for index, (path, (shape, exponent, is_matrix)) in enumerate(VARIABLES.items()):
            own, x = rate * layer_decay**exponent, expected[index]
            decay = own * DECAY * (mask == "all" or len(shape) > 1) * x
            if corrected and path.endswith("kernel") and path != "head/kernel":
                decay = decay * rate / 0.2
            updated = _by_formula(name, is_matrix, x if cautious else x - decay, gradients[index], slots[index], own,
                                  step)
            u = (x - updated) / own
            expected[index] = updated - decay * (u * x >= 0) if cautious else updated
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-6, err_msg=variable.path)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("convolutions", "split"), [(True, False), (False, True), (True, True)])
def test_muon_takes_convolutions_and_the_parts_of_queries_keys_and_values(fused, convolutions, split):
    """A kernel of a convolution is one matrix [height x width x channels, filters]; the other is three side by side.

    A depthwise kernel, and a convolution that gives the logits, are Adam's.
    """
    draws = np.random.default_rng(0)
    variables = _variables(draws)
    for scope, shape in (("depthwise", (3, 3, 4, 1)), ("head", (1, 1, 4, 3))):
        with keras.name_scope("net"), keras.name_scope(scope):
            variables.append(keras.Variable(draws.normal(size=shape), dtype="float32", name="convolution"))
    optimizer = make_optimizer(config.OptimConfig(
        optimizer="muon", learning_rate=RATE, weight_decay=DECAY, momentum=0.7, beta_1=0.8, beta_2=0.95,
        adam_epsilon=EPSILON, muon_convolutions=convolutions, muon_split_qkv=split), variables, fused)

    def parts(path, x):
        """The matrices of a variable, a list; None if it is Adam's."""
        if path == "tokenizer/kernel":
            return [x.reshape(12, 4)] if convolutions else None
        if path == "block_1/attention/qkv/kernel":
            return np.split(x, 3, axis=1) if split else [x]
        return [x] if VARIABLES.get(path, (0, 0, False))[2] else None

    expected, slots = [variable.numpy().astype(np.float64) for variable in variables], [[{}, {}, {}] for _ in variables]
    for step in (1, 2, 3):
        gradients = [draws.normal(size=variable.shape).astype(np.float32) for variable in variables]
        optimizer.learning_rate.assign(RATE)
        optimizer.apply_gradients([(tf.constant(g), v) for g, v in zip(gradients, variables, strict=True)])
        for index, (variable, g) in enumerate(zip(variables, gradients, strict=True)):
            path, x = variable.path.split("/", 1)[1], expected[index]
            if x.ndim > 1:
                x = x - RATE * DECAY * x
            if parts(path, x) is None:
                expected[index] = _adam(x, g, slots[index][0], RATE, step)
            else:
                each = zip(parts(path, x), parts(path, g), slots[index], strict=False)
                updated = [_muon(*one, RATE) for one in each]
                expected[index] = np.concatenate(updated, axis=1).reshape(x.shape)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-6, err_msg=variable.path)


def test_layer_factors_of_a_real_network():
    """L + 1 - id for every variable of two blocks (L = 2), with a class token and with pooling."""
    exponents = {"tokenizer": 3, "class_token": 3, "positions": 3, "block_0": 2, "block_1": 1, "norm": 0, "pooling": 0,
                 "head": 0}
    seen = set()
    for name in ("cct_2_3x1_8", "vit_2_4_8"):
        variables = create_model(name, num_classes=3).trainable_variables
        factors = make_optimizer(config.OptimConfig(layer_decay=0.5), variables).rate_factors
        for variable, factor in zip(variables, factors, strict=True):
            part = variable.path.split("/")[1]
            seen.add(part)
            assert factor == 0.5 ** exponents[part], variable.path
    assert seen == set(exponents)


def test_positions_decay_and_one_dimensional_variables_do_not():
    from cct_tf.optim.decay_mask import undecayed

    model = create_model("cct_2_3x1_16", num_classes=3, qk_norm=True)
    names = {variable.path.split("/", 1)[1] for variable in undecayed(model.trainable_variables, "matrices")}
    assert "positions/embedding" not in names and "block_1/attention/key_norm/gamma" in names
    assert names and all(name.rsplit("/", 1)[1] in ("bias", "gamma", "beta") for name in names)


def _kept(name, model):
    """What an optimizer should keep of each variable."""
    if name == "schedule_free_adamw":
        yield "rate_squares"
    for variable in model.trainable_variables:
        path = variable.path.replace("/", "_")
        yield f"{path}_{'base' if name == 'schedule_free_adamw' else 'momentum'}"
        muon = variable.path.split("/")[1].startswith("block_") and len(variable.shape) == 2
        if name in ("adamw", "lamb", "schedule_free_adamw") or (name == "muon" and not muon):
            yield f"{path}_velocity"


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb", "muon", "schedule_free_adamw"])
def test_all_an_optimizer_keeps_is_in_the_checkpoint_under_a_path_of_its_own(name, tmp_path):
    """The paths are part of old checkpoints: for AdamW those of version 0.1."""
    model = create_model("cct_2_3x1_8", num_classes=3, qk_norm=True)
    optimizer = make_optimizer(config.OptimConfig(optimizer=name), model.trainable_variables)
    trackable = checkpoint.make_trackable(model, optimizer)
    paths = ["iteration", "learning_rate", *_kept(name, model)]
    assert set(trackable.optimizer) == set(paths) and len(optimizer.variables) == len(paths)

    draws = np.random.default_rng(0)
    values = [draws.integers(1, 1000, variable.shape) for variable in optimizer.variables]
    for variable, value in zip(optimizer.variables, values, strict=True):
        variable.assign(value)
    trackable.write(str(tmp_path / "weights"))
    for variable in optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    checkpoint.restore(tmp_path, trackable)
    for variable, value in zip(optimizer.variables, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("cautious", [False, True])
def test_an_update_that_does_not_apply_changes_no_bit(name, cautious):
    """And one that applies is the one without a mask, to the bit; in a graph as operation by operation."""
    def updated(*masks, function=tf.function):
        draws = np.random.default_rng(0)
        variables = _variables(draws)
        optim = config.OptimConfig(optimizer=name, learning_rate=RATE, weight_decay=DECAY,
                                   cautious_weight_decay=cautious)
        optimizer = make_optimizer(optim, variables, depth=2)
        assert optimizer.masks
        gradients = [tf.constant(draws.normal(size=variable.shape), tf.float32) for variable in variables]
        update = function(lambda applies: optimizer.apply_gradients(zip(gradients, variables, strict=True), applies))
        for mask in masks:
            update(mask if mask is None else tf.constant(mask))
        return [variable.numpy() for variable in (*variables, *optimizer.variables)]

    once = updated(None)
    for found, wanted in zip(updated(None, function=lambda each: each), once, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for masks in ([True], [True, False], [False, True, False]):
        for found, wanted in zip(updated(*masks), once, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("cautious", [False, True])
def test_matrices_of_muon_are_updated_as_keras_does_it_to_the_bit(cautious):
    def updated(fused):
        draws = np.random.default_rng(0)
        variables = _variables(draws)
        optim = config.OptimConfig(optimizer="muon", learning_rate=RATE, weight_decay=DECAY, momentum=0.95,
                                   cautious_weight_decay=cautious)
        optimizer = make_optimizer(optim, variables, fused=fused, depth=2)
        update = tf.function(lambda gradients: optimizer.apply_gradients(zip(gradients, variables, strict=True)))
        for _ in range(3):
            update([tf.constant(draws.normal(size=variable.shape), tf.float32) for variable in variables])
        return {variable.path: variable.numpy() for variable, adam in
                zip(variables, optimizer.adam_velocities, strict=True) if adam is None}

    found, wanted = updated(True), updated(False)
    assert found
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value)
