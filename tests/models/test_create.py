"""What create_model promises of every model: weights from the seed, masks from the examples, ordinary Keras."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import cct_tf
from cct_tf.errors import UserError
from cct_tf.models import cost, variants

TINY = "cct_2_3x2_16"


@pytest.fixture(scope="module")
def model():
    return cct_tf.create_model(TINY, dropout_rate=0.2, drop_path_rate=0.3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype("float32")


@pytest.mark.parametrize(("name", "num_classes"), [
    ("cct_2_3x2_32", 10), ("cct_6_3x1_32", 10), ("cct_7_7x2_224", 102), ("cct_2_3x1_16_sine", 3), ("cvt_4_4_32", 10),
    ("cvt_2_4_32_sine", 10), ("vit_7_4_32", 10), ("vit_2_4_32_sine", 10), ("cct_2_3x2_32_keras", 10)])
def test_variables_are_those_of_the_table(name, num_classes):
    model = cct_tf.create_model(name, num_classes=num_classes)
    assert model.built and model.count_params() == cost.count_parameters(model.variant, num_classes)
    assert all(variable.trainable for variable in model.weights)


def test_vit_b_16_has_its_published_size():
    assert cct_tf.create_model("vit_b_16_224", num_classes=1000).count_params() == 86_567_656


@pytest.mark.parametrize(("name", "width"), [("cct_2_3x2_16", 64), ("cct_2_3x2_32_keras", 128)])
def test_norms_of_queries_and_keys_are_four_vectors_a_block_of_the_width_of_a_head(name, width):
    model = cct_tf.create_model(name, qk_norm=True)
    assert model.count_params() == cost.count_parameters(model.variant, 10)
    assert model.count_params() - cost.count_parameters(variants.resolve(name), 10) == 2 * 4 * width


def test_fields_reach_the_network():
    model = cct_tf.create_model("cct_2_3x2_32", num_classes=3, image_size=24, positional_embedding="none",
                                norm_order="pre", dropout_rate=0.1, attention_dropout_rate=0.2, drop_path_rate=0.3,
                                qk_norm=True, zero_init_outputs=True)
    block = model.blocks[1]
    assert model.positions is None and block.norm_order == "pre"
    assert block.attention.qk_norm and not np.any(block.attention.projection.kernel)
    assert not np.any(block.mlp.output_linear.kernel) and np.any(model.head.kernel)
    assert (model.token_dropout.rate, block.mlp.dropout_rate, block.attention.projection_dropout_rate) == (0.1,) * 3
    assert (block.attention.dropout_rate, block.attention_path.rate, block.mlp_path.rate) == (0.2, 0.3, 0.3)
    assert model.blocks[0].mlp_path.rate == 0.0
    assert model(np.zeros((2, 24, 24, 3), "float32")).shape == (2, 3)


def test_same_seed_same_weights_whatever_was_made_before(model):
    again = cct_tf.create_model(TINY)
    other = cct_tf.create_model(TINY, seed=1)
    for a, b, c in zip(model.weights, again.weights, other.weights, strict=True):
        assert a.path == b.path
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        if a.path.endswith(("kernel", "positions/embedding")):
            assert not np.array_equal(a.numpy(), c.numpy()), a.path


def test_initial_scales_are_the_authors():
    model = cct_tf.create_model("cct_7_3x2_32")
    weights = {variable.path.split("/", 1)[1]: variable.numpy() for variable in model.weights}
    assert np.std(weights["tokenizer/conv_1_kernel"]) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert np.max(np.abs(weights["tokenizer/conv_1_kernel"])) > 3 * (2 / (9 * 64)) ** 0.5  # not truncated
    assert np.std(weights["positions/embedding"]) == pytest.approx(0.2, rel=0.03)
    for name in ("block_3/attention/qkv/kernel", "block_0/mlp/hidden/kernel", "block_6/mlp/output/kernel"):
        assert np.std(weights[name]) == pytest.approx(0.02, rel=0.02)
    assert not weights["head/bias"].any() and (weights["norm/gamma"] == 1).all()


def test_training_output_of_an_example_is_its_own(model, images):
    seeds = tf.constant([11, 22, 33, 44, 55, 66], tf.uint32)
    order = [4, 0, 5]
    whole = model(images, seeds=seeds, training=True).numpy()
    part = model(images[order], seeds=tf.gather(seeds, order), training=True).numpy()
    np.testing.assert_allclose(part, whole[order], atol=1e-5)
    other = model(images, seeds=seeds + tf.constant(1, tf.uint32), training=True).numpy()
    assert np.abs(other - whole).min(axis=1).max() > 1e-3


def test_seed_generator_moves_only_without_seeds(model, images):
    state = model.seed_generator.state
    before = state.numpy()
    model(images, seeds=tf.range(6), training=True)
    model(images)
    np.testing.assert_array_equal(state.numpy(), before)
    first, second = model(images, training=True).numpy(), model(images, training=True).numpy()
    np.testing.assert_array_equal(state.numpy(), before + [0, 2])
    assert not np.allclose(first, second)


def test_drawn_seeds_depend_on_both_words_of_the_state(model):
    def drawn(word, counter):
        model.seed_generator.state.assign([word, counter])
        return set(model._draw_seeds(tf.constant(50)).numpy().tolist())

    sets = [drawn(0, 0), drawn(0, 1), drawn(1, 0), drawn(1, 1)]
    assert len(set.union(*sets)) == 200


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"images: expected shape \[None, 16, 16, 3\], found \[2, 32, 32, 3\]"):
        model(np.zeros((2, 32, 32, 3), "float32"))
    unknown = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])])
    with pytest.raises(tf.errors.InvalidArgumentError):
        unknown(np.zeros((2, 32, 32, 3), "float32"))


@pytest.mark.parametrize(("policy", "logits"), [("mixed_bfloat16", "float32"), ("float64", "float64")])
def test_logits_are_float32_under_half_precision(policy, logits, images):
    model = cct_tf.create_model(TINY, dtype=policy)
    assert model(images).dtype == logits and model.features(images).dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(model(images), cct_tf.create_model(TINY)(images), atol=0.02)
    assert {str(variable.dtype) for variable in model.weights} == {logits}


def test_pooling_attention_is_the_weight_of_each_token(model, images):
    shares = model.pooling_attention(images).numpy()
    assert shares.shape == (6, 16)
    np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-5)
    tokens = model.norm(model._encode(images)).numpy()
    np.testing.assert_allclose(np.einsum("bn,bnd->bd", shares, tokens), model.features(images), atol=1e-5)


def test_checkpoint_round_trip_is_strict(model, images, tmp_path):
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "weights"))
    other = cct_tf.create_model(TINY, seed=9)
    status = tf.train.Checkpoint(model=other).read(path)
    status.assert_consumed()
    status.assert_existing_objects_matched()
    for ours, theirs in zip(model.weights, other.weights, strict=True):  # what isn't in the file isn't missed either
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    np.testing.assert_array_equal(model(images), other(images))


def test_plain_keras_fits_and_loads_in_a_new_process(images, tmp_path):
    model = cct_tf.create_model(TINY, norm_order="pre", dropout_rate=0.1)
    before = model.head.kernel.numpy()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(images, np.arange(6), batch_size=6, verbose=0)
    assert not np.allclose(before, model.head.kernel.numpy())
    model.save(tmp_path / "cct.keras")
    vit = cct_tf.create_model("vit_2_8_16_sine", dtype="mixed_bfloat16")
    vit.save(tmp_path / "vit.keras")
    np.savez(tmp_path / "data.npz", images=images, cct=model(images), vit=vit(images))
    code = ("import sys, keras, numpy as np; import cct_tf.models.cct, cct_tf.models.vit\n"
            "data = np.load(sys.argv[1] + '/data.npz')\n"
            "for name in ('cct', 'vit'):\n"
            "    model = keras.models.load_model(f'{sys.argv[1]}/{name}.keras')\n"
            "    np.testing.assert_array_equal(model(data['images']), data[name])\n"
            "    model(data['images'], training=True)\n")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_config_holds_every_field(model):
    twin = type(model).from_config(model.get_config())
    assert (twin.variant, twin.num_classes, twin.seed, twin.name) == (
        model.variant, model.num_classes, model.seed, model.name)


@pytest.mark.parametrize(("fields", "message"), [
    ({"num_classes": 0}, "num_classes: expected an integer of at least 1, found 0"),
    ({"num_classes": True}, "num_classes"), ({"seed": -1}, "seed: expected"), ({"seed": 1.5}, "seed: expected")])
def test_wrong_arguments_are_user_errors(fields, message):
    with pytest.raises(UserError, match=message):
        cct_tf.create_model(TINY, **fields)
