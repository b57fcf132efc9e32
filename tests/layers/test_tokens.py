"""Tokenizers, positions, pooling and initial weights against hand computation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.layers.initializers import Keyed, keyed
from cct_tf.layers.pooling import ClassToken, SequencePooling
from cct_tf.layers.position import LearnablePositions, SinePositions, sine_positions
from cct_tf.layers.position_grid import resize_positions
from cct_tf.layers.tokenizer import ConvTokenizer, PatchTokenizer


def delta_kernel(size, channels_in, channels_out, row, column):
    """A convolution that only moves the first channel."""
    kernel = np.zeros((size, size, channels_in, channels_out), "float32")
    kernel[row, column, 0, :] = 1
    return kernel


def test_conv_tokenizer_pads_evenly_and_pools_three_by_three():
    image = np.arange(1.0, 65.0, dtype="float32").reshape(1, 8, 8, 1)
    layer = ConvTokenizer(2, kernel_size=3, stride=1, padding=1)
    layer.build(image.shape)
    layer.conv_0_kernel.assign(delta_kernel(3, 1, 2, 1, 1))  # the image itself
    # Windows centred on pixels 0, 2, 4, 6 of each axis: the maximum is at 1, 3, 5, 7.
    expected = image[0, 1::2, 1::2, 0].reshape(16)
    np.testing.assert_array_equal(layer(image)[0, :, 0], expected)
    assert layer.compute_output_shape((None, 8, 8, 1)) == (None, 16, 2)


def test_stride_two_starts_at_the_padding():
    image = np.arange(1.0, 257.0, dtype="float32").reshape(1, 16, 16, 1)
    layer = ConvTokenizer(1, kernel_size=7, stride=2, padding=3)
    layer.build(image.shape)
    layer.conv_0_kernel.assign(delta_kernel(7, 1, 1, 3, 3))  # the pixels 0, 2, ... 14
    expected = image[0, 2::4, 2::4, 0].reshape(16)  # of those, pooled, the second, fourth ...
    np.testing.assert_array_equal(layer(image)[0, :, 0], expected)


@pytest.mark.parametrize("fields", [
    {"num_convs": 2}, {"num_convs": 2, "padding": 0, "pool_padding": "keras"},
    {"kernel_size": 7, "stride": 2, "padding": 3}, {"kernel_size": 4, "stride": 3, "pool_padding": "keras"}])
def test_the_shape_told_in_advance_is_that_of_the_tokens(fields):
    layer = ConvTokenizer(4, **fields)
    for shape in ((1, 16, 17, 3), (1, 18, 23, 3)):
        assert layer(np.zeros(shape, "float32")).shape == layer.compute_output_shape(shape)


def test_patch_tokenizer_is_a_linear_layer_on_patches():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    layer = PatchTokenizer(5, 4)
    layer.build(images.shape)
    layer.bias.assign([1, 2, 3, 4, 5])
    patch = images[:, 4:8, 0:4].reshape(2, -1)  # the third: second row, first column
    expected = patch @ layer.kernel.numpy().reshape(48, 5) + [1, 2, 3, 4, 5]
    np.testing.assert_allclose(layer(images)[:, 2], expected, atol=1e-5)


def test_sine_positions_follow_their_formula():
    table = sine_positions(50, 6)
    for p, i in ((0, 0), (1, 0), (7, 1), (49, 2)):
        angle = p / 10000 ** (2 * i / 6)
        np.testing.assert_allclose(table[p, 2 * i:2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-5)
    layer = SinePositions()
    np.testing.assert_array_equal(layer(np.zeros((1, 50, 6), "float32"))[0], table)
    assert layer.weights == []


def test_resized_positions_are_bilinear_between_pixel_centres():
    grid = np.array([[0.0], [1.0], [2.0], [3.0]], "float32")  # 2 x 2: rows (0, 1) and (2, 3)
    # Centres of 4 points over 2: -0.25, 0.25, 0.75, 1.25, held inside 0 .. 1.
    axis = np.array([0.0, 0.25, 0.75, 1.0])
    expected = 2 * axis[:, None] + axis[None, :]
    found = resize_positions(grid, (2, 2), (4, 4), class_token=False)[:, 0]
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)
    wide = resize_positions(grid, (2, 2), (2, 4), class_token=False)[:, 0]
    np.testing.assert_allclose(wide, (np.array([[0.0], [2.0]]) + axis).ravel(), atol=1e-6)


def test_shrunk_positions_are_not_antialiased():
    grid = np.arange(16.0, dtype="float32")[:, None]  # 4 x 4 -> 2 x 2: centres 0.5 and 2.5
    np.testing.assert_allclose(resize_positions(grid, (4, 4), (2, 2), class_token=False)[:, 0], [2.5, 4.5, 10.5, 12.5])


def test_resizing_keeps_the_class_row_and_the_same_size():
    grid = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    np.testing.assert_array_equal(resize_positions(grid, (3, 3), (3, 3), class_token=True), grid)
    larger = resize_positions(grid, (3, 3), (5, 5), class_token=True)
    assert larger.shape == (26, 3) and larger.dtype == np.float32
    np.testing.assert_array_equal(larger[0], grid[0])
    with pytest.raises(ValueError, match="expected 9 rows"):
        resize_positions(grid, (3, 3), (5, 5), class_token=False)


def test_sequence_pooling_weighs_tokens_by_their_softmax():
    tokens = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    layer = SequencePooling()
    layer.build(tokens.shape)
    layer.score.kernel.assign([[1.0], [-2.0], [0.5]])
    scores = np.exp(tokens @ [1.0, -2.0, 0.5])
    shares = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(layer.attention(tokens), shares, atol=1e-6)
    np.testing.assert_allclose(layer(tokens), np.einsum("bn,bnd->bd", shares, tokens), atol=1e-6)


def test_class_token_comes_first():
    tokens = np.ones((2, 3, 4), "float32")
    layer = ClassToken()
    layer.build(tokens.shape)
    layer.embedding.assign([[1, 2, 3, 4]])
    y = layer(tokens).numpy()
    assert y.shape == (2, 4, 4)
    np.testing.assert_array_equal(y[:, 0], [[1, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(y[:, 1:], tokens)


def test_initial_values_depend_on_seed_and_path_only():
    first, again = Keyed("normal", 0.1, 3, "a/kernel"), Keyed("normal", 0.1, 3, "a/kernel")
    keras.utils.set_random_seed(1)
    values = first((200, 50)).numpy()
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(again((200, 50)), values)
    for other in (Keyed("normal", 0.1, 4, "a/kernel"), Keyed("normal", 0.1, 3, "b/kernel")):
        assert abs(np.corrcoef(other((200, 50)).numpy().ravel(), values.ravel())[0, 1]) < 0.04
    np.testing.assert_array_equal(keras.initializers.deserialize(keras.initializers.serialize(first))((200, 50)),
                                  values)


@pytest.mark.parametrize(("distribution", "deviation", "bound"), [
    ("normal", 1.0, np.inf), ("truncated_normal", 0.8796, 2.0), ("uniform", 3**-0.5, 1.0)])
def test_distributions_have_their_deviation_and_bound(distribution, deviation, bound):
    values = Keyed(distribution, 0.5, 0, "kernel")((300, 300)).numpy() / 0.5
    assert np.std(values) == pytest.approx(deviation, rel=0.01)
    assert abs(np.mean(values)) < 0.02 and np.max(np.abs(values)) <= bound


@pytest.mark.parametrize(("scheme", "kind", "stock"), [
    ("keras", "conv", keras.initializers.HeNormal(0)), ("keras", "linear", keras.initializers.GlorotUniform(0)),
    ("vit", "conv", keras.initializers.LecunNormal(0))])
def test_scales_are_those_of_keras(scheme, kind, stock):
    shape = (3, 3, 64, 128) if kind == "conv" else (300, 100)
    receptive = 9 if kind == "conv" else 1
    values = keyed(scheme, kind, (receptive * shape[-2], receptive * shape[-1]), 0, "kernel")(shape).numpy()
    assert np.std(values) == pytest.approx(np.std(stock(shape)), rel=0.02)


@pytest.mark.parametrize("layer", [
    ConvTokenizer(8, num_convs=2, kernel_size=7, stride=2, padding=3, pool_padding="keras", seed=5),
    PatchTokenizer(8, 4, initializer="vit", seed=5), LearnablePositions(seed=5), SinePositions(),
    SequencePooling(seed=5), ClassToken()])
def test_config_makes_the_same_layer(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config


def test_learnable_positions_are_added_to_every_example():
    layer = LearnablePositions()
    tokens = tf.ones([2, 4, 3])
    np.testing.assert_allclose(layer(tokens), np.ones((2, 4, 3)) + layer.embedding.numpy(), atol=1e-6)
