"""Which weights --freeze names."""

import pytest

from cct_tf.convert import names
from cct_tf.errors import UserError
from cct_tf.models import variants
from cct_tf.optim.freezing import frozen_paths

PATHS = [weight.ours for weight in names.weights(variants.resolve("cct_4_3x2_32"))]


def left(text):
    """The parts of the network that still learn, without what lies below them."""
    return sorted({path.split("/")[0] for path in set(PATHS) - frozen_paths(PATHS, text, "cct_4_3x2_32")})


@pytest.mark.parametrize(("text", "learning"), [
    (None, ["block_0", "block_1", "block_2", "block_3", "head", "norm", "pooling", "positions", "tokenizer"]),
    ("tokenizer", ["block_0", "block_1", "block_2", "block_3", "head", "norm", "pooling", "positions"]),
    ("encoder", ["head", "pooling", "tokenizer"]),
    ("all_but_head", ["head"]),
    ("tokenizer,positions,block_[0-2]", ["block_3", "head", "norm", "pooling"]),
])
def test_a_part_is_frozen_with_all_that_lies_below_it(text, learning):
    assert left(text) == learning


def test_a_pattern_may_go_through_the_parts():
    assert frozen_paths(PATHS, "*/attention", "x") == {
        f"block_{block}/attention/{name}" for block in range(4)
        for name in ("qkv/kernel", "projection/kernel", "projection/bias")}
    assert frozen_paths(PATHS, "*/bias", "x") == {path for path in PATHS if path.endswith("/bias")}


def test_the_class_token_belongs_to_the_encoder():
    paths = [weight.ours for weight in names.weights(variants.resolve("vit_4_4_32"))]
    assert "class_token/embedding" in frozen_paths(paths, "encoder", "x")


@pytest.mark.parametrize(("text", "told"), [
    ("blok_0", "found 'blok_0', which fits none"), ("tokenizer,", "found '', which fits none"),
    ("", None), ("encoder,tokenizer,pooling,head", "found all frozen"), ("*", "found all frozen"),
    ("tokenizer encoder", "found 'tokenizer encoder'")])
def test_a_pattern_that_fits_nothing_or_all_is_refused(text, told):
    if told is None:
        assert frozen_paths(PATHS, text, "x") == set()
        return
    with pytest.raises(UserError, match=told) as error:
        frozen_paths(PATHS, text, "cct_4_3x2_32")
    assert str(error.value).startswith("--freeze: expected ")
