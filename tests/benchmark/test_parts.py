"""The parts of a training step: what they count, what they time, and how they add up."""

import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.benchmark import parts, step
from cct_tf.errors import UserError
from cct_tf.layers import features_first
from cct_tf.layers.compiling import compiling
from cct_tf.machine import runtime
from cct_tf.models import cost, create_model, variants
from cct_tf.settings import config


@pytest.mark.parametrize("name", ["cct_2_3x1_8", "cct_7_3x1_32", "cvt_2_4_32", "cct_14_7x2_224", "cct_2_3x2_32_keras"])
def test_the_multiplications_of_the_parts_are_those_of_the_network(name):
    variant = variants.resolve(name)
    found = cost.macs_by_part(variant, 10)
    assert sum(found.values()) == cost.count_macs(variant, 10)
    products = variant.depth * 2 * variant.num_tokens**2 * variant.inner_dim
    assert cost.count_macs(variant, 10) - cost.count_macs(variant, 10, attention_products=False) == products
    assert found["attention"] > products


def test_the_multiplications_by_hand():
    """CCT-2/3x1 on 8 x 8: 16 tokens of width 128, MLP ratio 1, two blocks, 10 classes."""
    assert cost.macs_by_part(variants.resolve("cct_2_3x1_8"), 10) == {
        "tokenizer": 8 * 8 * 9 * 3 * 128, "attention": 2 * (16 * 4 * 128**2 + 2 * 16**2 * 128),
        "mlp": 2 * 16 * 2 * 128**2, "head": 1280}


def test_the_parts_of_a_step_count_what_it_computes_reads_and_writes():
    settings = config.from_dict({"model": "cct_2_3x1_8", "batch_size": 16, "accumulate_steps": 2, "jit": "off",
                                 "optimizer": "adamw", "dropout_rate": 0.1})
    bare = step.BareStep(settings, 4)
    before = [variable.numpy() for variable in bare.model.trainable_variables]
    found = parts.Parts(bare, settings).parts
    assert list(found) == ["tokenizer", "attention", "mlp", "norms", "masks", "update"]
    variant = bare.model.variant
    counted = sum(part.gflop for part in found.values() if part.gflop)
    head = 6e-9 * 16 * 128 * 4
    assert counted + head == pytest.approx(step.model_gflops(variant, 4, 16.0))
    assert {name: part.calls for name, part in found.items()} == {
        "tokenizer": 2, "attention": 4, "mlp": 4, "norms": 2 * 5, "masks": 4, "update": 1}
    tokens = 16 * 16 * 128 * 4e-9  # of the batch, gigabytes
    assert found["norms"].gbyte == pytest.approx(5 * 5 * tokens)  # five norms; each reads three, writes two
    # In the last block: attention weights of 2 heads; after attention and MLP dropout and stochastic depth; the hidden
    # layer's dropout, of the same width.
    dropped = 16 * 2 * 16 * 16 * 4e-9 + 5 * tokens
    assert found["masks"].gbyte == pytest.approx(2 * 4 * dropped)
    weights = cost.count_parameters(variant, 4)
    assert found["update"].gbyte == pytest.approx(7 * 4e-9 * weights, rel=1e-4)  # and two scalars of the optimizer
    assert any((variable.numpy() != old).any()
               for variable, old in zip(bare.model.trainable_variables, before, strict=True))  # it did update


def test_a_part_takes_the_time_of_all_its_calls(monkeypatch):
    monkeypatch.setattr(parts.measuring, "rate", lambda advance, seconds: 10.0 * advance())
    done = []
    assert parts.Part(lambda: done.append(1), 4, gflop=1.0).seconds(0.1) == pytest.approx(0.4)
    assert done == [1]


def test_the_summary_by_hand():
    made = {"tokenizer": parts.Part(None, 1, gflop=3.0), "norms": parts.Part(None, 1, gbyte=0.5)}
    times = {"tokenizer": [0.030, 0.020, 0.040], "norms": [0.010] * 3, "whole": [0.1, 0.05, 0.05],
             "copy": [100.0, 50.0, 200.0]}
    found = parts.summary(made, times, 300.0)
    assert found["step_ms"] == pytest.approx(50) and found["sum_ms"] == pytest.approx(40)
    assert found["sum_percent"] == pytest.approx(80) and found["copy_gbytes_per_second"] == 100
    rows = {name: {key: round(value, 6) for key, value in row.items()} for name, row in found["rows"].items()}
    assert rows == {
        "tokenizer": {"ms": 30, "lowest": 20, "highest": 40, "percent": 60, "gflops": 100, "floor_ms": 10},
        "norms": {"ms": 10, "lowest": 10, "highest": 10, "percent": 20, "gbytes": 50, "floor_ms": 5},
        "rest": {"ms": 10, "percent": 20}}


@pytest.mark.parametrize(("piece", "layer_of"), [
    ("attention", lambda block: block.attention), ("mlp", lambda block: block.mlp),
    ("norm", lambda block: block.attention_norm)])
def test_the_pieces_with_features_first_are_the_layers(piece, layer_of):
    model = create_model("cct_2_3x1_8", num_classes=2, dropout_rate=0.0, attention_dropout_rate=0.0, drop_path_rate=0.0)
    layer, x = layer_of(model.blocks[0]), tf.random.stateless_normal([3, 16, 128], [0, 0])

    @tf.function(jit_compile=True, autograph=False)
    def turned(x):
        with compiling("CPU"):
            return features_first.PIECES[piece](layer, x, None, (3, 16))

    found = turned(tf.transpose(tf.reshape(x, [48, 128]))).numpy().T.reshape(3, 16, 128)
    np.testing.assert_allclose(found, layer(x).numpy(), atol=1e-5)


def test_on_gpus_the_parts_are_refused_by_one_line():
    bare = types.SimpleNamespace(devices=runtime.Devices(None, "GPU", 1))
    with pytest.raises(UserError, match=r"^--parts: expected a CPU \(--device=cpu\).*found 1 GPU$"):
        parts.measure(bare, config.Config(), None, 1, 0.1, 100.0)
