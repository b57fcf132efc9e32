"""Every operation of the policies against Pillow's, pixel by pixel, over 200 patches of photographs and flat ones."""

import functools

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from cct_tf import rng
from cct_tf.augment.geometric import RandomResizedCrop
from cct_tf.policies import affine, levels, operations, slots
from cct_tf.policies.notation import BICUBIC, BILINEAR, NEAREST, Op

S = 32
FILL = (125, 122, 114)
RESAMPLING = {NEAREST: Image.NEAREST, BILINEAR: Image.BILINEAR, BICUBIC: Image.BICUBIC}


@functools.cache
def patches():
    """uint8 [208, S, S, 3]: patches of scikit-learn's two photographs, eight of them flat, two-valued or grey."""
    luck = np.random.default_rng(0)
    photos = sklearn.datasets.load_sample_images().images
    found = []
    for index in range(200):
        photo = photos[index % 2]
        y, x = (luck.integers(0, side - S) for side in photo.shape[:2])
        found.append(photo[y:y + S, x:x + S])
    flat = [np.full((S, S, 3), level) for level in (0, 128, 255)]
    ramp = np.broadcast_to((np.arange(S) * 8)[None, :, None], (S, S, 3))
    edges = [np.where(luck.random((S, S, 3)) < share, 3, 250) for share in (0.001, 0.5)]
    dark = luck.integers(0, 4, (2, S, S, 3))
    return np.stack([*found, *flat, ramp, *edges, *dark]).astype(np.uint8)


def _transform(image, matrix, interpolation):
    return image.transform(image.size, Image.AFFINE, matrix, RESAMPLING[interpolation], fillcolor=FILL)


PILLOW = {
    Op.IDENTITY: lambda image, k, _: image,
    Op.AUTO_CONTRAST: lambda image, k, _: ImageOps.autocontrast(image),
    Op.EQUALIZE: lambda image, k, _: ImageOps.equalize(image),
    Op.INVERT: lambda image, k, _: ImageOps.invert(image),
    Op.POSTERIZE: lambda image, k, _: ImageOps.posterize(image, int(k)) if k else Image.new("RGB", image.size),
    Op.SOLARIZE: lambda image, k, _: ImageOps.solarize(image, k),
    Op.SOLARIZE_ADD: lambda image, k, _: image.point([min(255, i + int(k)) if i < 128 else i for i in range(256)] * 3),
    Op.BRIGHTNESS: lambda image, k, _: ImageEnhance.Brightness(image).enhance(k),
    Op.CONTRAST: lambda image, k, _: ImageEnhance.Contrast(image).enhance(k),
    Op.COLOR: lambda image, k, _: ImageEnhance.Color(image).enhance(k),
    Op.SHARPNESS: lambda image, k, _: ImageEnhance.Sharpness(image).enhance(k),
    Op.SHEAR_X: lambda image, k, r: _transform(image, (1, k, 0, 0, 1, 0), r),
    Op.SHEAR_Y: lambda image, k, r: _transform(image, (1, 0, 0, k, 1, 0), r),
    Op.TRANSLATE_X: lambda image, k, r: _transform(image, (1, 0, k, 0, 1, 0), r),
    Op.TRANSLATE_Y: lambda image, k, r: _transform(image, (1, 0, 0, 0, 1, k), r),
    Op.ROTATE: lambda image, k, r: image.rotate(k, RESAMPLING[r], fillcolor=FILL),
}
FACTORS = [0.0, 0.1, 0.19, 0.5, 0.91, 1.0, 1.09, 1.5, 1.81, 1.9, 3.0]
SHIFTS = [-40.0, -12.96, -0.5, 0.0, 0.25, 3.0, 14.4, 31.0, 32.0]
SPECIAL = {Op.POSTERIZE: list(range(9)), Op.SOLARIZE: [0.0, 28.44, 128.0, 255.0, 256.0], Op.SOLARIZE_ADD: [0, 99, 128],
           Op.BRIGHTNESS: FACTORS, Op.CONTRAST: FACTORS, Op.COLOR: FACTORS, Op.SHARPNESS: FACTORS,
           # At multiples of 1/30 many places lie on the edge of a pixel.
           Op.SHEAR_X: [k / 30 for k in range(-10, 11)], Op.SHEAR_Y: [k / 30 for k in range(-10, 11)] * 3,
           Op.TRANSLATE_X: SHIFTS,
           Op.TRANSLATE_Y: SHIFTS, Op.ROTATE: [0.0, 6.6666, 27.0, -30.0, 90.0, 180.0, -90.0, 135.0]}
RANGES = {Op.SOLARIZE: (0, 256), Op.BRIGHTNESS: (0, 2), Op.CONTRAST: (0, 2), Op.COLOR: (0, 2), Op.SHARPNESS: (0, 2),
          Op.SHEAR_X: (-0.3, 0.3), Op.SHEAR_Y: (-0.99, 0.99), Op.TRANSLATE_X: (-15, 15), Op.TRANSLATE_Y: (-32, 32),
          Op.ROTATE: (-135, 135)}


def arguments(op, count):
    """`count` arguments: the special ones, then uniform ones over the whole range."""
    special = SPECIAL.get(op, [0.0])
    if op not in RANGES:
        return np.resize(np.array(special, np.float64), count)
    drawn = np.random.default_rng(int(op)).uniform(*RANGES[op], count)
    drawn[:len(special)] = special[:count]
    return drawn


_compiled = tf.function(operations.apply)


def ours(images, op, argument, interpolation):
    count = len(images)
    stage = {"op": tf.fill([count], int(op)), "argument": tf.constant(argument, tf.float64),
             "interpolation": tf.fill([count], interpolation)}
    return _compiled(tf.constant(images), stage, FILL).numpy()


def pillows(images, op, argument, interpolation):
    return np.stack([np.asarray(PILLOW[op](Image.fromarray(image), float(k), interpolation))
                     for image, k in zip(images, argument, strict=True)])


@pytest.mark.parametrize("op", [op for op in Op if op not in affine.OPS], ids=lambda op: op.name)
def test_levels_are_pillows_on_every_pixel(op):
    """Blends too: within one level was promised."""
    images = patches()
    argument = arguments(op, len(images))
    assert np.array_equal(ours(images, op, argument, NEAREST), pillows(images, op, argument, NEAREST))


@pytest.mark.parametrize("interpolation, most", [(NEAREST, 0), (BILINEAR, 1), (BICUBIC, 1)],
                         ids=["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("op", affine.OPS, ids=lambda op: op.name)
def test_geometry_is_pillows(op, interpolation, most):
    """NEAREST on every pixel, the others within one level, borders included."""
    images = patches()
    argument = arguments(op, len(images))
    difference = np.abs(ours(images, op, argument, interpolation).astype(int)
                        - pillows(images, op, argument, interpolation))
    assert difference.max() <= most
    assert (difference > 0).mean() < 0.01


def test_all_operations_of_rectangles_are_pillows():
    images, ops = patches()[:160, :, :13], np.arange(160) % len(Op)
    argument = np.array([arguments(Op(op), 20)[index // len(Op)] for index, op in enumerate(ops)])
    smooth = np.where(np.arange(160) % 3 == 0, BICUBIC, np.where(np.arange(160) % 3 == 1, BILINEAR, NEAREST))
    stage = {"op": tf.constant(ops, tf.int32), "argument": tf.constant(argument, tf.float64),
             "interpolation": tf.constant(smooth, tf.int32)}
    found = _compiled(tf.constant(images), stage, FILL).numpy().astype(int)
    for index, op in enumerate(ops):
        expected = pillows(images[[index]], Op(op), argument[[index]], int(smooth[index]))[0]
        most = 1 if Op(op) in affine.OPS and smooth[index] != NEAREST else 0
        assert np.abs(found[index] - expected).max() <= most, (Op(op).name, argument[index], smooth[index])


@pytest.mark.parametrize("op", Op, ids=lambda op: op.name)
def test_grey_images_are_pillows_of_mode_l(op):
    images = patches()[:, :24, :, :1]
    argument = arguments(op, len(images))
    stage = {"op": tf.fill([len(images)], int(op)), "argument": tf.constant(argument, tf.float64),
             "interpolation": tf.fill([len(images)], NEAREST)}
    found = _compiled(tf.constant(images), stage, FILL[:1]).numpy()
    for image, k, ours_ in zip(images[..., 0], argument, found, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.policies.test_operations.FILL", FILL[0])
            if op == Op.SOLARIZE_ADD:
                expected = Image.fromarray(image).point([min(255, i + int(k)) if i < 128 else i for i in range(256)])
            elif op == Op.POSTERIZE and not k:
                expected = np.zeros_like(image)
            else:
                expected = PILLOW[op](Image.fromarray(image), float(k), NEAREST)
        assert np.array_equal(ours_[..., 0], expected)


@pytest.mark.parametrize("area", [(0.8, 1.0), (0.08, 1.0)])
def test_resized_crops_are_pillows_within_one_level(area):
    images = patches()
    crop = RandomResizedCrop(S, area, (3 / 4, 4 / 3))
    params = crop.sample(rng.fold(5, rng.Stream.EXAMPLE, tf.range(len(images))), S, S)
    found = tf.function(crop.apply, jit_compile=True)(tf.constant(images), params).numpy().astype(int)
    for image, box, bicubic, ours_ in zip(images, params["box"].numpy(), params["bicubic"].numpy(), found, strict=True):
        top, left, height, width = (int(value) for value in box)
        cut = Image.fromarray(image).crop((left, top, left + width, top + height))
        assert np.abs(ours_ - cut.resize((S, S), Image.BICUBIC if bicubic else Image.BILINEAR)).max() <= 1


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "XLA"])
def test_blends_round_as_pillow_does_for_every_factor(jit):
    """10,000 factors: a contraction of product and sum into one rounding shows up in about 1% of them."""
    factors = np.random.default_rng(1).uniform(0.0, 2.0, 10_000)
    values = np.arange(256, dtype=np.int32)
    found = tf.function(levels.blend, jit_compile=jit)(tf.constant(117), values[None], factors[:, None]).numpy()
    f = factors.astype(np.float32)[:, None]
    expected = np.float32(117) + f * (values[None] - 117).astype(np.float32)  # float32 twice, as Pillow's C
    assert np.array_equal(found, np.clip(expected, 0, 255).astype(int))


def test_images_get_their_own_operation_whatever_their_batch():
    """A batch of all operations at once is each image alone."""
    images = patches()  # all, as in the other tests: one program
    ops = np.arange(len(images)) % len(Op)
    interpolation = np.arange(len(images)) // 16 % 3
    argument = np.array([arguments(Op(op), 12)[-1] for op in ops])

    def run(chosen):
        stage = {"op": tf.constant(ops[chosen], tf.int32), "argument": tf.constant(argument[chosen], tf.float64),
                 "interpolation": tf.constant(interpolation[chosen], tf.int32)}
        return _compiled(tf.constant(images[chosen]), stage, FILL).numpy()

    whole = run(np.arange(len(images)))
    for index in range(50):
        assert np.array_equal(run(np.array([index]))[0], whole[index])
        if ops[index] < Op.SHEAR_X:
            assert np.array_equal(whole[index], pillows(images[[index]], Op(ops[index]), argument[[index]], NEAREST)[0])


def test_posterizing_to_no_bits_is_black_and_unknown_operations_do_nothing():
    images = patches()  # all, as in the other tests: one program
    assert not ours(images, Op.POSTERIZE, np.zeros(len(images)), NEAREST).any()
    assert np.array_equal(ours(images, 77, np.ones(len(images)), NEAREST), images)


@pytest.mark.parametrize(("axes", "op"), [(axes, op) for axes in "xy" for op in affine.OPS_ALONG[axes]])
def test_neighbours_along_one_axis_give_the_bits_that_all_give(axes, op):
    sides, count = (24, 40), 64
    matrix = affine.matrices(tf.fill([count], int(op)), tf.constant(arguments(op, count), tf.float64), sides)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (count, *sides, 3), np.uint8))
    bicubic, fill = tf.constant([True, False] * (count // 2)), tf.constant(FILL, tf.uint8)
    given = images, affine.smooth_terms(matrix, sides), bicubic, fill
    along, around = (tf.function(functools.partial(affine.smooth, axes=each), jit_compile=True)(*given)
                     for each in (axes, "xy"))
    np.testing.assert_array_equal(along, around)
    assert not np.array_equal(along, images)


def test_operations_together_and_in_groups_of_large_images_give_the_same_bits(monkeypatch):
    generator, count = np.random.default_rng(0), 24
    images = tf.constant(generator.integers(0, 256, (count, 16, 16, 3), np.uint8))
    drawn = [{"op": tf.constant(generator.permutation(np.arange(count) % len(Op)), tf.int32),
              "argument": tf.constant(generator.uniform(1, 7, count)),
              "interpolation": tf.constant(generator.integers(0, 3, count), tf.int32)} for _ in range(2)]
    apart = _compiled(_compiled(images, drawn[0], FILL), drawn[1], FILL)
    monkeypatch.setattr(slots, "_LARGE", 16)
    np.testing.assert_array_equal(operations.apply_all(images, drawn, FILL), apart)
