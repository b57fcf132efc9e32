"""One decoder, held against Pillow kind by kind, in graphs and eagerly."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.images import decode
from cct_tf.readers.encoded import Encoded
from tests.images import images
from tests.images.images import ALPHA, AS_PILLOW, RGB


def _both(contents, bit_depth=16):
    """The graph's pixels and the eager ones, which must agree."""
    in_graph = tf.function(lambda encoded: decode.decode(encoded, bit_depth))(tf.constant(contents)).numpy()
    eager = decode.decode_file(contents, "file", bit_depth)
    np.testing.assert_array_equal(in_graph, eager)
    np.testing.assert_array_equal(decode.decode(tf.constant(contents), bit_depth).numpy(), eager)
    one = Encoded(tf.constant([contents]), ["file"], np.arange(1), False, bit_depth)
    np.testing.assert_array_equal(one.load({"index": 0})[0].numpy(), eager)
    assert eager.dtype == np.uint8 and eager.ndim == 3 and eager.shape[2] == 3
    return eager


@pytest.mark.parametrize("kind", AS_PILLOW)
def test_pixels_equal_pillows(kind):
    expected = np.asarray(Image.open(io.BytesIO(AS_PILLOW[kind])).convert("RGB"))
    np.testing.assert_array_equal(_both(AS_PILLOW[kind]), expected)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_dropped_not_blended(file_format):
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    np.testing.assert_array_equal(_both(images.encoded(ALPHA, file_format, **options)), images.pixels())


def test_grey_with_alpha_is_its_grey_three_times():
    grey = np.asarray(RGB.convert("L"))
    contents = images.encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]), "PNG")
    np.testing.assert_array_equal(_both(contents), np.repeat(grey[..., None], 3, axis=2))


def test_transparent_palette_entries_keep_their_colours():
    palette = RGB.quantize(16)
    contents = images.encoded(palette, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(_both(contents), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_byte(file_format):
    wide = np.random.default_rng(1).integers(0, 65536, (13, 17)).astype(np.uint16)
    wide[0, :2] = 0, 65535
    contents = images.encoded(Image.fromarray(wide), file_format)
    np.testing.assert_array_equal(_both(contents), np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [8, 12, 13, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_highest_eight_of_the_bits_used_are_kept(bits, channels):
    wide = np.random.default_rng(bits).integers(0, 2**bits, (13, 17, channels)).astype(np.uint16)
    wide[0, 0], wide[0, 1] = 0, 2**bits - 1
    colours = {1: [0, 0, 0], 2: [0, 0, 0], 3: [0, 1, 2], 4: [0, 1, 2]}[channels]
    contents = images.wide_png(wide)
    np.testing.assert_array_equal(_both(contents, bits), (wide >> (bits - 8))[:, :, colours].astype(np.uint8))
    assert decode.largest_value(contents) == 2**bits - 1
    np.testing.assert_array_equal(_both(contents), (wide >> 8)[:, :, colours].astype(np.uint8))
    if channels > 1:  # of which Pillow reads the high byte only
        np.testing.assert_array_equal(_both(contents), np.asarray(Image.open(io.BytesIO(contents)))[:, :, colours])
    turned = TURNS[6](_both(contents, bits))
    np.testing.assert_array_equal(_both(images.wide_png(wide, turned=6), bits), turned)


@pytest.mark.parametrize("bits", [12, 24])
def test_grey_tiffs_of_sixteen_and_thirty_two_bits_keep_theirs(bits):
    wide = np.random.default_rng(2).integers(0, 2**bits, (13, 17)).astype(np.uint16 if bits == 12 else np.int32)
    contents = images.encoded(Image.fromarray(wide), "TIFF")
    expected = np.repeat((wide >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(_both(contents, bits), expected)
    with pytest.raises(decode.BrokenImage, match=f"at most {bits - 1} bits per channel, .* found values [0-9]+ to "):
        decode.decode_file(contents, "x", bits - 1)


def test_gif_gives_its_first_frame():
    frames = [Image.fromarray(images.pixels(seed)).quantize(64) for seed in range(3)]
    contents = images.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(_both(contents), np.asarray(frames[0].convert("RGB")))


TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
         7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a)}


@pytest.mark.parametrize("value", TURNS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(value, file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    upright = np.asarray(Image.open(io.BytesIO(images.encoded(RGB, file_format, **options))).convert("RGB"))
    turned = _both(images.encoded(RGB, file_format, exif=images.orientation(value), **options))
    np.testing.assert_array_equal(turned, TURNS[value](upright))


def test_big_endian_exif_is_read_too():
    exif = images.orientation(6)
    exif.endian = ">"
    block = exif.tobytes()
    assert b"MM\x00*" in block
    assert _both(images.encoded(RGB, "JPEG", exif=block)).shape == (17, 13, 3)


BROKEN = {
    "truncated jpeg": AS_PILLOW["jpeg"][:-200],
    "truncated png": AS_PILLOW["png"][:200],
    "truncated webp": AS_PILLOW["webp"][:60],
    "empty": b"",
    "text": b"this is no picture",
    "jpeg signature alone": b"\xff\xd8\xff",
    "png signature alone": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_one_line_with_its_path(kind):
    with pytest.raises(decode.BrokenImage) as caught:
        decode.decode_file(BROKEN[kind], "some/where.jpg")
    message = str(caught.value)
    assert message.startswith("broken image: some/where.jpg: ") and "\n" not in message
    assert "Op:" not in message and "function_node" not in message and len(message) < 260
    with pytest.raises(tf.errors.OpError):
        tf.function(decode.decode)(tf.constant(BROKEN[kind]))


def _resized_png(contents, width, height):
    """The file with another size in its header, checksum included, as a decompression bomb has it."""
    header = b"IHDR" + struct.pack(">II", width, height) + contents[24:29]
    return contents[:12] + header + struct.pack(">I", zlib.crc32(header)) + contents[33:]


def _resized_jpeg(contents, width, height):
    place = contents.index(b"\xff\xc0") + 5  # the frame's header: marker, length, precision, height, width
    return contents[:place] + struct.pack(">HH", height, width) + contents[place + 4:]


BOMBS = {
    "png": (_resized_png(AS_PILLOW["png"], 60000, 60000), "3,600,000,000"),
    "png beyond 64 bits": (_resized_png(AS_PILLOW["png"], 2**32 - 1, 2**32 - 1), "18,446,744,065,119,617,025"),
    "png a row too many": (_resized_png(AS_PILLOW["png"], 2**13, 2**14 + 1), "8192x16385"),
    "png palette": (_resized_png(AS_PILLOW["png palette"], 12000, 12000), "12000x12000"),
    "jpeg": (_resized_jpeg(AS_PILLOW["jpeg"], 65000, 2100), "65000x2100"),
    "jpeg cmyk": (_resized_jpeg(AS_PILLOW["jpeg cmyk"], 65000, 65000), "4,225,000,000"),
    "gif": (AS_PILLOW["gif"][:6] + struct.pack("<HH", 65535, 65535) + AS_PILLOW["gif"][10:], "4,294,836,225"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(kind, tmp_path, monkeypatch):
    contents, size = BOMBS[kind]
    for name in ("_decode_jpeg", "_decode_png"):
        monkeypatch.setattr(decode, name, None)  # eagerly; in graphs both ways are traced
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(decode.BrokenImage) as eager:
        decode.decode_file(contents, str(tmp_path / "x"))
    with pytest.raises(decode.BrokenImage) as header:
        decode.check_header(tmp_path / "x")
    monkeypatch.undo()
    with pytest.raises(tf.errors.OpError) as in_graph:
        tf.function(decode.decode)(tf.constant(contents))
    reason = f"expected at most 134,217,728 pixels, found {size}"
    assert str(eager.value) == str(header.value) == f"broken image: {tmp_path}/x: {reason}"
    assert reason in str(decode.broken_image(in_graph.value))


def test_an_image_of_just_so_many_pixels_is_read(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 13 * 17)
    for kind in ("png", "jpeg", "webp"):
        assert _both(AS_PILLOW[kind]).shape == (13, 17, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", 13 * 17 - 1)
    for kind in ("png", "jpeg", "webp"):
        with pytest.raises(decode.BrokenImage, match="at most 220 pixels, found 17x13"):
            decode.decode_file(AS_PILLOW[kind], "x")


def _encoded_reader(tmp_path, files, on_disk):
    paths = []
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
        paths.append(str(tmp_path / name))
    values = [path.encode() for path in paths] if on_disk else list(files.values())
    return Encoded(tf.constant(values), paths, np.arange(len(paths)), on_disk)


@pytest.mark.parametrize("on_disk", [False, True])
def test_encoded_reads_every_kind_in_a_pipeline(tmp_path, on_disk):
    kinds = ["jpeg", "jpeg cmyk", "png palette", "webp"]
    reader = _encoded_reader(tmp_path, {f"{i}.img": AS_PILLOW[kind] for i, kind in enumerate(kinds)}, on_disk)
    loaded = tf.data.Dataset.range(4).map(lambda i: reader.load({"index": i})[0], num_parallel_calls=2)
    for kind, image in zip(kinds, loaded.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(image, decode.decode_file(AS_PILLOW[kind], kind))


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_image_that_breaks_outside_of_a_graph_is_named_by_its_path(tmp_path, on_disk):
    reader = _encoded_reader(tmp_path, {"good.jpg": AS_PILLOW["jpeg"], "bad.webp": BROKEN["truncated webp"]}, on_disk)
    assert reader.load({"index": 0})[0].shape == (13, 17, 3)
    with pytest.raises(decode.BrokenImage, match=f"^broken image: {tmp_path}/bad.webp: "):
        reader.load({"index": 1})


@pytest.mark.parametrize("kind", ["truncated jpeg", "text", "empty"])
def test_a_file_that_breaks_later_is_named_by_its_path(tmp_path, kind):
    reader = _encoded_reader(tmp_path, {"good.jpg": AS_PILLOW["jpeg"], "bad.jpg": BROKEN[kind]}, on_disk=True)
    loaded = tf.data.Dataset.range(2).map(lambda i: reader.load({"index": i})[0])
    with pytest.raises(tf.errors.OpError) as caught:
        list(loaded.as_numpy_iterator())
    message = str(decode.broken_image(caught.value))
    assert message.startswith(f"broken image: {tmp_path / 'bad.jpg'}: ") and "\n" not in message


def test_other_errors_are_no_broken_images():
    assert decode.broken_image(ValueError("something else")) is None


@pytest.mark.parametrize(("label", "good"), [(0, True), (4, True), (5, False), (-1, False)])
def test_a_streamed_label_out_of_range_is_one_line(label, good):
    """An unlabelled test split has -1, which would count as class 0."""
    def check(value):
        with tf.control_dependencies([decode.require_label(value, 5, "test")]):
            return tf.identity(value)

    stream = iter(tf.data.Dataset.from_tensors(tf.constant(label, tf.int64)).map(check))
    if good:
        assert int(next(stream)) == label
        return
    with pytest.raises(decode.BrokenImage) as error, decode.broken_images_named():
        next(stream)
    assert str(error.value) == f"--dataset: expected labels from 0 to 4 in the test split, found {label}"
