"""Weights for another image size and other classes: what is resized, what is new, what is refused."""

import dataclasses

import numpy as np
import pytest

from cct_tf.convert import names, transfer
from cct_tf.convert.state import StateDict
from cct_tf.errors import UserError
from cct_tf.models import variants
from tests.models import authors_numpy


def a_state(variant, classes=10, dtype="float32", **replaced):
    """A state dict in the authors' names."""
    arrays = authors_numpy.formula_weights({weight.authors: weight.shape for weight in names.weights(variant, classes)})
    if variant.positional_embedding == "sine":
        arrays[names.POSITIONS] = authors_numpy.sines(variant.num_tokens, variant.embed_dim).astype(np.float32)
    arrays = {name: array.astype(dtype) for name, array in arrays.items()} | replaced
    return StateDict("x.pth", arrays, {name: str(array.dtype) for name, array in arrays.items()}, "", "")


def shapes_of(variant, classes):
    return {weight.ours: weight.to_ours(np.zeros(weight.shape)).shape for weight in names.weights(variant, classes)}


def adapted_for(before, after, classes=10, now=10, **replaced):
    """(pretrained, adapted) weights: a state dict of one network, by name, in another."""
    before, after = variants.resolve(before), variants.resolve(after)
    pretrained = transfer.from_state_dict(a_state(before, classes, **replaced), after)
    return pretrained, transfer.adapt(pretrained, shapes_of(after, now), after)


def by_hand(grid, old, new):
    """Bilinear, half-pixel centres, edges repeated: one output point at a time, [old, old, D] -> [new, new, D]."""
    result = np.zeros((new, new, grid.shape[-1]))
    for y in range(new):
        for x in range(new):
            at_y, at_x = (min(max((point + 0.5) * old / new - 0.5, 0.0), old - 1.0) for point in (y, x))
            top, left = int(at_y), int(at_x)
            bottom, right = min(top + 1, old - 1), min(left + 1, old - 1)
            dy, dx = at_y - top, at_x - left
            result[y, x] = ((1 - dy) * ((1 - dx) * grid[top, left] + dx * grid[top, right])
                            + dy * ((1 - dx) * grid[bottom, left] + dx * grid[bottom, right]))
    return result


@pytest.mark.parametrize(("before", "after", "old", "new"), [
    ("cct_2_3x1_16", "cct_2_3x1_24", 8, 12), ("cct_2_3x1_24", "cct_2_3x1_16", 12, 8),
    ("cvt_2_4_32", "cvt_2_4_20", 8, 5)])
def test_positions_are_resized_bilinearly_with_half_pixel_centres(before, after, old, new):
    pretrained, adapted = adapted_for(before, after)
    positions = pretrained.arrays["positions/embedding"]
    expected = by_hand(positions.reshape(old, old, -1), old, new).reshape(new * new, -1)
    np.testing.assert_allclose(adapted.arrays["positions/embedding"], expected, atol=1e-6)
    assert adapted.changes == [f"positions of {old} x {old} tokens resized to {new} x {new}"] and not adapted.warnings


def test_positions_of_a_rectangle_are_resized_from_its_own_grid():
    """Of one of our networks, which is known, and of a file, whose tokens form a square."""
    wide, tall = (variants.resolve("cct_2_3x1_16", size) for size in ((16, 32), (32, 16)))
    pretrained = transfer.from_state_dict(a_state(wide), wide)
    ours = dataclasses.replace(pretrained, variant=wide)
    adapted = transfer.adapt(ours, shapes_of(tall, 10), tall)
    assert adapted.changes == ["positions of 8 x 16 tokens resized to 16 x 8"]
    rows = ours.arrays["positions/embedding"].reshape(8, 16, -1)
    narrowed = by_hand(np.concatenate([rows, rows]), 16, 8)  # of a square, to see one axis at a time
    found = adapted.arrays["positions/embedding"].reshape(16, 8, -1)
    np.testing.assert_allclose(found.mean(axis=0), narrowed.mean(axis=0), atol=1e-6)
    square = transfer.from_state_dict(a_state(variants.resolve("cct_2_3x1_16")), wide)
    assert transfer.adapt(square, shapes_of(wide, 10), wide).changes == [
        "positions of 8 x 8 tokens resized to 8 x 16"]
    assert transfer.adapt(ours, shapes_of(wide, 10), wide).changes == []


def test_the_position_of_a_class_token_is_kept():
    pretrained, adapted = adapted_for("vit_2_4_16", "vit_2_4_32")
    before, after = pretrained.arrays["positions/embedding"], adapted.arrays["positions/embedding"]
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1:], by_hand(before[1:].reshape(4, 4, -1), 4, 8).reshape(64, -1), atol=1e-6)


def test_everything_else_is_taken_as_it_is():
    pretrained, adapted = adapted_for("cct_2_3x1_16", "cct_2_3x1_24")
    assert adapted.arrays.keys() == pretrained.arrays.keys()
    for path in pretrained.arrays.keys() - {"positions/embedding"}:
        np.testing.assert_array_equal(adapted.arrays[path], pretrained.arrays[path], err_msg=path)


def test_a_head_for_other_classes_is_left_out_with_a_warning():
    pretrained, adapted = adapted_for("cct_2_3x1_16", "cct_2_3x1_16", classes=10, now=5)
    assert pretrained.arrays.keys() - adapted.arrays.keys() == {"head/kernel", "head/bias"}
    assert adapted.changes == ["a new head"]
    warning, = adapted.warnings
    assert warning == "--init_from: the weights of the head are new, for 5 classes; those in x.pth are for 10"


def test_a_head_of_as_many_other_classes_is_kept_with_a_warning():
    variant = variants.resolve("cct_2_3x1_16")
    arrays = transfer.from_state_dict(a_state(variant, 2), variant).arrays
    pretrained = transfer.from_arrays("run", arrays, variant, ["cat", "dog"])
    adapted = transfer.adapt(pretrained, shapes_of(variant, 2), variant, ["car", "ship"])
    assert "head/kernel" in adapted.arrays and "(cat, dog)" in adapted.warnings[0]
    assert not transfer.adapt(pretrained, shapes_of(variant, 2), variant, ["cat", "dog"]).warnings


def test_sines_of_another_size_are_those_of_that_size():
    _, adapted = adapted_for("cct_2_3x1_16_sine", "cct_2_3x1_24_sine")
    assert "positions/embedding" not in adapted.arrays
    assert adapted.changes == ["sine positions of 144 tokens instead of 64"]


def test_sines_may_learn_on():
    pretrained, adapted = adapted_for("cct_2_3x1_16_sine", "cct_2_3x1_24")
    expected = by_hand(pretrained.sines.reshape(8, 8, -1), 8, 12).reshape(144, -1)
    np.testing.assert_allclose(adapted.arrays["positions/embedding"], expected, atol=1e-6)
    assert adapted.changes[0] == "sine positions, learned from here on"


def test_the_checksum_is_of_paths_and_values():
    variant = variants.resolve("cct_2_3x1_16")
    first, again = (transfer.from_state_dict(a_state(variant), variant) for _ in range(2))
    other = dataclasses.replace(first, arrays=first.arrays | {"head/bias": first.arrays["head/bias"] + 1e-6})
    assert first.checksum == again.checksum != other.checksum


LARGE = np.full((10,), 1e300)


@pytest.mark.parametrize(("before", "after", "replaced", "told"), [
    ("cct_2_3x1_16", "cct_4_3x1_16", {}, "missing: block_2/"),
    ("cct_4_3x1_16", "cct_2_3x1_16", {}, "found classifier.blocks.2.pre_norm.weight"),
    ("cct_2_3x1_16", "cct_6_3x1_16", {}, "missing: block_2/"),
    ("cct_2_3x2_16", "cct_2_3x1_16", {}, "found tokenizer.conv_layers.1.0.weight in x.pth"),
    ("cct_2_3x1_16", "cct_2_7x1_16", {}, r"of another shape: tokenizer/conv_0_kernel \[3, 3, 3, 128\] instead of"),
    ("cct_2_3x1_16", "cct_2_3x1_16_sine", {}, "left over: positions/embedding"),
    ("cct_2_3x1_16", "cct_2_3x1_16", {"classifier.fc.bias": LARGE}, r"not finite \(in float32\): head/bias"),
    ("cct_2_3x1_16", "cct_2_3x1_16", {"classifier.fc.bias": np.zeros(9)}, "a head of two numbers of classes"),
    ("cct_2_3x1_16", "cct_2_3x1_16", {"classifier.fc.bias": np.arange(10)}, "no floating-point numbers: head/bias"),
    ("cct_2_3x1_16", "cct_2_3x1_16", {"classifier.fc.bias": np.zeros((10, 1))}, "classifier.fc.bias of x.pth to have"),
    ("cct_2_3x1_16", "cct_2_3x1_16", {names.POSITIONS: np.zeros((1, 65, 128))}, r"another shape: positions/emb"),
    ("cct_2_3x1_16", "vit_b_16_224", {}, "none of the authors' networks"),
    ("cvt_2_4_16", "vit_2_4_16", {}, "found classifier.attention_pool.weight"),
])
def test_what_is_refused_is_named(before, after, replaced, told):
    with pytest.raises(UserError, match=told) as error:
        adapted_for(before, after, **replaced)
    assert str(error.value).startswith("--init_from: expected ") and "\n" not in str(error.value)


def test_weights_fit_whatever_the_branches_began_with():
    plain = variants.resolve("cct_6_3x1_32")
    transfer.check_network("run", plain, dataclasses.replace(plain, zero_init_outputs=True))


@pytest.mark.parametrize(("before", "after"), [
    ({"norm_order": "authors"}, {"norm_order": "pre"}), ({"num_heads": 4}, {"num_heads": 8}),
    ({"qk_norm": False}, {"qk_norm": True}),
    ({"positional_embedding": "sine"}, {"positional_embedding": "none"}),
    ({"positional_embedding": "learnable"}, {"positional_embedding": "sine"})])
def test_a_network_of_another_meaning_is_refused_whatever_its_shapes(before, after):
    plain = variants.resolve("cct_6_3x1_32")
    theirs, ours = dataclasses.replace(plain, **before), dataclasses.replace(plain, **after)
    pretrained = transfer.from_arrays("run", transfer.from_state_dict(a_state(theirs), theirs).arrays, theirs)
    (field, value), = after.items()
    with pytest.raises(UserError, match=f"{field} {before[field]} instead of {value}"):
        transfer.adapt(pretrained, shapes_of(ours, 10), ours)
