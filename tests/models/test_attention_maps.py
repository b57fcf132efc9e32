"""Attention maps against the authors' networks in NumPy and matrices multiplied by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import cct_tf
from cct_tf.models.attention_maps import attention_maps
from tests.models import authors_numpy
from tests.models.test_parity import our_logits_and_weights


def seen_by_numpy(images, weights, variant):
    """([A of the first block, of the second], heads averaged; pooling or None), by the NumPy network."""
    seen = []
    authors_numpy.forward(images, weights, variant.num_heads, patch=variant.tokenizer == "patch",
                          sine=variant.positional_embedding == "sine", seen=seen)
    return [attention.mean(1) for attention in seen[:2]], (seen[2] if variant.seq_pool else None)


@pytest.mark.parametrize(("name", "size"), [("cct_2_3x2_32", None), ("cct_2_7x2_32", None), ("cct_2_3x1_16_sine", None),
                                            ("cvt_2_4_16", None), ("cct_2_3x1_16", (8, 14))])
def test_maps_of_sequence_pooling_are_its_weights_times_both_blocks(name, size):
    _, images, weights, model = our_logits_and_weights(name, size)
    (first, second), pooling = seen_by_numpy(images, weights, model.variant)
    unit = np.eye(first.shape[-1])
    rollout = np.einsum("bn,bnm->bm", pooling, (second + unit) / 2 @ ((first + unit) / 2))
    maps = attention_maps(model, images)
    grid = (4, 7) if size else (round(pooling.shape[1]**0.5),) * 2
    for found, expected in ((maps["pooling"], pooling), (maps["rollout"], rollout)):
        assert found.shape == (2, *grid)
        np.testing.assert_allclose(found, expected.reshape(2, *grid), atol=1e-6)
        np.testing.assert_allclose(np.sum(found, axis=(1, 2)), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_2_4_16", "vit_2_8_16_sine"])
def test_maps_of_a_class_token_are_its_row_without_itself(name):
    _, images, weights, model = our_logits_and_weights(name)
    (first, second), _ = seen_by_numpy(images, weights, model.variant)
    unit = np.eye(first.shape[-1])
    row = ((second + unit) / 2 @ ((first + unit) / 2))[:, 0, 1:]
    side = model.variant.grid[0]
    maps = attention_maps(model, images)
    for found, expected in ((maps["pooling"], second[:, 0, 1:]), (maps["rollout"], row)):
        expected = expected / expected.sum(1, keepdims=True)
        np.testing.assert_allclose(found, expected.reshape(2, side, side), atol=1e-6)


@pytest.fixture(scope="module")
def model_and_images():
    model = cct_tf.create_model("cct_2_3x1_8", dropout_rate=0.3, attention_dropout_rate=0.3, drop_path_rate=0.3)
    return model, np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")


def test_each_token_gives_out_one_whole(model_and_images):
    model, images = model_and_images
    block = model.blocks[0]
    shares = block.attention.attention(block.attention_norm(model.embed(images)))
    assert shares.shape == (3, 2, 16, 16) and np.min(shares) >= 0
    np.testing.assert_allclose(np.sum(shares, axis=-1), 1.0, atol=1e-6)


def test_logits_follow_from_the_pooling_map(model_and_images):
    model, images = model_and_images
    pooling = np.reshape(attention_maps(model, images)["pooling"], [3, 16])
    tokens = model.norm(model._encode(images))
    pooled = np.einsum("bn,bnd->bd", pooling, tokens)
    np.testing.assert_allclose(model.head(pooled), model(images), atol=1e-5)


def test_half_precision_gives_float32_maps_close_by(model_and_images):
    model, images = model_and_images
    half = cct_tf.create_model("cct_2_3x1_8", dtype="mixed_bfloat16")
    found, exact = tf.function(attention_maps)(half, images), attention_maps(model, images)
    for name, values in found.items():
        assert values.dtype == tf.float32
        np.testing.assert_allclose(values, exact[name], atol=5e-3)
    assert keras.config.dtype_policy().name == "float32"
