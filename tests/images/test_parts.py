"""Parts of images: the pixels of the whole image to the bit, or at a part of its size where that is asked for."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from cct_tf.augment import pillow_resize
from cct_tf.images import decode, parts
from cct_tf.readers.encoded import Encoded
from tests.images import images

PHOTO = load_sample_images().images[0]


def _jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def _exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


KINDS = {
    "4:4:4": {"subsampling": 0}, "4:2:2": {"subsampling": 1}, "4:2:0": {"subsampling": 2},
    "4:2:0 progressive": {"subsampling": 2, "progressive": True}, "grey": {},
    "4:2:0 with restarts": {"subsampling": 2, "restart_marker_rows": 1}, "rotated": {"exif": _exif(6)},
    "CMYK": {}, "padded": {}, "PNG": {},
}


def _contents(kind, pixels):
    """A file of a kind, and the image that Pillow reads from it."""
    if kind == "PNG":
        contents = tf.io.encode_png(pixels).numpy()
    elif kind == "CMYK":
        file = io.BytesIO()
        Image.fromarray(pixels).convert("CMYK").save(file, "JPEG")
        contents = file.getvalue()
    else:
        contents = _jpeg(pixels[..., 0] if kind == "grey" else pixels, quality=92, **KINDS[kind])
        contents += b"\0" * 9 if kind == "padded" else b""
    return contents, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB"))


def _reader(fast=None):
    """Function of (contents, box) that decodes a part in a graph: pixels and frame."""
    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4])], autograph=False)
    def read(contents, box):
        return decode.decode_part(contents, lambda height, width: box, fast=fast)

    return lambda *args: [value.numpy() for value in read(*args)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_the_pixels_of_the_whole_image(kind, monkeypatch):
    monkeypatch.setattr(parts, "_LARGE", 0)
    draw, read, smaller = np.random.default_rng(3), _reader(), 0
    for number in range(12):
        height, width = draw.integers(33, 427), draw.integers(33, 640)
        contents, image = _contents(kind, PHOTO[:height, :width])
        tall, wide = (draw.integers(1, side + 1) for side in image.shape[:2])
        box = np.array([draw.integers(image.shape[0] - tall + 1), draw.integers(image.shape[1] - wide + 1), tall, wide])
        pixels, frame = read(contents, box.astype(np.float32))
        assert tuple(frame[:3]) == (*image.shape[:2], 1)
        top, left, _, _ = parts.placed(box.astype(np.float32), frame).numpy().astype(int)
        expected = image[box[0]:box[0] + tall, box[1]:box[1] + wide]
        assert np.array_equal(pixels[top:top + tall, left:left + wide], expected), number
        smaller += pixels.size < image.size
    assert (smaller > 0) == (kind not in ("rotated", "CMYK", "padded", "PNG"))


def test_a_file_that_is_cut_off_is_no_image_whatever_the_part(monkeypatch):
    monkeypatch.setattr(parts, "_LARGE", 0)
    contents = _jpeg(PHOTO)[:-9000]
    with pytest.raises(tf.errors.InvalidArgumentError):
        _reader()(contents, np.float32([0, 0, 32, 32]))


@pytest.mark.parametrize(("side", "scale"), [(63, 1), (64, 2), (127, 2), (128, 4), (256, 8), (400, 8)])
def test_fast_decoding_keeps_as_many_pixels_as_the_network_needs(side, scale):
    contents, image = _contents("4:2:0", PHOTO[:401, :403])
    box = np.float32([401 - side, 403 - side, side, side])
    pixels, frame = _reader(fast=32)(contents, box)
    assert frame[:3].tolist() == [401, 403, scale]
    place = parts.placed(box, frame)
    assert (place.numpy()[2:] == side / scale).all() and pixels.shape[0] < 401 / scale + 1
    found = pillow_resize.crop(pixels[None], place[None], tf.constant([True]), 32, pillow_resize.resized)
    found = found[0].numpy().astype(int)
    crop = Image.fromarray(image[401 - side:401, 403 - side:403]).resize((32, 32), Image.BICUBIC)
    difference = np.abs(found - np.asarray(crop))
    assert difference.max() == 0 if scale == 1 else 0 < difference.mean() < 8
    moved = np.abs(found[:, 1:] - np.asarray(crop)[:, :-1])  # by a pixel of the network's: then it would be worse
    assert difference.mean() < moved.mean()


@pytest.mark.parametrize("kind", [kind for kind in images.AS_PILLOW if not kind.startswith("jpeg")])
def test_other_formats_are_read_whole(kind):
    contents = images.AS_PILLOW[kind]
    pixels, frame = _reader(fast=2)(contents, np.float32([0, 0, 4, 4]))
    assert np.array_equal(pixels, decode.decode_file(contents, "file"))
    assert frame.tolist() == [*pixels.shape[:2], 1, 0, 0]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("side", "is_cut"), [(400, False), (1300, True)])
def test_files_of_large_images_are_read_in_parts(on_disk, side, is_cut, tmp_path):
    pixels = np.tile(PHOTO, (4, 3, 1))[:side, :side]
    contents = _jpeg(pixels, quality=92)
    (tmp_path / "1.jpg").write_bytes(contents)
    reader = Encoded(tf.constant([str(tmp_path / "1.jpg") if on_disk else contents]), ["1.jpg"], np.arange(1), on_disk)
    box = np.float32([side - 301, 7, 300, 123])
    found = tf.data.Dataset.range(1).map(lambda place: reader.load_part({"index": place}, lambda *size: box)[:2])
    (cut, frame), = found.as_numpy_iterator()
    assert (cut.shape[0] < side) == is_cut and tuple(frame[:3]) == (side, side, 1)
    top, left, height, width = parts.placed(box, frame).numpy().astype(int)
    expected = decode.decode_file(contents, "1.jpg")[side - 301:side - 1, 7:130]
    assert np.array_equal(cut[top:top + height, left:left + width], expected)
