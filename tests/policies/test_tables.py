"""The tables of the policies against lists written apart from them, arguments by hand, the notation and its errors."""

import math
import re

import numpy as np
import pytest

from cct_tf.errors import UserError
from cct_tf.policies import notation, tables
from cct_tf.policies.notation import Op, Rand

SHORT = {"Inv": Op.INVERT, "Con": Op.CONTRAST, "Rot": Op.ROTATE, "TrX": Op.TRANSLATE_X, "TrY": Op.TRANSLATE_Y,
         "Shp": Op.SHARPNESS, "ShX": Op.SHEAR_X, "ShY": Op.SHEAR_Y, "AC": Op.AUTO_CONTRAST, "Eq": Op.EQUALIZE,
         "Pos": Op.POSTERIZE, "Col": Op.COLOR, "Bri": Op.BRIGHTNESS, "Sol": Op.SOLARIZE}
WITHOUT_ARGUMENT = (Op.AUTO_CONTRAST, Op.EQUALIZE, Op.INVERT)

# arXiv:1805.09501, appendix: operation, tenths of probability, bin of magnitude (- where it has none).
COMPACT = {
    "cifar10": """
        Inv 1 - Con 2 6; Rot 7 2 TrX 3 9; Shp 8 1 Shp 9 3; ShY 5 8 TrY 7 9; AC 5 - Eq 9 -;
        ShY 2 7 Pos 3 7; Col 4 3 Bri 6 7; Shp 3 9 Bri 7 9; Eq 6 - Eq 5 -; Con 6 7 Shp 6 5;
        Col 7 7 TrX 5 8; Eq 3 - AC 4 -; TrY 4 3 Shp 2 6; Bri 9 6 Col 2 8; Sol 5 2 Inv 0 -;
        Eq 2 - AC 6 -; Eq 2 - Eq 6 -; Col 9 9 Eq 6 -; AC 8 - Sol 2 8; Bri 1 3 Col 7 0;
        Sol 4 5 AC 9 -; TrY 9 9 TrY 7 9; AC 9 - Sol 8 3; Eq 8 - Inv 1 -; TrY 7 9 AC 9 -""",
    "imagenet": """
        Pos 4 8 Rot 6 9; Sol 6 5 AC 6 -; Eq 8 - Eq 6 -; Pos 6 7 Pos 6 6; Eq 4 - Sol 2 4;
        Eq 4 - Rot 8 8; Sol 6 3 Eq 6 -; Pos 8 5 Eq 10 -; Rot 2 3 Sol 6 8; Eq 6 - Pos 4 6;
        Rot 8 8 Col 4 0; Rot 4 9 Eq 6 -; Eq 0 - Eq 8 -; Inv 6 - Eq 10 -; Col 6 4 Con 10 8;
        Rot 8 8 Col 10 2; Col 8 8 Sol 8 7; Shp 4 7 Inv 6 -; ShX 6 5 Eq 10 -; Col 4 0 Eq 6 -;
        Eq 4 - Sol 2 4; Sol 6 5 AC 6 -; Inv 6 - Eq 10 -; Col 6 4 Con 10 8; Eq 8 - Eq 6 -""",
    "svhn": """
        ShX 9 4 Inv 2 -; ShY 9 8 Inv 7 -; Eq 6 - Sol 6 6; Inv 9 - Eq 6 -; Eq 6 - Rot 9 3;
        ShX 9 4 AC 8 -; ShY 9 8 Inv 4 -; ShY 9 5 Sol 2 6; Inv 9 - AC 8 -; Eq 6 - Rot 9 3;
        ShX 9 4 Sol 3 3; ShY 8 8 Inv 7 -; Eq 9 - TrY 6 6; Inv 9 - Eq 6 -; Con 3 3 Rot 8 4;
        Inv 8 - TrY 0 2; ShY 7 6 Sol 4 8; Inv 6 - Rot 8 4; ShY 3 7 TrX 9 3; ShX 1 6 Inv 6 -;
        Sol 7 2 TrY 6 7; ShY 8 4 Inv 8 -; ShX 7 9 TrY 8 3; ShY 8 5 AC 7 -; ShX 7 2 Inv 1 -""",
}


def parse_compact(text):
    """-> list of rows of two (Op, probability, bin or None)."""
    operation = r"\s*([A-Za-z]+) (\d+) (\d|-)"
    rows = [re.fullmatch(operation + operation + r"\s*", row).groups() for row in text.split(";")]
    return [[(SHORT[row[i]], int(row[i + 1]) / 10, None if row[i + 2] == "-" else int(row[i + 2])) for i in (0, 3)]
            for row in rows]


@pytest.mark.parametrize(("name", "source"), [("cifar10", "cifar10"), ("cifar10_torchvision", "cifar10"),
                                              ("imagenet", "imagenet"), ("svhn", "svhn")])
def test_sub_policies_are_those_of_the_paper(name, source):
    expected = parse_compact(COMPACT[source])
    found = [[(Op[op], probability, bin_) for op, probability, bin_ in row] for row in notation.resolve(name).rows]
    assert len(expected) == 25
    assert found == [[(op, probability, bin_ or 0) for op, probability, bin_ in row] for row in expected]
    assert all((op in WITHOUT_ARGUMENT) == (bin_ is None) for row in expected for op, _, bin_ in row)


BITS = [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]  # round(8 - 4 i / 9)
BY_HAND = [  # reading, operation, bin, (negative, positive) for images of 32 pixels
    (tables.AUTHORS, Op.SHEAR_X, 9, (-0.3, 0.3)),
    (tables.AUTHORS, Op.SHEAR_Y, 3, (-0.1, 0.1)),
    (tables.AUTHORS, Op.TRANSLATE_X, 9, (-32 * 150 / 331, 32 * 150 / 331)),
    (tables.AUTHORS, Op.TRANSLATE_Y, 3, (-32 * 50 / 331, 32 * 50 / 331)),
    (tables.AUTHORS, Op.ROTATE, 2, (20 / 3, 20 / 3)),
    (tables.AUTHORS, Op.COLOR, 9, (0.1, 1.9)),
    (tables.AUTHORS, Op.SHARPNESS, 0, (1.0, 1.0)),
    (tables.AUTHORS, Op.SOLARIZE, 0, (256.0, 256.0)),
    (tables.AUTHORS, Op.SOLARIZE, 3, (512 / 3, 512 / 3)),
    (tables.AUTHORS, Op.SOLARIZE, 9, (0.0, 0.0)),
    (tables.AUTHORS, Op.EQUALIZE, 5, (0.0, 0.0)),
    (tables.TORCHVISION, Op.SHEAR_Y, 8, (-0.3 * 8 / 9, 0.3 * 8 / 9)),
    (tables.TORCHVISION, Op.TRANSLATE_X, 9, (-14.0, 14.0)),  # 14.50
    (tables.TORCHVISION, Op.TRANSLATE_Y, 3, (-4.0, 4.0)),  # 4.83
    (tables.TORCHVISION, Op.ROTATE, 9, (-30.0, 30.0)),
    (tables.TORCHVISION, Op.BRIGHTNESS, 6, (0.4, 1.6)),
    (tables.TORCHVISION, Op.CONTRAST, 9, (0.1, 1.9)),
    (tables.TORCHVISION, Op.SOLARIZE, 0, (255.0, 255.0)),
    (tables.TORCHVISION, Op.SOLARIZE, 3, (170.0, 170.0)),
    (tables.TRIVIAL_WIDE, Op.SHEAR_X, 30, (-0.99, 0.99)),
    (tables.TRIVIAL_WIDE, Op.TRANSLATE_X, 30, (-32.0, 32.0)),
    (tables.TRIVIAL_WIDE, Op.TRANSLATE_Y, 10, (-10.0, 10.0)),  # 10.67
    (tables.TRIVIAL_WIDE, Op.TRANSLATE_Y, 15, (-15.0, 15.0)),  # 15.999999 in single precision
    (tables.TRIVIAL_WIDE, Op.ROTATE, 20, (-90.0, 90.0)),
    (tables.TRIVIAL_WIDE, Op.ROTATE, 30, (-135.0, 135.0)),
    (tables.TRIVIAL_WIDE, Op.COLOR, 10, (0.67, 1.33)),
    (tables.TRIVIAL_WIDE, Op.POSTERIZE, 0, (8.0, 8.0)),
    (tables.TRIVIAL_WIDE, Op.POSTERIZE, 13, (5.0, 5.0)),  # 8 - round(2.6)
    (tables.TRIVIAL_WIDE, Op.POSTERIZE, 30, (2.0, 2.0)),
    (tables.TRIVIAL_WIDE, Op.SOLARIZE, 10, (170.0, 170.0)),
]


@pytest.mark.parametrize(("reading", "op", "bin_", "expected"), BY_HAND)
def test_arguments_by_hand(reading, op, bin_, expected):
    found = notation.arguments(reading, op, 32)
    assert found.shape == (reading.bins, 2) and found.dtype == np.float64
    exact = not reading.float32 or op in (Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.POSTERIZE)
    np.testing.assert_allclose(found[bin_], expected, rtol=1e-14 if exact else 1e-7, atol=0 if exact else 1e-7)


def test_bits_of_both_readings():
    for reading in (tables.AUTHORS, tables.TORCHVISION):
        assert notation.arguments(reading, Op.POSTERIZE, 32).T.tolist() == [BITS, BITS]


def test_translations_follow_the_side_but_for_trivial_augment():
    """150 pixels of 331 are the paper's range; TrivialAugment has 32 pixels for every size."""
    for reading, far in ((tables.AUTHORS, 150.0), (tables.TORCHVISION, 150.0),
                         (tables.TRIVIAL_WIDE, 32.0)):
        np.testing.assert_allclose(notation.arguments(reading, Op.TRANSLATE_X, 331)[-1], [-far, far], rtol=1e-15)


def test_single_precision_steps_are_those_of_torch():
    """Values printed by torch 2.15 for linspace(0, 32, 31)[15], linspace(255, 0, 10)[4], linspace(0, 0.99, 31)[5]."""
    assert np.float32(notation.linspace32(0, 32, 31)[15]) == np.float32(15.999999)
    assert np.float32(notation.linspace32(255, 0, 10)[4]) == np.float32(141.66666)
    assert np.float32(notation.linspace32(0, 0.99, 31)[5]) == np.float32(0.16499999)
    assert notation.linspace32(255, 0, 10)[[0, 3, 6, 9]].tolist() == [255, 170, 85, 0]


def test_interpolation_of_the_readings():
    """The authors shear BICUBIC and do the rest NEAREST; torchvision does all NEAREST."""
    table = notation.resolve("cifar10").table(32)
    shears = np.isin(table["op"], (Op.SHEAR_X, Op.SHEAR_Y))
    assert shears.sum() == 2
    assert np.array_equal(table["interpolation"] == notation.BICUBIC, shears)
    assert (table["interpolation"][~shears] == notation.NEAREST).all()
    for name in ("cifar10_torchvision", "imagenet", "svhn", "trivial"):
        assert (notation.resolve(name).table(32)["interpolation"] == notation.NEAREST).all()


def test_trivial_augment_has_every_operation_at_every_bin():
    rows = notation.resolve("trivial").rows
    assert len(set(rows)) == len(rows) == 14 * 31
    assert {probability for ((_, probability, _),) in rows} == {1.0}
    expected = {Op.IDENTITY, *SHORT.values()} - {Op.INVERT}
    assert {Op[name] for ((name, _, _),) in rows} == expected


@pytest.mark.parametrize(("name", "expected"), [
    ("rand-m9-mstd0.5-inc1", Rand(9.0, 2, 0.5, 0.5, True)),
    ("rand-inc1-mstd0.5-m9", Rand(9.0, 2, 0.5, 0.5, True)),
    ("rand-m7.5-n3-p0.25", Rand(7.5, 3, 0.0, 0.25, False)),
    ("rand-m0-p1-inc0", Rand(0.0, 2, 0.0, 1.0, False)),
    ("rand-n6-mstd101", Rand(10.0, 6, math.inf, 0.5, False)),
    ("rand-mstd100", Rand(10.0, 2, 100.0, 0.5, False)),
    ("rand", Rand(10.0, 2, 0.0, 0.5, False)),  # timm's defaults
    ("none", None),
])
def test_notation(name, expected):
    assert notation.resolve(name) == expected


@pytest.mark.parametrize(("name", "words"), [
    ("", ("cifar10_torchvision", "rand-m9-mstd0.5-inc1", "found ''")),
    ("Cifar10", ("'Cifar10'; did you mean 'cifar10'",)),
    ("random-m9", ("'random-m9'",)),
    ("rand-m10.5", ("0 to 10", "'m10.5'")),
    ("rand-n0", ("1 to 6", "'n0'")),
    ("rand-p1.5", ("0 to 1", "'p1.5'")),
    ("rand-inc2", ("0 to 1", "'inc2'")),
    ("rand-inc0.5", ("a whole number", "'inc0.5'")),
    ("rand-m9-w0", ("mN, nN, pX, mstdX and inc0 or inc1", "'w0'")),
    ("rand-m9-tweights", ("'tweights'",)),
    ("rand-mstdinf", ("'mstdinf'",)),
    ("rand-m-9", ("'m'",)),
    ("rand--m9", ("found ''",)),
    ("rand-m9-m9", ("once", "'m9'")),
    ("rand-m1e1", ("'m1e1'",)),
    ("rand-m\u0669", ("'m\u0669'",)),
])
def test_wrong_notation_is_one_line(name, words):
    with pytest.raises(UserError) as caught:
        notation.resolve(name)
    message = str(caught.value)
    assert message.startswith("--auto_augment: expected ") and "\n" not in message
    for word in words:
        assert word in message
