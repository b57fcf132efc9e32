"""Blocks computed again in the backward pass: the same gradients, and nothing of the first time is kept for them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from cct_tf.layers import features_first
from cct_tf.layers.compiling import compiling
from cct_tf.layers.recompute import recomputing
from cct_tf.models import create_model

SEEDS = tf.constant([7, 8, 9], tf.uint32)
EVERYTHING_RANDOM = {"dropout_rate": 0.1, "attention_dropout_rate": 0.2, "drop_path_rate": 0.4}
DEPTH = 2


def _model(dtype="float32", **fields):
    return create_model("cct_2_3x1_8", num_classes=3, dtype=dtype, **fields)


def _gradient_function(network, model, again, form=None):
    """Function of (weights, inputs) -> (logits, gradients); `network` is the model, or its `classify`."""
    def gradients(weights, inputs):
        scope = keras.StatelessScope(state_mapping=list(zip(model.trainable_variables, weights, strict=True)))
        with compiling(form) if form else contextlib.nullcontext(), tf.GradientTape() as tape:
            tape.watch(weights)
            with scope, recomputing(scope if again else None):
                logits = network(inputs, seeds=SEEDS, training=True)
            return logits, tape.gradient(tf.reduce_sum(logits**2), weights, unconnected_gradients="zero")
    return gradients


def _arguments(model):
    generator = np.random.default_rng(0)
    weights = [variable.value + generator.normal(0, 0.1, variable.shape).astype("float32")  # biases are not zero
               for variable in model.trainable_variables]
    return weights, tf.constant(generator.normal(size=[3, 8, 8, 3]), tf.float32)


@pytest.mark.parametrize(("dtype", "fields"), [
    ("float32", EVERYTHING_RANDOM), ("float32", {"norm_order": "pre", "attention_dropout_rate": 0.0}),
    ("mixed_bfloat16", EVERYTHING_RANDOM)], ids=["all dropped", "nothing dropped", "bfloat16"])
def test_the_same_operations_give_the_same_bits(dtype, fields):
    model = _model(dtype, **fields)
    weights, images = _arguments(model)
    logits, gradients = _gradient_function(model, model, again=True)(weights, images)
    expected_logits, expected = _gradient_function(model, model, again=False)(weights, images)
    np.testing.assert_array_equal(logits, expected_logits)
    for variable, found, plain in zip(model.trainable_variables, gradients, expected, strict=True):
        assert np.any(plain != 0) or "score/bias" in variable.path, variable.path
        np.testing.assert_array_equal(found, plain, err_msg=variable.path)


def _optimized_operations(function, arguments, of_type):
    """How many operations of a type the graph has that is really run."""
    context.context().enable_graph_collection()
    try:
        function(*arguments)
        found = context.context().export_run_metadata()
    finally:
        context.context().disable_graph_collection()
    graphs = [part.post_optimization_graph for part in found.function_graphs]
    nodes = [node for graph in graphs for part in (graph.node, *(f.node_def for f in graph.library.function))
             for node in part]
    return sum(node.op == of_type for node in nodes)


def test_the_optimizer_of_graphs_leaves_the_second_time_in():
    model = _model(**EVERYTHING_RANDOM)
    once, twice = [_optimized_operations(tf.function(_gradient_function(model, model, again), autograph=False),
                                         _arguments(model), "Softmax") for again in (False, True)]
    assert (once, twice) == (DEPTH + 1, 2 * DEPTH + 1)  # one is the pooling's


@pytest.mark.parametrize("fewest", [1, 1000], ids=["features first", "plain layers"])
def test_xla_leaves_the_second_time_in_too(fewest, monkeypatch):
    monkeypatch.setattr(features_first, "_FEWEST_TOKENS", fewest)
    model = _model(**EVERYTHING_RANDOM)
    weights, images = _arguments(model)
    tokens = model.tokenizer(images)
    expected = _gradient_function(model.classify, model, again=False)(weights, tokens)
    compiled = tf.function(_gradient_function(model.classify, model, again=True, form="CPU"), jit_compile=True,
                           autograph=False)
    for found, plain in zip(tf.nest.flatten(compiled(weights, tokens)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max() + 2e-6)
    text = compiled.experimental_get_compiler_ir(weights, tokens)(stage="optimized_hlo")
    assert text.count(" erf(") == 2 * DEPTH  # GELU's
