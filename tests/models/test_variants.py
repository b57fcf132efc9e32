"""The table of networks and its grammar: costs as published, names accepted and refused, no TensorFlow needed."""

import json
import subprocess
import sys

import pytest

from cct_tf.errors import UserError
from cct_tf.layers import spec
from cct_tf.models import __main__ as command
from cct_tf.models import cost, variants
from cct_tf.settings import config

# Trainable parameters of the authors' models with learnable positions, the tutorial's, and ViT-B/16's.
PARAMETERS = [
    ("cct_2_3x2_32", 10, 283_723), ("cct_4_3x2_32", 10, 482_123), ("cct_6_3x1_32", 10, 3_233_803),
    ("cct_6_3x2_32", 10, 3_326_923), ("cct_7_3x1_32", 10, 3_760_139), ("cct_7_3x2_32", 10, 3_853_259),
    ("cct_14_7x2_224", 1000, 22_367_273), ("cct_14_7x2_384", 1000, 22_513_193), ("cct_7_7x2_224", 102, 4_573_735),
    ("cvt_2_4_32", 10, 214_539), ("cvt_4_4_32", 10, 412_939), ("cvt_6_4_32", 10, 3_190_283),
    ("cvt_7_4_32", 10, 3_716_619), ("vit_2_4_32", 10, 214_666), ("vit_4_4_32", 10, 413_066),
    ("vit_6_4_32", 10, 3_190_538), ("vit_7_4_32", 10, 3_716_874), ("cct_2_3x2_32_keras", 10, 416_331),
    ("vit_b_16_224", 1000, 86_567_656),
]

# G MACs of the authors' README: layers without attention's products.
PUBLISHED_MACS = [
    ("vit_7_4_32", 10, 0.239), ("vit_6_4_32", 10, 0.205), ("cvt_7_4_32", 10, 0.236), ("cvt_6_4_32", 10, 0.202),
    ("cct_2_3x2_32", 10, 0.033), ("cct_4_3x2_32", 10, 0.046), ("cct_6_3x2_32", 10, 0.241), ("cct_7_3x2_32", 10, 0.275),
    ("cct_7_3x1_32", 10, 0.947), ("cct_6_3x1_32", 10, 0.813), ("cct_14_7x2_224", 1000, 5.11),
    ("cct_14_7x2_384", 1000, 15.02),
]


@pytest.mark.parametrize(("name", "num_classes", "expected"), PARAMETERS)
def test_parameter_counts(name, num_classes, expected):
    assert cost.count_parameters(variants.resolve(name), num_classes) == expected


@pytest.mark.parametrize(("name", "num_classes", "expected"), PUBLISHED_MACS)
def test_published_macs(name, num_classes, expected):
    macs = cost.count_macs(variants.resolve(name), num_classes, attention_products=False)
    assert macs / 1e9 == pytest.approx(expected, abs=0.001, rel=0.001)


def test_macs_with_attention_products_add_two_products_per_block():
    variant = variants.resolve("cct_7_3x1_32")
    with_products = cost.count_macs(variant, 10)
    assert round(with_products / 1e9, 3) == 1.181
    assert with_products - cost.count_macs(variant, 10, attention_products=False) == 7 * 2 * 256 * 256 * 256


def test_costs_of_a_rectangle_by_hand():
    """A 3 x 3 convolution of 24 x 40 pixels, pooled to 12 x 20 = 240 tokens of width 128."""
    variant = variants.resolve("cct_2_3x1_32", (24, 40))
    assert (variant.grid, variant.num_tokens, variant.conv_sides()) == ((12, 20), 240, [(24, 40)])
    macs = 24 * 40 * 9 * 3 * 128 + 2 * 240 * 6 * 128 * 128 + 128 * 10
    assert cost.count_macs(variant, 10, attention_products=False) == macs
    square = variants.resolve("cct_2_3x1_32", (32, 32))
    assert square.image_size == 32 and square == variants.resolve("cct_2_3x1_32")
    learned = cost.count_parameters(variant, 10) - cost.count_parameters(square, 10)
    assert learned == (240 - 256) * 128


@pytest.mark.parametrize(("name", "facts"), [
    ("cct_2_3x1_32", ("cct", 2, 128, 3, 1, 256)), ("cct_14_7x2_384_sine", ("cct", 14, 384, 7, 2, 576)),
    ("cvt_7_8_64", ("cvt", 7, 256, 8, 1, 64)), ("vit_4_2_16_sine", ("vit", 4, 128, 2, 1, 65)),
])
def test_grammar_reads_unpublished_names(name, facts):
    variant = variants.resolve(name)
    assert (variant.family, variant.depth, variant.embed_dim, variant.kernel_size, variant.num_convs,
            variant.num_tokens) == facts
    assert variant.positional_embedding == ("sine" if name.endswith("_sine") else "learnable")


@pytest.mark.parametrize("name", [
    "", "cct", "cct_7", "cct_5_3x1_32", "cct_7_3x1_32_", "cct_7_3x1_32_cos", "cct_07_3x1_32", "cct_7_0x1_32",
    "cct_7_3_32", "cct_7_3x1_032", "CCT_7_3x1_32", "cct_7_3x1_32\n", "cvt_14_4_32", "vit_b_16_384",
    "cct_2_3x2_32_keras_sine", None, "cct_7_3x1_99999"])
def test_grammar_refuses(name):
    with pytest.raises(UserError, match="expected a known name"):
        variants.resolve(name)


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError) as error:
        variants.resolve("cct_7_3x1_32_c100")
    assert "'cct_7_3x1_32'" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("cct_2_3x2_32", {"image_size": 7}, "image_size: expected an integer of at least 8, found 7"),
    ("cct_2_3x2_32", {"image_size": 32.0}, "image_size: expected an integer"),
    ("cct_2_3x2_32", {"image_size": (32, 7)}, "image_size: expected two integers of at least 8, found .32, 7."),
    ("cct_2_3x2_32", {"image_size": (32, 32, 3)}, "image_size: expected two integers"),
    ("cct_14_7x2_224", {"image_size": (224, 16)}, "image_size: .* at least 2 x 2 tokens, found .224, 16."),
    ("cct_14_7x2_224", {"image_size": 16}, "image_size: .* at least 2 x 2 tokens, found 16"),
    ("cvt_2_4_32", {"image_size": 30}, "image_size: expected a multiple of the patch side 4"),
    ("vit_2_32_32", {}, "at least 2 x 2 tokens"),
    ("cct_2_3x2_32", {"dropout_rate": 1.0}, "dropout_rate: .* found 1.0"),
    ("cct_2_3x2_32", {"drop_path_rate": -0.1}, "drop_path_rate: .* found -0.1"),
    ("cct_2_3x2_32", {"attention_dropout_rate": float("nan")}, "attention_dropout_rate"),
    ("cct_2_3x2_32", {"positional_embedding": "sin"}, "one of learnable, sine, none, found 'sin'"),
    ("cct_2_3x2_32", {"norm_order": "post"}, "one of authors, pre, found 'post'"),
    ("cct_2_3x2_32", {"qk_norm": 1}, "qk_norm: expected true or false, found 1"),
])
def test_values_out_of_range_are_named(name, fields, message):
    with pytest.raises(UserError, match=message):
        variants.resolve(name, **fields)


def test_the_flags_offer_what_the_table_knows():
    assert config.FIELDS["norm_order"].choices == spec.NORM_ORDERS
    assert config.FIELDS["positional_embedding"].choices == variants.POSITIONAL_EMBEDDINGS


def test_stochastic_depth_is_a_linspace():
    assert variants.resolve("cct_4_3x2_32", drop_path_rate=0.3).drop_path_rates == pytest.approx((0.0, 0.1, 0.2, 0.3))


def test_command_lists_every_network_as_one_json_line(capsys):
    assert command.main(["--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    rows = {row["name"]: row for row in json.loads(out)["models"]}
    assert list(rows) == variants.list_models()
    assert rows["cct_7_3x1_32"]["parameters"] == 3_760_139
    assert rows["cct_14_7x2_224"]["input_size"] == [224, 224, 3]


@pytest.mark.parametrize("argv", [["--jsno"], ["cct_99"], ["--num_classes=0"], ["--num_classes=x"]])
def test_command_answers_wrong_input_with_status_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.err.count("\n") == 1 and captured.out == ""


def test_table_and_command_need_no_tensorflow():
    code = ("import sys; import cct_tf.models.variants, cct_tf.models.cost, cct_tf.convert.names; "
            "from cct_tf.models.__main__ import main; main([]); "
            "assert not {'tensorflow', 'keras'} & set(sys.modules)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "cct_14_7x2_384_sine" in result.stdout
