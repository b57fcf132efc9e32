"""Image folders: layout, order, how they are held, broken images, statistics."""

import contextlib
import importlib.util
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from cct_tf.data import source, statistics
from cct_tf.datasets import registry, tree
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.machine import container
from cct_tf.readers import tensors
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.flat import Flat
from cct_tf.readers.held import Held
from cct_tf.runs.resolved import Resolved
from cct_tf.settings.config import DataConfig


def _write(path, seed=0, size=(6, 5)):
    """One random PNG or JPEG of (height, width); its pixels as Pillow reads them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


def _make(root, layout, size=(6, 5)):
    """Files of `{"train/ant": 3, ...}`; returns {relative path: pixels}."""
    pictures = {}
    for folder, number in layout.items():
        for index in range(number):
            name = f"{folder}/{index}.{'png' if index % 2 else 'jpg'}"
            shape = size(index) if callable(size) else size
            pictures[name] = _write(root / name, len(pictures), shape)
    return pictures


def _open(root, **fields):
    return registry.open_source(DataConfig(dataset="folder", data_dir=str(root), **fields))


LAYOUT = {"train/bee": 3, "train/ant": 4, "train/Zebu": 2, "test/ant": 1, "test/Zebu": 2}


def _images(split):
    """The decoded images of a split, in order."""
    reader = split.reader
    if isinstance(reader, Held):
        return list(tf.gather(reader.tensor, reader.indices).numpy())
    dataset = tf.data.Dataset.range(len(reader)).map(lambda place: reader.load({"index": place})[0])
    return list(dataset.as_numpy_iterator())


def _counts(opened):
    return {name: split.num_examples for name, split in opened.splits.items()}


def _mixed(index):
    return (6 + index, 5)


# flags, size -> the reader; 9 + 3 images of 6x5 take 1,080 bytes decoded and rather more encoded
HOLDING = {"decoded": ({}, (6, 5), Held, None), "decoded, mixed sizes": ({}, _mixed, Flat, None),
           "bytes": ({"decode": "fast"}, _mixed, Encoded, False),
           "disk": ({"in_memory_gib": 0.0}, _mixed, Encoded, True),
           "disk, one size": ({"in_memory_gib": 0.0}, (6, 5), Encoded, True)}


@pytest.mark.parametrize("kind", HOLDING)
def test_classes_and_files_sort_by_bytes_and_keep_their_pixels(tmp_path, kind):
    flags, size, reader_class, on_disk = HOLDING[kind]
    pictures = _make(tmp_path, LAYOUT, size)
    opened = _open(tmp_path, **flags)
    assert opened.class_names == ("Zebu", "ant", "bee")
    for name in ("train", "test"):
        split = opened.splits[name]
        expected = sorted(path for path in pictures if path.startswith(name))
        assert isinstance(split.reader, reader_class) and getattr(split.reader, "on_disk", None) is on_disk
        assert split.labels.tolist() == [opened.class_names.index(path.split("/")[1]) for path in expected]
        for path, image in zip(expected, _images(split), strict=True):
            np.testing.assert_array_equal(image, pictures[path])


@pytest.mark.parametrize("kind", HOLDING)
def test_statistics_are_those_of_all_training_pixels(tmp_path, kind):
    flags, size, _, _ = HOLDING[kind]
    pictures = _make(tmp_path, LAYOUT, size)
    pixels = np.concatenate([picture.reshape(-1, 3) for path, picture in pictures.items() if path.startswith("train")])
    mean, std = statistics.channel_statistics(_open(tmp_path, **flags).splits["train"])
    np.testing.assert_allclose(mean, (pixels / 255.0).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255.0).std(axis=0), rtol=1e-12)


def test_constant_images_have_no_deviation_to_divide_by(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (5, 6), 7).save(tmp_path / name)
    with pytest.raises(UserError, match="^--std: "):
        statistics.channel_statistics(_open(tmp_path).splits["train"])


@pytest.mark.parametrize("folders, splits", [
    (("train", "val", "test"), {"train", "validation", "test"}),
    (("train", "validation"), {"train", "test"}), (("train", "valid"), {"train", "test"}),
    (("train", "test"), {"train", "test"})])
def test_val_is_validation_beside_test_and_the_test_split_alone(tmp_path, folders, splits):
    _make(tmp_path, {f"{folder}/{name}": 2 for folder in folders for name in ("a", "b")})
    assert set(_open(tmp_path).splits) == splits


def test_validation_fraction_holds_out_training_images(tmp_path):
    _make(tmp_path, {"train/a": 10, "train/b": 5, "val/a": 1, "test/a": 1})
    opened = _open(tmp_path, validation_fraction=0.2)
    assert _counts(opened) == {"train": 12, "validation": 3, "test": 1}
    assert not set(opened.splits["train"].reader.indices) & set(opened.splits["validation"].reader.indices)
    assert any("val/ is not used" in note for note in opened.notes)


def test_one_tree_is_split_by_validation_fraction(tmp_path):
    _make(tmp_path, {"a": 10, "b": 5})
    opened = _open(tmp_path, validation_fraction=0.2)
    assert _counts(opened) == {"train": 12, "validation": 3}
    with pytest.raises(UserError, match="^--validation_fraction: expected above 0"):
        _open(tmp_path)


def test_which_files_are_held_out_depends_on_their_paths_alone(tmp_path):
    _make(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 1})
    before = _open(tmp_path, validation_fraction=0.2)
    (tmp_path / "train/a/4.jpg").unlink()
    after = _open(tmp_path, validation_fraction=0.2)
    first, second = ({file.path for file in opened.splits["validation"].files} for opened in (before, after))
    assert len(first) == 4 and len((first ^ second) - {b"train/a/4.jpg"}) <= 1
    for split in after.splits.values():
        assert [os.path.basename(split.reader.names[index]) for index in split.reader.indices] == [
            os.path.basename(os.fsdecode(file.path)) for file in split.files]
        assert [os.path.getsize(tmp_path / os.fsdecode(file.path)) for file in split.files] == [
            file.size for file in split.files]


def test_a_run_of_before_rules_were_recorded_keeps_its_split(tmp_path):
    _make(tmp_path, {"a": 20, "rare": 2})
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), validation_fraction=0.1)
    for resolved, rare in ((Resolved(8, (), {}, fingerprint="of an old run"), 0), (None, 1)):
        opened = registry.open_source(config, rules=source.rules_of(resolved))
        assert opened.splits["validation"].labels.tolist() == [0, 0] + [1] * rare
        assert sum("no image of 1 of 2 classes: rare" in note for note in opened.notes) == 1 - rare


def test_the_fingerprint_follows_what_is_held_out(tmp_path):
    _make(tmp_path, {"a": 10, "b": 10})
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), validation_fraction=0.2)
    seeds = [_open(tmp_path, validation_fraction=0.2, split_seed=seed).fingerprint for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0] != registry.open_source(config, rules=source.Rules(split=1)).fingerprint


def test_split_flags_name_folders(tmp_path):
    _make(tmp_path, {"fit/a": 3, "fit/b": 2, "hold/b": 1})
    opened = _open(tmp_path, train_split="fit", test_split="hold")
    assert (opened.splits["train"].num_examples, opened.splits["test"].labels.tolist()) == (5, [1])


def test_hidden_files_and_non_images_are_left_out_and_counted_by_suffix(tmp_path):
    _make(tmp_path, LAYOUT)
    plain = _open(tmp_path)
    (tmp_path / "train/ant/.hidden.png").write_bytes(b"")
    (tmp_path / "train/ant/notes.txt").write_text("note")
    (tmp_path / "test/README").write_text("note")
    (tmp_path / "test/.cache").mkdir()
    (tmp_path / "train/bee/more").mkdir()
    for name in ("a.TXT", "b.pdf"):
        (tmp_path / "train/bee/more" / name).write_text("note")
    opened = _open(tmp_path)
    assert opened.notes[0] == "left out: 2 .txt, 2 hidden, 1 .pdf, 1 without a suffix"
    assert opened.fingerprint == plain.fingerprint


def _make_heic(root):
    pillow_heif = pytest.importorskip("pillow_heif")
    pictures = _make(root, LAYOUT)
    picture = Image.fromarray(np.linspace(0, 255, 64 * 48 * 3).astype(np.uint8).reshape(64, 48, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(root / "train/ant/phone.HEIC", exif=exif.tobytes())
    return pictures


def test_heic_images_are_read_where_pillow_heif_is_installed(tmp_path):
    _make_heic(tmp_path)
    found = _images(_open(tmp_path).splits["train"])
    contents = (tmp_path / "train/ant/phone.HEIC").read_bytes()
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB"))
    assert np.array_equal(found[6], expected) and decode.header_size(contents) is not None


def test_heic_images_are_counted_with_the_package_that_reads_them_where_it_is_missing(tmp_path, monkeypatch):
    _make_heic(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    note = "left out: 1 .heic; pip install pillow-heif, and HEIF images are read"
    assert _open(tmp_path).notes[0] == note
    for path in (tmp_path / "train/ant").iterdir():
        if path.suffix != ".HEIC":
            path.unlink()
    with pytest.raises(UserError, match=r"train/ant: .* found none \(1 .heic; pip install pillow-heif"):
        _open(tmp_path)


@pytest.mark.parametrize("kind", HOLDING)
def test_sizes_of_images_are_read_from_their_headers(tmp_path, kind):
    flags, size, _, _ = HOLDING[kind]
    pictures = _make(tmp_path, LAYOUT, size)
    reader = _open(tmp_path, **flags).splits["train"].reader
    expected = {picture.shape[:2] for path, picture in pictures.items() if path.startswith("train")}
    assert {tuple(map(int, found)) for found in reader.sizes()} == expected
    assert len(reader.sizes(most=1)) == 1


def test_folders_below_a_class_and_odd_names_are_read(tmp_path):
    _make(tmp_path, {"train/a/deep/er": 2, "train/b": 1, "test/a": 1})
    odd = os.path.join(os.fsencode(tmp_path), b"train", b"b", b"\xff\xe4.png")
    with open(odd, "wb") as file:
        file.write((tmp_path / "test/a/0.jpg").read_bytes())
    for limit in (1.0, 0.0):
        split = _open(tmp_path, in_memory_gib=limit).splits["train"]
        assert split.labels.tolist() == [0, 0, 1, 1] and len(_images(split)) == 4


def test_the_fingerprint_follows_names_and_sizes_not_the_place(tmp_path):
    _make(tmp_path / "one", LAYOUT)
    _make(tmp_path / "two", LAYOUT)
    first = _open(tmp_path / "one").fingerprint
    assert first == _open(tmp_path / "two").fingerprint == _open(tmp_path / "one", in_memory_gib=0.0).fingerprint
    os.rename(tmp_path / "two/train/ant/0.jpg", tmp_path / "two/train/ant/00.jpg")
    assert first != _open(tmp_path / "two").fingerprint


def _broken(kind, good):
    return {"truncated": good[:len(good) // 2], "empty": b"", "text": b"not a picture"}[kind]


@pytest.mark.parametrize("holding", ["decoded", "bytes", "disk"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_broken_image_stops_or_is_left_out(tmp_path, holding, kind):
    flags, size, _, _ = HOLDING[holding]
    _make(tmp_path, LAYOUT, size)
    path = tmp_path / "train/bee/1.png"
    path.write_bytes(_broken(kind, path.read_bytes()))
    if (holding, kind) != ("disk", "truncated"):  # its header is sound; found when it is read (test_decode)
        with pytest.raises(UserError) as caught:
            _open(tmp_path, **flags)
        assert str(caught.value).startswith(f"broken image: {path}: ") and "\n" not in str(caught.value)
    opened = _open(tmp_path, **flags, on_bad_image="skip")
    assert opened.splits["train"].num_examples == 8 and len(_images(opened.splits["train"])) == 8
    reasons = {"truncated": "the file is cut off", "empty": "the file is empty",
               "text": "expected an image, found text"}
    assert opened.broken == ((str(path), reasons[kind]),)
    assert opened.notes == ("the test split has no image of 1 of 3 classes: bee",)


def test_a_broken_test_image_follows_the_same_rule(tmp_path):
    _make(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 6})
    for index in range(5):
        (tmp_path / f"test/a/{index}.{'png' if index % 2 else 'jpg'}").write_bytes(b"")
    with pytest.raises(UserError, match="test/a/0.jpg"):
        _open(tmp_path)
    opened = _open(tmp_path, on_bad_image="skip")
    assert opened.splits["test"].num_examples == 1
    assert len(opened.broken) == 5


LAYOUT_ERRORS = {
    "no folder": ({}, {"data_dir": "nowhere"}, "--data_dir: "),
    "no flag": ({}, {"data_dir": None}, "--data_dir: "),
    "one class": ({"train/a": 1, "test/a": 1}, {}, "--data_dir: expected at least two class folders"),
    "no class": ({"train": 1, "test/a": 1}, {}, "--data_dir: expected at least two class folders"),
    "empty root": ({}, {"validation_fraction": 0.1}, "--data_dir: expected train/<class>/ or <class>/"),
    "unknown class": ({"train/a": 1, "train/b": 1, "test/c": 1}, {}, "ROOT/test/c: expected a class of the training"),
    "no test": ({"train/a": 1, "train/b": 1}, {}, "--data_dir: expected test/ or val/"),
    "no train": ({"test/a": 1, "test/b": 1}, {}, "--train_split: expected the folder train/ beside test/"),
    "typo": ({"train/a": 1, "train/b": 1, "test/a": 1}, {"test_split": "tests"}, "--test_split: expected a folder"),
}


@pytest.mark.parametrize("kind", LAYOUT_ERRORS)
def test_a_wrong_layout_is_one_line_and_needs_no_decoding(tmp_path, kind):
    layout, fields, expected = LAYOUT_ERRORS[kind]
    _make(tmp_path, layout)
    with pytest.raises(UserError) as caught:
        registry.check_name(DataConfig(**({"dataset": "folder", "data_dir": str(tmp_path)} | fields)))
    assert str(caught.value).startswith(expected.replace("ROOT", str(tmp_path))) and "\n" not in str(caught.value)


def test_an_empty_class_folder_is_named(tmp_path):
    _make(tmp_path, LAYOUT)
    (tmp_path / "train/yak").mkdir()
    with pytest.raises(UserError, match="train/yak: expected at least one image"):
        tree.scan(DataConfig(dataset="folder", data_dir=str(tmp_path)))


def test_a_set_beyond_the_free_memory_names_the_flag():
    with pytest.raises(UserError, match="^--in_memory_gib: expected at most the free memory"):
        tensors.require_memory(2**60, "a set")
    tensors.require_memory(1, "a set")


@pytest.mark.parametrize("size", [(6, 5), _mixed])
def test_a_set_beyond_the_limit_of_a_container_names_the_flag(tmp_path, monkeypatch, size):
    root, gib = tmp_path / "root", 2**30
    group = root / "sys/fs/cgroup"
    (root / "proc/self").mkdir(parents=True)
    group.mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "memory.max").write_text(f"{4 * gib}\n")
    _make(tmp_path / "set", LAYOUT, size)
    monkeypatch.setattr(container, "ROOT", root)
    for used, fits in ((gib, True), (4 * gib - 100, False)):  # bytes; the images take more than 100
        (group / "memory.current").write_text(f"{used}\n")
        with contextlib.nullcontext() if fits else pytest.raises(UserError) as caught:
            _open(tmp_path / "set")
    assert str(caught.value).startswith("--in_memory_gib: expected at most the free memory, 0.0 GiB, found")


def test_progress_is_one_plain_line_off_a_terminal(tmp_path):
    _make(tmp_path, LAYOUT)
    stream = io.StringIO()
    registry.open_source(DataConfig(dataset="folder", data_dir=str(tmp_path)), stream)
    assert stream.getvalue().startswith(f"decoding {tmp_path}: 12 images in ") and stream.getvalue().count("\n") == 1


def _make_wide(root, bits):
    """Folders of 16-bit PNGs that use so many bits, and one JPEG of 8; uint16 pixels by path."""
    pictures = {}
    for name in ("train/a/0.png", "train/b/1.png", "test/a/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        wide = np.random.default_rng(len(pictures)).integers(0, 2**bits, (6, 5)).astype(np.uint16)
        wide[0, 0] = 2**bits - 1 if name.startswith("test") else 2**(bits - 1)  # the largest is a test image's
        Image.fromarray(wide).save(root / name)
        pictures[name] = wide
    Image.new("RGB", (5, 6), (1, 2, 3)).save(root / "train/a/3.jpg")
    return pictures


@pytest.mark.parametrize("kind", ["decoded", "bytes", "disk"])
@pytest.mark.parametrize("bits", [3, 12, 16])
def test_wide_images_are_scaled_by_the_bits_that_the_whole_set_uses(tmp_path, kind, bits):
    pictures = _make_wide(tmp_path, bits)
    if kind != "decoded":
        Image.new("L", (9, 9), 7).save(tmp_path / "train/b/4.png")
    opened = _open(tmp_path, **HOLDING[kind][0])
    used = max(bits, 8)
    assert opened.rules.bit_depth == used and isinstance(opened.splits["test"].reader, HOLDING[kind][2])
    found = _images(opened.splits["test"])[0]
    np.testing.assert_array_equal(found[:, :, 0], pictures["test/a/2.png"] >> (used - 8))
    assert any(f"use {used} bits" in note for note in opened.notes)


def test_a_run_of_before_keeps_the_high_byte(tmp_path):
    pictures = _make_wide(tmp_path, 12)
    config = DataConfig(dataset="folder", data_dir=str(tmp_path))
    opened = registry.open_source(config, None, source.rules_of(Resolved(8, (), {"train": 3})))
    np.testing.assert_array_equal(_images(opened.splits["test"])[0][:, :, 2], pictures["test/a/2.png"] >> 8)
    assert opened.rules.bit_depth == 16 and not any("bits" in note for note in opened.notes)


def test_no_file_is_read_twice_where_none_is_wide(tmp_path, monkeypatch):
    _make(tmp_path, LAYOUT)
    monkeypatch.setattr(decode, "largest_value", None)
    assert _open(tmp_path).rules.bit_depth == 16
