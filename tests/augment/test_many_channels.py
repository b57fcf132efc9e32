"""Images of 16 bits and of many channels: resized, moved and mixed as such."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.augment import image_ops, pillow_resize, simd_resize
from cct_tf.augment.mix import Mix
from cct_tf.augment.transform import Transform, from_config
from cct_tf.images.pixel_type import PixelType
from cct_tf.policies import affine, notation, operations
from cct_tf.policies.rand_augment import make_policy
from cct_tf.settings import config

SEEDS = tf.constant(np.arange(8, dtype=np.uint32) * 7919)


def _levels(shape, kind=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape).astype(kind)


@pytest.mark.parametrize("way", ["crop", "pad", "stretch"])
def test_sixteen_bits_are_resized_as_pillow_resizes_integers(way):
    wide = _levels([1, 37, 50, 5])
    fill = (1000, 2000, 3000, 4000, 5000)
    ours, pillows = (ops.fit(tf.constant(wide), (24, 20), way, 1.0, fill).numpy() for ops in (image_ops, pillow_resize))
    assert ours.dtype == pillows.dtype == np.uint16
    assert np.abs(ours.astype(int) - pillows).max() <= 1 and ours.std() > 3000
    if way == "stretch":
        channel = Image.fromarray(wide[0, :, :, 3].astype(np.int32)).resize((20, 24), Image.BICUBIC)
        np.testing.assert_array_equal(pillows[0, :, :, 3], np.asarray(channel).clip(0, 65535))


def test_channels_of_eight_bits_are_resized_one_by_one():
    many = _levels([1, 37, 50, 7], np.uint8)
    boxes, bicubic = tf.constant([[3.0, 5.0, 20.0, 31.0]]), tf.constant([True])
    found = pillow_resize.crop(tf.constant(many), boxes, bicubic, 16, pillow_resize.resized).numpy()
    for channel in range(7):
        cut = Image.fromarray(many[0, 3:23, 5:36, channel]).resize((16, 16), Image.BICUBIC)
        np.testing.assert_array_equal(found[0, :, :, channel], np.asarray(cut))


def test_mixing_is_exact_in_sixteen_bits():
    wide, share = _levels([8, 6, 6, 2]), 0.3 * 2**16 // 1 / 2**16
    params = {"share": tf.constant(share), "box": tf.zeros([4], tf.int32), "cutmix": tf.constant(False)}
    mixed, _ = Mix(1.0, 0.0).apply(tf.constant(wide), tf.zeros([8, 3]), params)
    other = wide.reshape(4, 2, 6, 6, 2)[:, ::-1].reshape(wide.shape)
    expected = np.rint(np.float64(other) + (np.float64(wide) - other) * share)
    np.testing.assert_array_equal(mixed.numpy(), expected)
    compiled = tf.function(Mix.apply, jit_compile=True)(Mix(1.0, 0.0), tf.constant(wide), tf.zeros([8, 3]), params)[0]
    np.testing.assert_array_equal(compiled.numpy(), expected)


def test_geometry_of_a_policy_moves_sixteen_bits_as_it_moves_eight():
    eight = _levels([8, 12, 12, 3], np.uint8)
    wide = np.repeat(eight.astype(np.uint16) * 257, 2, axis=3)[..., :5]  # of five channels
    narrow = make_policy(notation.resolve("trivial_geometric"), (0.5,))
    broad = make_policy(notation.resolve("trivial_geometric"), (0.5,), PixelType(5, 16))
    assert narrow.geometry_alone and len(broad.fill) == 5
    drawn, = narrow.sample(SEEDS, 12)
    assert len(set(drawn["op"].numpy().tolist())) > 2
    found = operations.apply(tf.constant(wide), drawn, broad.fill, geometry_alone=True).numpy()
    for channel in range(5):
        expected = operations.apply(tf.constant(eight), drawn, narrow.fill).numpy()[..., channel // 2]
        np.testing.assert_array_equal(found[..., channel], expected.astype(np.uint16) * 257)


def test_smooth_geometry_is_within_the_rounding_of_eight_bits():
    eight = _levels([4, 12, 12, 1], np.uint8)
    matrix = affine.matrices(tf.constant([int(notation.Op.ROTATE)] * 4), tf.constant([10.0, -20, 30, 45], tf.float64),
                             (12, 12))
    terms, bicubic = affine.smooth_terms(matrix, (12, 12)), tf.constant([False, True, False, True])
    narrow, broad = (affine.smooth(tf.constant(images), terms, bicubic, tf.zeros([1], images.dtype)).numpy()
                     for images in (eight, eight.astype(np.uint16) * 257))
    assert broad.dtype == np.uint16 and np.abs(broad / 257.0 - narrow - 0.5).max() <= 0.51


def test_the_whole_way_of_an_image_keeps_its_type():
    augment = config.AugmentConfig(random_resized_crop=(0.3, 1.0), flip="random", vertical_flip=True,
                                   auto_augment="trivial_geometric")
    for kind in (PixelType(5, 16), PixelType(2), PixelType(1, 16)):
        transform = from_config(augment, 12, (0.4,), (0.2,), kind)
        images = _levels([8, 20, 17, kind.channels], kind.dtype)
        resized = transform.resize(tf.constant(images), SEEDS)
        drawn = transform.augment(resized, SEEDS)
        assert drawn.dtype == kind.dtype and drawn.shape == [8, 12, 12, kind.channels]
        finished = transform.finish(drawn).numpy()
        np.testing.assert_allclose(finished, (drawn.numpy() / kind.white - 0.4) / 0.2, atol=2e-6)
        assert transform.unfinish(finished).shape[-1] == transform.shown(drawn).shape[-1] == (3, 1)[kind.channels == 1]


def test_pictures_of_sixteen_bits_are_stretched_around_their_mean():
    transform = Transform(8, (1000 / 65535,), (100 / 65535,), pixel_type=PixelType(1, 16))
    levels = np.array([0, 750, 1000, 1250, 60000], np.uint16)[None, :, None]
    np.testing.assert_array_equal(transform.shown(levels)[0, :, 0], [0, 0, 128, 255, 255])
    finished = transform.finish(tf.constant(levels[None])).numpy()
    np.testing.assert_allclose(transform.unfinish(finished)[0], transform.shown(levels) / 255, atol=0.5 / 255 + 1e-5)


def test_grey_is_resized_the_fast_way_too():
    pytest.importorskip("cykooz_resizer")
    grey = _levels([40, 50, 1], np.uint8)
    exact, fast = (resize(grey, (3.0, 5.0, 40.0, 30.0), True, 16) for resize in (pillow_resize.resized,
                                                                                simd_resize.resized))
    assert fast.shape == (16, 16, 1) and np.abs(exact.astype(int) - fast).max() <= 1
