"""What is said of files that are no sound images: a reason that a person understands, whoever failed to decode them."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from cct_tf.images import decode
from cct_tf.images.pixel_type import PixelType


def _encoded(file_format, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, [40, 30, 3], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format)
    return file.getvalue()


def _with_hole(contents, start, end):
    return contents[:start] + b"\xff" * (end - start) + contents[end:]


def _cut(contents):
    return contents[:len(contents) * 2 // 3]


NO_IMAGE = "expected an image, found "
WRONG = {
    "JPEG": (_cut(_encoded("JPEG")), "the file is cut off"),
    "JPEG, its start alone": (_encoded("JPEG")[:20], "the file is cut off"),
    "JPEG of four colours": (_cut(_encoded("JPEG", "CMYK")), "the file is cut off"),
    "JPEG, damaged": (_with_hole(_encoded("JPEG"), 12, 40), "damaged JPEG data"),
    "PNG": (_cut(_encoded("PNG")), "the file is cut off"),
    "PNG with alpha": (_cut(_encoded("PNG", "RGBA")), "the file is cut off"),
    "PNG, its start alone": (_encoded("PNG")[:20], "the file is cut off"),
    "PNG, damaged": (_with_hole(_encoded("PNG"), 300, 340), "damaged PNG data"),
    "WebP": (_cut(_encoded("WEBP")), "the file is cut off"),
    "BMP": (_cut(_encoded("BMP")), "the file is cut off"),
    "TIFF": (_cut(_encoded("TIFF")), "the file is cut off"),
    "TIFF of an unknown kind": (b"II*\0" + bytes(200), NO_IMAGE + "a TIFF that can't be read as 8 bits in colour ("),
    "nothing": (b"", "the file is empty"),
    "text": ("schön, but no image".encode(), NO_IMAGE + "text"),
    "bytes": (bytes(range(128, 256)), NO_IMAGE + "no format known here"),
    "web page": (b"\n<!DOCTYPE HTML>\n<html><body>404", NO_IMAGE + "a web page (HTML)"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", NO_IMAGE + "a pointer of Git LFS ("),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", NO_IMAGE + "a PDF file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_image_has_a_plain_reason(kind):
    contents, expected = WRONG[kind]
    with pytest.raises(decode.BrokenImage) as caught:
        decode.decode_file(contents, "x.jpg")
    assert str(caught.value).startswith(f"broken image: x.jpg: {expected}")


def test_a_tiff_of_many_channels_that_is_cut_off_says_so():
    tifffile, file = pytest.importorskip("tifffile"), io.BytesIO()
    tifffile.imwrite(file, np.zeros([20, 20, 5], np.uint16), photometric="minisblack", planarconfig="contig")
    with pytest.raises(decode.BrokenImage, match="x.tif: the file is cut off$"):
        decode.decode_file(file.getvalue()[:1500], "x.tif", 16, PixelType(5, 16))


def test_of_heic_the_missing_package_is_named_or_what_is_wrong(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 64))).save(file)

    def reason(contents):
        with pytest.raises(decode.BrokenImage) as caught:
            decode.decode_file(contents, "x.heic")
        return decode.reason_of(caught.value, "x.heic")

    assert reason(file.getvalue()[:-20]) == "the file is cut off"
    assert reason(file.getvalue()[:20]) == "expected an image, found damaged HEIC data"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert reason(file.getvalue()[:20]) == (
        "expected an image, found HEIC, which needs the package pillow-heif (pip install pillow-heif)")


def test_of_a_file_of_which_the_header_alone_is_read_the_reason_is_the_same(tmp_path):
    for kind in ("text", "web page", "JPEG, its start alone", "PNG, its start alone"):
        contents, expected = WRONG[kind]
        (tmp_path / "x.jpg").write_bytes(contents)
        with pytest.raises(decode.BrokenImage) as caught:
            decode.check_header(str(tmp_path / "x.jpg"))
        assert str(caught.value) == f"broken image: {tmp_path}/x.jpg: {expected}"


@pytest.mark.parametrize("read", [decode.read_bytes, decode.check_header])
def test_of_a_link_to_nothing_the_target_is_named(tmp_path, read):
    (tmp_path / "x.jpg").symlink_to("../gone/1.jpg")
    with pytest.raises(decode.BrokenImage) as caught:
        read(str(tmp_path / "x.jpg"))
    assert str(caught.value) == f"broken image: {tmp_path}/x.jpg: a link that points to nothing, '../gone/1.jpg'"
