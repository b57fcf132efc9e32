"""What images become of other channels and bits: from files and arrays, in graphs and eagerly."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.images import as_stored, decode
from cct_tf.images.pixel_type import PixelType, levels_of
from tests.images import images

COLOURS = images.pixels()


def _decoded(contents, pixel_type):
    """The eager pixels, which those of a graph have to equal."""
    eager = decode.decode_file(contents, "file", 16, pixel_type)
    in_graph = tf.function(lambda encoded: decode.decode(encoded, 16, pixel_type))(tf.constant(contents)).numpy()
    assert eager.dtype == in_graph.dtype == pixel_type.dtype and eager.shape[2] == pixel_type.channels
    np.testing.assert_array_equal(in_graph, eager)
    return eager


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_grey_is_pillows(file_format):
    contents = images.encoded(Image.fromarray(COLOURS), file_format)
    grey = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB").convert("L"))
    np.testing.assert_array_equal(_decoded(contents, PixelType(1))[..., 0], grey)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_eight_bits_become_sixteen_with_white_as_white(file_format):
    contents = images.encoded(Image.fromarray(COLOURS), file_format)
    eight = decode.decode_file(contents, "file").astype(np.uint16)
    np.testing.assert_array_equal(_decoded(contents, PixelType(3, 16)), eight * 257)
    by_hand = np.floor((eight * 257.0 @ [19595, 38470, 7471] + 32768) / 65536)
    np.testing.assert_array_equal(_decoded(contents, PixelType(1, 16))[..., 0], by_hand)
    assert levels_of(PixelType(1, 16), np.full([1, 1, 3], 255, np.uint8)).item() == 65535


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_keeps_all_of_them(file_format):
    wide = np.random.default_rng(1).integers(0, 65536, (13, 17)).astype(np.uint16)
    contents = images.encoded(Image.fromarray(wide), file_format)
    np.testing.assert_array_equal(_decoded(contents, PixelType(1, 16))[..., 0], wide)
    np.testing.assert_array_equal(_decoded(contents, PixelType(3, 16)), np.repeat(wide[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pngs_of_sixteen_bits_keep_them_in_every_channel(channels):
    wide = np.random.default_rng(2).integers(0, 65536, (13, 17, channels)).astype(np.uint16)
    np.testing.assert_array_equal(_decoded(images.wide_png(wide), PixelType(channels, 16)), wide)
    turned = np.rot90(wide, -1)
    np.testing.assert_array_equal(_decoded(images.wide_png(wide, turned=6), PixelType(channels, 16)), turned)


def test_alpha_is_a_channel_where_four_are_asked_for():
    four = np.random.default_rng(3).integers(0, 256, (9, 11, 4)).astype(np.uint8)
    contents = images.encoded(Image.fromarray(four), "PNG")
    np.testing.assert_array_equal(_decoded(contents, PixelType(4)), four)
    np.testing.assert_array_equal(_decoded(contents, PixelType(3)), four[..., :3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels, kind", [(2, np.uint8), (3, np.uint16), (5, np.uint8), (5, np.uint16)])
def test_tiffs_of_many_channels(channels, kind, planar):
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(4).integers(0, np.iinfo(kind).max, (13, 17, channels)).astype(kind)
    file = io.BytesIO()
    tifffile.imwrite(file, np.moveaxis(levels, 2, 0) if planar == "separate" else levels, planarconfig=planar,
                     photometric="minisblack", compression="zlib")
    pixel_type = PixelType(channels, 8 * np.dtype(kind).itemsize)
    np.testing.assert_array_equal(_decoded(file.getvalue(), pixel_type), levels)
    assert decode.header_size(file.getvalue()) == (13, 17)


def test_pages_are_channels_but_not_moments():
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(5).integers(0, 65536, (5, 13, 17)).astype(np.uint16)
    for axes, expected in (("CYX", np.moveaxis(levels, 0, 2)), ("TYX", levels[0][..., None])):
        file = io.BytesIO()
        tifffile.imwrite(file, levels, metadata={"axes": axes}, photometric="minisblack")
        np.testing.assert_array_equal(as_stored.of_tiff(file.getvalue(), 2**27), expected)


@pytest.mark.parametrize("wanted, found", [(PixelType(5), "expected 5 channels, found 3"),
                                           (PixelType(2, 16), "expected 2 channels, found 3")])
def test_another_number_of_channels_is_a_broken_image(wanted, found):
    contents = images.encoded(Image.fromarray(COLOURS), "PNG")
    with pytest.raises(decode.BrokenImage, match=f"photo.png: {found}"):
        decode.decode_file(contents, "photo.png", 16, wanted)
    with pytest.raises(tf.errors.OpError, match=found):
        tf.function(lambda encoded: decode.decode(encoded, 16, wanted))(tf.constant(contents))


def test_sixteen_bits_are_not_cut_off_silently():
    wide = np.zeros([4, 4, 4], np.uint16)
    with pytest.raises(decode.BrokenImage, match="expected 8 bits per channel, found 16 .--bits=16"):
        decode.decode_file(images.wide_png(wide), "x", 16, PixelType(4))
    with pytest.raises(decode.BrokenImage, match="at most 16 bits, found values 0 to 100000"):
        tall = images.encoded(Image.fromarray(np.array([[0, 100000]], np.int32)), "TIFF")
        decode.decode_file(tall, "x", 16, PixelType(1, 16))


def test_damaged_tiffs_are_broken_images():
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros([40, 40, 5], np.uint16), photometric="minisblack", planarconfig="contig")
    for length in (6, 100, 4000):
        with pytest.raises(decode.BrokenImage, match="broken image: x"):
            decode.decode_file(file.getvalue()[:length], "x", 16, PixelType(5, 16))
