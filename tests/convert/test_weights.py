"""State dicts in the authors' naming give the authors' logits, through files; what does not fit is named."""

import itertools
import types

import keras
import numpy as np
import pytest

import cct_tf
from cct_tf import convert_torch
from cct_tf.convert import load_torch_weights, matching, names, to_torch
from cct_tf.convert.state import read_state
from cct_tf.errors import UserError
from cct_tf.models import cost, variants
from tests import commands
from tests.convert import torch_files
from tests.models import authors_numpy

KINDS = ("zip", "legacy", "safetensors")
# The published depths and widths differ in nothing but numbers; two blocks are enough to see each path of the network.
NETWORKS = {32: ("cct_2_3x2_32", "cvt_2_4_32", "vit_2_4_32"), 224: ("cct_2_7x2_224", "cvt_2_16_224", "vit_2_16_224"),
            384: ("cct_2_7x2_384", "cvt_2_32_384", "vit_2_32_384")}


def state_dict(variant, classes=10):
    """A state dict of the authors' for a network, from a formula: {name: array}, as their code saves it."""
    arrays = authors_numpy.formula_weights({weight.authors: weight.shape for weight in names.weights(variant, classes)})
    if variant.positional_embedding == "sine":
        arrays[names.POSITIONS] = authors_numpy.sines(variant.num_tokens, variant.embed_dim).astype(np.float32)
    return arrays


def expected_logits(arrays, variant, images):
    return authors_numpy.forward(images, arrays, variant.num_heads, patch=variant.tokenizer == "patch")


@pytest.mark.parametrize("size", NETWORKS)
@pytest.mark.parametrize("positions", variants.POSITIONAL_EMBEDDINGS)
@pytest.mark.parametrize("family", [0, 1, 2], ids=["cct", "cvt", "vit"])
def test_a_file_of_the_authors_gives_their_logits(family, positions, size, tmp_path):
    model = cct_tf.create_model(NETWORKS[size][family], num_classes=7, positional_embedding=positions)
    arrays = state_dict(model.variant, 7)
    kind = KINDS[(family + list(NETWORKS).index(size)) % 3]
    found = load_torch_weights(model, torch_files.write(tmp_path / "x", arrays, kind))
    assert sorted([weight.authors for weight, _ in found.used] + found.checked) == sorted(arrays)
    images = 1.5 * authors_numpy.pattern("images", (1, size, size, 3))
    np.testing.assert_allclose(model(images).numpy(), expected_logits(arrays, model.variant, images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in variants.PUBLISHED
                                  if name not in ("cct_2_3x2_32_keras", "vit_b_16_224")])
def test_names_and_shapes_are_those_of_every_published_network(name):
    variant = variants.resolve(name)
    shapes = [weight.shape for weight in names.weights(variant, 10)]
    assert sum(np.prod(shape) for shape in shapes) == cost.count_parameters(variant, 10)


# What does not fit.

TINY = variants.resolve("cct_2_3x1_16")


def refusal(arrays, tmp_path, variant=TINY, classes=10, kind="zip"):
    with pytest.raises(UserError) as caught:
        matching.match(read_state(torch_files.write(tmp_path / "x.pth", arrays, kind)), variant, classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_unused_and_misshapen_weights_are_named(tmp_path):
    arrays = state_dict(TINY)
    arrays["classifier.fc.weigth"] = arrays.pop("classifier.fc.weight")
    arrays["classifier.norm.bias"] = arrays["classifier.norm.bias"][:5]
    message = refusal(arrays, tmp_path)
    assert "missing: classifier.fc.weight;" in message
    assert "unused: 'classifier.fc.weigth' (did you mean 'classifier.fc.weight'?)" in message
    assert "of another shape: classifier.norm.bias [5] instead of [128]" in message
    message = refusal({"a": np.ones(3, np.float32)}, tmp_path)
    assert "and 22 more" in message and message.count("classifier.blocks") == 6


def test_another_class_count_and_network_are_seen(tmp_path):
    assert "classifier.fc.weight [10, 128] instead of [7, 128]" in refusal(state_dict(TINY), tmp_path, classes=7)
    message = refusal(state_dict(TINY), tmp_path, variants.resolve("vit_2_4_16"))
    assert "missing: tokenizer.conv_layers.0.0.bias, classifier.class_emb" in message
    assert "unused: 'classifier.attention_pool.weight', 'classifier.attention_pool.bias'" in message
    assert "vit_b_16_224" in refusal(state_dict(TINY), tmp_path, variants.resolve("vit_b_16_224"))
    assert "norm_order=pre" in refusal(state_dict(TINY), tmp_path, variants.resolve("cct_2_3x1_16", norm_order="pre"))
    assert "qk_norm=true" in refusal(state_dict(TINY), tmp_path, variants.resolve("cct_2_3x1_16", qk_norm=True))


@pytest.mark.parametrize("value, words", [(np.nan, "classifier.fc.bias"), (-np.inf, "classifier.fc.bias"),
                                          (1e300, "classifier.fc.bias")])
def test_values_that_are_not_finite_are_reported(value, words, tmp_path):
    arrays = state_dict(TINY)
    arrays["classifier.fc.bias"] = np.full(10, value)
    message = refusal(arrays, tmp_path, kind="legacy")
    assert "not finite" in message and words in message


def test_integers_are_no_weights_and_counts_may_be_left(tmp_path):
    arrays = state_dict(TINY)
    assert "integers: classifier.fc.bias" in refusal(arrays | {"classifier.fc.bias": np.arange(10)}, tmp_path)
    arrays["tokenizer.norm.num_batches_tracked"] = np.array(3)
    state = read_state(torch_files.write(tmp_path / "x.pth", arrays, "zip"))
    assert matching.match(state, TINY, 10).left == ["tokenizer.norm.num_batches_tracked"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sines_must_be_ours_up_to_the_rounding_of_their_type(dtype, tmp_path):
    variant = variants.resolve("cct_2_3x1_16_sine")
    arrays = state_dict(variant)

    def written(array):
        return ("bfloat16", array) if dtype == "bfloat16" else array.astype(dtype)

    whole = {name: written(array) for name, array in arrays.items()}
    state = read_state(torch_files.write(tmp_path / "y.pth", whole, "zip"))
    assert matching.match(state, variant, 10).checked == [names.POSITIONS]
    wrong = arrays[names.POSITIONS].copy()
    wrong[0, 7, 30] += 0.02
    assert "than the sines" in refusal(whole | {names.POSITIONS: written(wrong)}, tmp_path, variant)
    learnable = variants.resolve("cct_2_3x1_16")
    assert len(matching.match(state, learnable, 10).used) == len(arrays)


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    model = cct_tf.create_model("cct_2_3x1_16")
    before = [weight.value.numpy() for weight in model.weights]
    arrays = state_dict(model.variant)
    arrays.pop("classifier.fc.bias")
    with pytest.raises(UserError, match="missing: classifier.fc.bias"):
        load_torch_weights(model, torch_files.write(tmp_path / "x", arrays, "zip"))
    for weight, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.value, array)


# Which network it is.


def shaped(variant, classes=10):
    """What `infer` looks at, without a file: zeros that take no memory, and true sines."""
    zero = np.float32(0)
    arrays = {weight.authors: np.broadcast_to(zero, weight.shape) for weight in names.weights(variant, classes)}
    if variant.positional_embedding == "sine":
        arrays[names.POSITIONS] = authors_numpy.sines(variant.num_tokens, variant.embed_dim).astype(np.float32)
    return types.SimpleNamespace(path="x.pth", arrays=arrays, dtypes=dict.fromkeys(arrays, "float32"))


def test_every_published_network_is_found_by_its_shapes_and_sines():
    for name in variants.PUBLISHED[:-2]:
        found = matching.infer(shaped(variants.resolve(name), 3))
        assert (found.name, found.positional_embedding) == (name, variants.resolve(name).positional_embedding)


def test_networks_of_one_shape_are_listed():
    without = variants.resolve("cct_14_7x2_384", positional_embedding="none")
    with pytest.raises(UserError, match="--infer_model.*cct_14_7x2_224 and cct_14_7x2_384.*--model"):
        matching.infer(shaped(without))
    assert matching.infer(shaped(variants.resolve("cct_7_3x1_32", positional_embedding="none"))).name == "cct_7_3x1_32"
    with pytest.raises(UserError, match="--infer_model: expected.*2 blocks.*--model"):
        matching.infer(shaped(TINY))


# The command, and the way back.


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A folder with x.pth (sine positions, 10 classes), run.out, and what the command made of it: out/, x.keras."""
    folder = tmp_path_factory.mktemp("converted")
    arrays = state_dict(variants.resolve("cct_2_3x2_32_sine"))
    torch_files.write(folder / "x.pth", {f"module.{name}": array for name, array in arrays.items()}, "zip")
    for arguments in (("--infer_model", f"--output={folder}/out", "--dataset=digits"),
                      ("--model=cct_2_3x2_32_sine", f"--output={folder}/x.keras")):
        assert commands.run("convert_torch", f"--input={folder}/x.pth", *arguments) == 0
    return folder, arrays


def test_the_keras_file_gives_the_authors_logits(converted):
    folder, arrays = converted
    model = keras.models.load_model(folder / "x.keras")
    images = 1.5 * authors_numpy.pattern("images", (2, 32, 32, 3))
    np.testing.assert_allclose(model(images).numpy(), expected_logits(arrays, model.variant, images), atol=1e-4, rtol=0)


def test_the_work_folder_is_evaluated_like_a_run(converted, capfd):
    folder, _ = converted
    status, out, err = commands.call(capfd, "evaluate", f"--workdir={folder}/out", "--json")
    assert (status, err) == (0, "") and '"examples": 359' in out
    assert (folder / "out/classes.txt").read_text().split() == list("0123456789")


@pytest.mark.parametrize("source", ["out", "x.keras"])
def test_the_way_back_gives_the_same_state_dict(source, converted, tmp_path):
    folder, arrays = converted
    assert commands.run("convert_torch", "--to_torch", f"--input={folder}/{source}",
                        f"--output={tmp_path}/y.safetensors") == 0
    found = read_state(tmp_path / "y.safetensors").arrays
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        atol = 1e-5 if name == names.POSITIONS else 0  # our angles are of single precision
        np.testing.assert_allclose(found[name], array, rtol=0, atol=atol)


def test_every_weight_that_is_used_is_said(converted, capfd, tmp_path):
    folder, arrays = converted
    status, out, _ = commands.call(capfd, "convert_torch", f"--input={folder}/x.pth", "--infer_model",
                                   f"--output={tmp_path}/z")
    assert status == 0 and "cct_2_3x2_32_sine" in out and "'module.'" in out
    lines = out.splitlines()
    for name in arrays:
        assert any(line.split()[:1] == [name] for line in lines), name
    status, _, err = commands.call(capfd, "evaluate", f"--workdir={tmp_path}/z")
    assert status == 2 and "--dataset" in commands.only_line(err)


def test_what_a_recipe_starts_from_is_no_word_of_the_work_folder():
    settings = convert_torch._settings({"model": "cct_2_3x1_16", "init_from": "x.pth", "freeze": "tokenizer"}, "out")
    assert settings.model.init_from is None and settings.model.freeze is None


def test_classes_of_another_data_set_are_refused(converted, capfd, tmp_path):
    arrays = state_dict(TINY, 7)
    torch_files.write(tmp_path / "x.pth", arrays, "legacy")
    status, _, err = commands.call(capfd, "convert_torch", f"--input={tmp_path}/x.pth", "--model=cct_2_3x1_16",
                                   f"--output={tmp_path}/z", "--dataset=digits")
    assert status == 2 and "7 classes" in commands.only_line(err)
    assert not (tmp_path / "z").exists()


def test_any_network_goes_there_and_back(tmp_path):
    for positions, name in itertools.product(variants.POSITIONAL_EMBEDDINGS, ("vit_2_8_16", "cct_2_3x1_16")):
        model = cct_tf.create_model(name, num_classes=3, positional_embedding=positions, seed=5)
        arrays = to_torch(model)
        other = cct_tf.create_model(name, num_classes=3, positional_embedding=positions)
        load_torch_weights(other, torch_files.write(tmp_path / "x", arrays, "legacy"))
        for mine, theirs in zip(model.weights[:-1], other.weights[:-1], strict=True):
            np.testing.assert_array_equal(mine.value, theirs.value)
