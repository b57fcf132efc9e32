"""Attention, MLP and block against their formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.layers import drop
from cct_tf.layers.attention import Attention
from cct_tf.layers.encoder import TransformerBlock
from cct_tf.layers.mlp import MLP, gelu_exact

SEEDS = rng.fold(0, rng.Stream.EXAMPLE, tf.range(3))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")


def widen(layer):
    """Larger weights than the initial ones, biases too, so that every part counts."""
    source = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign_add(source.normal(0, 0.4, variable.shape).astype("float32"))
    return layer


def norm_by_hand(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.epsilon)
    return normal * layer.gamma.numpy() + layer.beta.numpy()


def attention_by_hand(layer, x, keep=1.0):
    """`keep`: the mask of attention's weights over 1 - rate, [B, h, N, N]."""
    (batch, n, _), h = x.shape, layer.num_heads
    qkv = x @ layer.qkv.kernel.numpy() + (layer.qkv.bias.numpy() if layer.qkv_bias else 0)
    width = qkv.shape[-1] // 3
    query, key, value = (qkv[..., i * width:(i + 1) * width].reshape(batch, n, h, -1).swapaxes(1, 2) for i in range(3))
    if layer.qk_norm:
        query, key = norm_by_hand(layer.query_norm, query), norm_by_hand(layer.key_norm, key)
    scores = np.exp(query @ key.swapaxes(-1, -2) / math.sqrt(width // h))
    y = (keep * scores / scores.sum(-1, keepdims=True)) @ value
    return y.swapaxes(1, 2).reshape(batch, n, -1) @ layer.projection.kernel.numpy() + layer.projection.bias.numpy()


@pytest.mark.parametrize("fields", [{}, {"head_dim": 6, "qkv_bias": True},
                                    {"head_dim": 6, "qk_norm": True, "layer_norm_epsilon": 0.1}])
def test_attention_is_softmax_of_scaled_products(tokens, fields):
    layer = Attention(2, **fields)
    layer.build(tokens.shape)
    widen(layer)
    expected = attention_by_hand(layer, tokens)
    np.testing.assert_allclose(layer(tokens), expected, atol=1e-5)
    value = np.split(layer.qkv(tokens).numpy(), 3, axis=-1)[2].reshape(3, 5, 2, -1).swapaxes(1, 2)
    y = (layer.attention(tokens) @ value).numpy().swapaxes(1, 2).reshape(3, 5, -1)
    np.testing.assert_allclose(layer.projection(y), expected, atol=1e-5)


def test_attention_with_normalised_queries_and_keys_is_timms():
    """Numbers: timm 1.0.31, `Attention(8, num_heads=2, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm)`."""
    def numbers(index, *shape):
        return np.sin(1.7 * index + 0.9 * np.arange(np.prod(shape))**2).round(3).reshape(shape)

    layer = Attention(2, qkv_bias=True, qk_norm=True, dtype="float64")
    layer.build((1, 3, 8))
    layer.qkv.set_weights([numbers(1, 24, 8).T, numbers(2, 24)])
    layer.query_norm.set_weights([numbers(3, 4), numbers(4, 4)])
    layer.key_norm.set_weights([numbers(5, 4), numbers(6, 4)])
    layer.projection.set_weights([numbers(7, 8, 8).T, numbers(8, 8)])
    np.testing.assert_allclose(layer(numbers(9, 1, 3, 8)), [
        [[-0.765737, 1.075529, -1.543266, -2.317092, -1.974936, -0.998625, -0.593728, 2.712712],
         [-0.759205, 1.171514, -1.630998, -1.998559, -1.73513, -1.169153, -0.408634, 2.54275],
         [-0.632653, 1.10073, -1.484007, -2.080958, -1.823138, -1.133674, -0.54207, 2.618301]]], atol=1e-6)


def test_attention_drops_its_weights_after_the_softmax(tokens):
    layer = Attention(2, dropout_rate=0.5, block=3)
    layer.build(tokens.shape)
    widen(layer)
    keep = rng.keep_mask(SEEDS, drop.block_site(3, drop.ATTENTION), [2, 5, 5], 0.5).numpy() / 0.5
    np.testing.assert_allclose(layer(tokens, seeds=SEEDS, training=True), attention_by_hand(layer, tokens, keep),
                               atol=1e-5)
    with pytest.raises(ValueError, match="seeds"):
        layer(tokens, training=True)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads: expected a divisor of the width 8, found 3"):
        Attention(3).build((None, 5, 8))


def test_exact_gelu_is_x_times_the_normal_distribution():
    x = np.linspace(-5, 5, 41).astype("float32")
    np.testing.assert_allclose(gelu_exact(x), [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x], atol=1e-6)


def test_mlp_drops_after_each_layer(tokens):
    layer = MLP(4, gelu="tanh", output_activation=True, dropout_rate=0.5, block=1)
    layer.build(tokens.shape)
    widen(layer)

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def keep(place, width):
        return rng.keep_mask(SEEDS, drop.block_site(1, place), [5, width], 0.5).numpy() / 0.5

    hidden = gelu(tokens @ layer.hidden.kernel.numpy() + layer.hidden.bias.numpy()) * keep(drop.MLP_HIDDEN, 4)
    out = gelu(hidden @ layer.output_linear.kernel.numpy() + layer.output_linear.bias.numpy())
    np.testing.assert_allclose(layer(tokens, seeds=SEEDS, training=True), out * keep(drop.MLP_OUTPUT, 8), atol=1e-5)


@pytest.mark.parametrize("norm_order", ["authors", "pre"])
def test_block_is_its_residual_formula(tokens, norm_order):
    block = TransformerBlock(2, 16, norm_order=norm_order, drop_path_rate=0.5, block=2)
    block.build(tokens.shape)
    widen(block)

    def keep(place):
        return rng.keep_mask(SEEDS, drop.block_site(2, place), [1, 1], 0.5).numpy() / 0.5

    y = tokens + keep(drop.ATTENTION_PATH) * block.attention(block.attention_norm(tokens)).numpy()
    z = block.mlp_norm(y).numpy()
    expected = (z if norm_order == "authors" else y) + keep(drop.MLP_PATH) * block.mlp(z).numpy()
    np.testing.assert_allclose(block(tokens, seeds=SEEDS, training=True), expected, atol=1e-5)


@pytest.mark.parametrize(("norm_order", "mlp_output_activation"), [("authors", False), ("pre", True)])
def test_branches_of_zero_outputs_add_nothing_at_first(tokens, norm_order, mlp_output_activation):
    """The other weights are those of a block without it, to the bit."""
    fields = {"norm_order": norm_order, "mlp_output_activation": mlp_output_activation, "name": "x", "block": 0}
    block, plain = TransformerBlock(2, 16, zero_init_outputs=True, **fields), TransformerBlock(2, 16, **fields)
    block.build(tokens.shape)
    plain.build(tokens.shape)
    expected = tokens if norm_order == "pre" else norm_by_hand(block.mlp_norm, tokens)
    np.testing.assert_allclose(block(tokens), expected, atol=0 if norm_order == "pre" else 1e-6)
    for ours, theirs in zip(block.weights, plain.weights, strict=True):
        zero = ours.path in ("x/attention/projection/kernel", "x/mlp/output/kernel")
        np.testing.assert_array_equal(ours, np.zeros(ours.shape) if zero else theirs, err_msg=ours.path)
        assert theirs.numpy().any() or not zero


def test_a_block_without_a_number_is_refused():
    with pytest.raises(TypeError, match="block"):
        TransformerBlock(2, 16)


@pytest.mark.parametrize("layer", [
    Attention(2, head_dim=4, qkv_bias=True, qk_norm=True, layer_norm_epsilon=1e-6, zero_init_output=True,
              dropout_rate=0.1, projection_dropout_rate=0.2, block=3, seed=5),
    MLP(4, gelu="tanh", output_activation=True, dropout_rate=0.1, zero_init_output=True, block=2, initializer="keras",
        seed=5),
    TransformerBlock(2, 16, norm_order="pre", qk_norm=True, zero_init_outputs=True, layer_norm_epsilon=1e-6,
                     drop_path_rate=0.1, block=4, seed=5),
    drop.DropPath(0.1, 20)])
def test_config_makes_the_same_layer(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
