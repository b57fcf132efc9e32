"""The network of stock Keras layers is the network it is compared with."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.benchmark import comparison, keras_network
from cct_tf.engine import losses
from cct_tf.models import create_model, variants
from cct_tf.models.cost import count_parameters
from cct_tf.settings import config

NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "drop_path_rate": 0.0}


def _variant(name, **changes):
    return variants.resolve(name, **changes)


def _layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def _copy_attention(attention, layer, variant):
    h, K, D = variant.num_heads, variant.inner_dim // variant.num_heads, variant.embed_dim
    kernels = attention.qkv.kernel.numpy().reshape(D, 3, h, K)
    biases = attention.qkv.bias.numpy().reshape(3, h, K) if variant.qkv_bias else np.zeros([3, h, K])
    values = [array for part in range(3) for array in (kernels[:, part], biases[part])]
    layer.set_weights([*values, attention.projection.kernel.numpy().reshape(h, K, D),
                       attention.projection.bias.numpy()])


def _copy_tokenizer(ours, theirs, variant):
    convolutions = _layers(theirs, keras.layers.Conv2D)
    if variant.tokenizer == "patch":
        convolutions[0].set_weights([ours.tokenizer.kernel.numpy(), ours.tokenizer.bias.numpy()])
        return
    turn = -1 if keras_network.is_mirrored(variant) else 1
    for index, layer in enumerate(convolutions):
        layer.set_weights([getattr(ours.tokenizer, f"conv_{index}_kernel").numpy()[::turn, ::turn]])
    for layer in _layers(theirs, keras_network.LearnablePositions):
        layer.set_weights([ours.positions.embedding.numpy()[::turn]])


def _copy(ours, theirs, variant):
    """Our weights, moved a little so that no bias is 0, into the stock layers."""
    random = np.random.default_rng(0)
    for variable in ours.trainable_variables:
        variable.assign_add(0.05 * random.normal(size=variable.shape))
    _copy_tokenizer(ours, theirs, variant)
    if variant.tokenizer == "patch":
        for layer in _layers(theirs, keras_network.LearnablePositions):
            layer.set_weights([ours.positions.embedding.numpy()])
    for layer in _layers(theirs, keras_network.ClassToken):
        layer.set_weights([ours.class_token.embedding.numpy()[None]])
    blocks = ours.blocks
    for block, layer in zip(blocks, _layers(theirs, keras.layers.MultiHeadAttention), strict=True):
        _copy_attention(block.attention, layer, variant)
    norms = [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)] + [ours.norm]
    dense = [linear for block in blocks for linear in (block.mlp.hidden, block.mlp.output_linear)]
    dense += ([ours.pooling.score] if ours.pooling else []) + [ours.head]
    for mine, layer in zip(norms, _layers(theirs, keras.layers.LayerNormalization), strict=True):
        layer.set_weights([mine.gamma.numpy(), mine.beta.numpy()])
    for mine, layer in zip(dense, _layers(theirs, keras.layers.Dense), strict=True):
        layer.set_weights([mine.kernel.numpy(), mine.bias.numpy()])


@pytest.mark.parametrize(("name", "changes"), [
    ("cct_2_3x1_8", {}), ("cct_2_3x2_32", {"image_size": 14}), ("cct_2_4x1_8", {"image_size": 9}),
    ("cct_2_7x2_32", {"image_size": 24}), ("cct_2_9x1_32", {"image_size": 23}), ("cct_2_3x1_8_sine", {}),
    ("cct_2_3x1_8", {"positional_embedding": "none", "norm_order": "pre"}), ("cvt_2_4_8", {}), ("vit_2_4_8", {}),
    ("vit_2_4_8_sine", {}), ("cct_2_3x2_32_keras", {"image_size": 13})])
def test_the_same_weights_give_the_same_logits(name, changes):
    variant = _variant(name, **changes, **NO_DROPOUT)
    ours = create_model(name, num_classes=5, **changes, **NO_DROPOUT)
    theirs = keras_network.build(variant, 5)
    forced = 0 if variant.qkv_bias else 3 * variant.inner_dim * variant.depth
    assert sum(np.prod(variable.shape) for variable in theirs.trainable_variables) == (
        count_parameters(variant, 5) + forced)
    _copy(ours, theirs, variant)
    images = np.random.default_rng(1).normal(size=[3, variant.image_size, variant.image_size, 3]).astype(np.float32)
    turn = -1 if keras_network.is_mirrored(variant) else 1
    for training in (False, True):
        expected = ours(images, training=training).numpy()
        found = theirs(images[:, ::turn, ::turn], training=training).numpy()
        assert np.ptp(expected) > 0.1  # so that logits can differ
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_rates_of_dropout_and_stochastic_depth_are_the_variants():
    variant = _variant("cct_2_3x1_8", dropout_rate=0.2, attention_dropout_rate=0.3, drop_path_rate=0.4)
    model = keras_network.build(variant, 5)
    assert [layer.rate for layer in _layers(model, keras_network.StochasticDepth)] == [0.0, 0.0, 0.4, 0.4]
    assert [layer.rate for layer in _layers(model, keras.layers.Dropout)] == [0.2] * 7  # tokens; 3 in each of 2 blocks
    assert [layer.get_config()["dropout"] for layer in _layers(model, keras.layers.MultiHeadAttention)] == [0.3] * 2
    tutorial = keras_network.build(_variant("cct_2_3x2_32_keras", image_size=13, dropout_rate=0.2), 5)
    assert [layer.rate for layer in _layers(tutorial, keras.layers.Dropout)] == [0.2] * 4


def test_the_loss_it_trains_on_is_ours():
    variant = _variant("cct_2_3x1_8", **NO_DROPOUT)
    ours, theirs = create_model("cct_2_3x1_8", num_classes=5, **NO_DROPOUT), keras_network.build(variant, 5)
    _copy(ours, theirs, variant)
    optim = config.OptimConfig(label_smoothing=0.1, clip_norm=0.5, weight_decay=0.2)
    keras_network.compile_for(theirs, vars(optim), jit=False)
    images = tf.random.stateless_normal([6, 8, 8, 3], [0, 1])
    labels = tf.one_hot(tf.range(6) % 5, 5)
    expected = losses.cross_entropy(labels * 0.9 + 0.1 / 5, ours(images[:, ::-1, ::-1])).numpy().mean()
    assert theirs.train_on_batch(images, labels) == pytest.approx(expected, rel=1e-5)
    optimizer = theirs.optimizer
    assert (optimizer.global_clipnorm, optimizer.weight_decay, optimizer.clipnorm) == (0.5, 0.2, None)
    decayed = [variable for variable in theirs.trainable_variables if optimizer._use_weight_decay(variable)]
    assert 0 < len(decayed) < len(theirs.trainable_variables) and min(len(v.shape) for v in decayed) == 2


def test_the_other_process_answers_and_says_why_it_died():
    settings = config.from_dict({"batch_size": 4, "label_smoothing": 0.1})
    variant = _variant("cct_2_3x1_8")
    with comparison.KerasSide(variant, 5, settings, jit=False, policy="mixed_bfloat16") as side:
        assert side.parameters == count_parameters(variant, 5) + 3 * 128 * 2
        assert side.precision == "bfloat16"  # as its layers say
        assert side.measure(0.05) > 0
        side._process.kill()
        side._process.wait()
        with pytest.raises(RuntimeError, match="the process of the Keras layers ended"):
            side.measure(0.05)
