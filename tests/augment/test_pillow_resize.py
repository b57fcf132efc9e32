"""Resizing by Pillow: the same pixels as its own calls, in graphs, eagerly, and in every batch."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from PIL import __version__ as pil_version

from cct_tf import sizes
from cct_tf.assembly import checks
from cct_tf.augment import geometric, image_ops, pillow_resize, simd_resize
from cct_tf.augment.transform import Transform
from cct_tf.errors import UserError
from cct_tf.settings import config as config_lib


@pytest.fixture(scope="module")
def photo():
    from sklearn.datasets import load_sample_images
    return load_sample_images().images[1][:301, :403]


def _levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.9), (64, 1.0), (33, 0.875), (350, 1.0)])
def test_center_fit_is_pillows_resize_and_centre_crop(photo, size, crop_pct):
    side = int(size / crop_pct)
    resized = Image.fromarray(photo).resize((int(side * 403 / 301), side), Image.BICUBIC)
    top, left = round((resized.height - size) / 2), round((resized.width - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size)))
    assert np.array_equal(pillow_resize.fit(photo[None], size, crop_pct=crop_pct)[0], expected)
    assert _levels(image_ops.center_fit(photo[None], size, crop_pct)[0], expected).max() <= 1  # as in a SavedModel


@pytest.mark.parametrize(("height", "width"), [(300, 20), (11, 400)])
def test_a_long_image_keeps_its_middle(photo, height, width):
    long = photo[None, :height, :width]
    assert _levels(pillow_resize.fit(long, 48, crop_pct=0.9), image_ops.center_fit(long, 48, 0.9)).max() <= 1


@pytest.mark.parametrize(("size", "crop_pct", "resized"), [
    ((24, 40), 1.0, (29, 40)), ((40, 24), 0.8, (50, 66)), ((60, 80), 1.0, (60, 80)), ((60, 300), 1.0, (224, 300))])
def test_center_fit_of_a_rectangle_just_covers_it(photo, size, crop_pct, resized):
    """301 x 403 pixels: the sides are those of the smallest image of this shape that the rectangle fits into."""
    whole = Image.fromarray(photo).resize(resized[::-1], Image.BICUBIC)
    top, left = (round((resized[axis] - size[axis]) / 2) for axis in (0, 1))
    expected = np.asarray(whole.crop((left, top, left + size[1], top + size[0])))
    assert np.array_equal(pillow_resize.fit(photo[None], size, crop_pct=crop_pct)[0], expected)
    found = image_ops.center_fit(photo[None], size, crop_pct)[0]
    assert found.shape == (*size, 3) and _levels(found, expected).max() <= 1
    kept = (size[0] * 301 / resized[0]) * (size[1] * 403 / resized[1]) / (301 * 403)
    assert image_ops.kept_area(np.array([[301, 403]]), size, crop_pct)[0] == pytest.approx(kept, rel=0.04)


@pytest.mark.parametrize("size", [48, (24, 40), (40, 24), (31, 200), 350])
@pytest.mark.parametrize("shape", [(301, 403), (300, 20), (11, 400), (8, 300), (24, 40), (64, 64)])
def test_padding_and_stretching_are_pillows(photo, shape, size):
    image, sides, fill = photo[:shape[0], :shape[1]], sizes.sides(size), (120, 7, 255)
    small = Image.fromarray(image)
    expected = {"stretch": small.resize(sides[::-1], Image.BICUBIC),
                "pad": ImageOps.pad(small, sides[::-1], Image.BICUBIC, fill)}
    graph = tf.function(image_ops.fit, autograph=False)
    for way, picture in expected.items():
        assert np.array_equal(pillow_resize.fit(image[None], size, way, fill=fill)[0], picture), way
        found = graph(tf.constant(image[None]), size, way, fill=fill)[0]
        assert found.shape == (*sides, 3) and _levels(found, picture).max() <= 2, way


def test_of_the_flattest_image_a_row_is_left(photo):
    flat = photo[None, :2, :300]
    for ops in (pillow_resize, image_ops):
        found = np.asarray(ops.fit(flat, 48, "pad", fill=(0, 0, 0)))[0]
        assert found[24].any() and not np.delete(found, 24, axis=0).any()


def test_what_lies_beside_a_padded_image_is_the_mean_of_the_data(photo):
    transform = Transform((16, 40), (0.1, 0.5, 0.9), (0.2, 0.2, 0.2), fit="pad", resampler="pillow")
    found = transform.finish(transform.resize(photo[None, :32, :16]))[0].numpy()
    assert np.abs(found[:, [0, 15, 24, 39]]).max() <= 0.5 / 255 / 0.2 + 1e-6 < np.abs(found[:, 16:24]).mean()


def test_images_of_the_right_size_pass_untouched(photo):
    wide = photo[None, :24, :40]
    assert all(ops.fit(wide, (24, 40)) is wide or np.array_equal(ops.fit(wide, (24, 40)), wide)
               for ops in (pillow_resize, image_ops))
    assert np.array_equal(pillow_resize.fit(photo[None, :64, :64], 64), photo[None, :64, :64])


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("box", [(10, 20, 200, 301), (0, 0, 15, 20), (57, 111, 33, 32), (0, 0, 301, 403)])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_a_crop_is_pillows_crop_and_resize(photo, size, box, bicubic):
    top, left, height, width = box
    expected = Image.fromarray(photo).crop((left, top, left + width, top + height)).resize(
        sizes.sides(size)[::-1], Image.BICUBIC if bicubic else Image.BILINEAR)
    boxes = tf.constant([box], tf.float32)
    found = pillow_resize.crop(photo[None], boxes, tf.constant([bicubic]), size, pillow_resize.resized)[0]
    assert np.array_equal(found, expected)
    by_matrices = geometric.RandomResizedCrop(size, (0.1, 1.0), (3 / 4, 4 / 3)).apply(
        photo[None], {"box": boxes, "bicubic": tf.constant([bicubic])})[0]
    assert _levels(by_matrices, expected).max() <= 1


def _boxes(number, height, width):
    """Random parts (left, top, right, bottom) of an image, from 8 pixels a side on."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        down, across = rng.integers(8, height + 1), rng.integers(8, width + 1)
        top, left = rng.integers(0, height - down + 1), rng.integers(0, width - across + 1)
        yield float(left), float(top), float(left + across), float(top + down)


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("kind", ["photo", "noise", "two levels"])
def test_the_fast_resizer_gives_the_pixels_of_pillow_but_for_a_level_here_and_there(photo, kind, bicubic):
    pytest.importorskip("cykooz_resizer")
    image = {"photo": lambda: photo, "noise": lambda: np.random.default_rng(1).integers(0, 256, photo.shape, np.uint8),
             "two levels": lambda: np.where(photo < 128, 0, 255).astype(np.uint8)}[kind]()
    differences, has_order = [], int(pil_version.split(".")[0]) >= 13
    for number, (left, top, right, bottom) in enumerate(_boxes(40, 301, 403)):
        size = (224, (64, 96), (301, 40), (33, 350))[number % 4]
        part = image[int(top):int(bottom), int(left):int(right)]
        given = part, (0.0, 0.0, right - left, bottom - top), bicubic, size
        found = simd_resize.resized(*given) if has_order else simd_resize.resized(*given, width_first=True)
        differences.append(_levels(found, pillow_resize.resized(*given)).ravel())
    differences = np.concatenate(differences)
    assert np.mean(differences > 0) < 0.01
    assert differences.max() <= 2 and np.mean(differences > 1) < 2e-5


def test_the_fast_resizer_takes_fractional_boxes_and_the_order_of_earlier_versions(photo):
    pytest.importorskip("cykooz_resizer")
    boxes, one = tf.constant([(57.5, 111.25, 33.5, 32.25)], tf.float32), tf.constant([True])
    found, exact = (pillow_resize.crop(photo[None], boxes, one, 64, ops.resized)[0]
                    for ops in (simd_resize, pillow_resize))
    assert _levels(found, exact).max() <= 1
    sharp = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (301, 40, 3))  # clipping tells the order
    tall = sharp, (0.0, 0.0, 40.0, 301.0), True, 64  # the height shrinks and the width grows
    width, height = (Image.fromarray(sharp).resize(sides, Image.BICUBIC) for sides in ((64, 301), (40, 64)))
    before, after = width.resize((64, 64), Image.BICUBIC), height.resize((64, 64), Image.BICUBIC)
    assert _levels(before, after).max() > 2
    assert _levels(simd_resize.resized(*tall, width_first=True), before).max() <= 1
    assert _levels(simd_resize.resized(*tall), after).max() <= 1


def test_without_its_package_the_fast_resizer_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(simd_resize.importlib.util, "find_spec", lambda name: None)
    given = {"workdir": "x", "dataset": "digits", "resize": "fast", "random_resized_crop": (0.5, 1.0)}
    with pytest.raises(UserError, match="^--resize: expected the package cykooz-resizer"):
        checks.check_config(config_lib.from_dict(given))


@pytest.mark.parametrize("resized_crop", [None, (0.1, 1.0)])
def test_a_graph_of_any_size_prepares_each_image_as_a_batch_does_eagerly(photo, resized_crop):
    transform = Transform(24, (0.5,), (0.5,), resized_crop=resized_crop, resampler="pillow")
    images = np.stack([photo[:90, start:start + 100] for start in (0, 37, 200)])
    seeds = None if resized_crop is None else tf.constant([5, 6, 2**32 - 1], tf.uint32)
    together = transform.resize(images, seeds).numpy()
    one = tf.function(transform.resize, input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)] + (
        [] if seeds is None else [tf.TensorSpec([1], tf.uint32)]))
    for row, image in enumerate(images):
        found = one(image[None], *([] if seeds is None else [seeds[row:row + 1]]))
        assert np.array_equal(found[0], together[row])
    if resized_crop:
        params = geometric.RandomResizedCrop(24, resized_crop, (3 / 4, 4 / 3)).sample(seeds, 90, 100)
        top, left, height, width = params["box"][1].numpy().astype(int)
        crop = Image.fromarray(images[1]).crop((left, top, left + width, top + height))
        expected = crop.resize((24, 24), Image.BICUBIC if params["bicubic"][1] else Image.BILINEAR)
        assert np.array_equal(together[1], expected)
