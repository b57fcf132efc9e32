"""Image folders of many files: what is listed, opened and looked at, and how often."""

import builtins
import hashlib
import os
import pathlib
import stat

import numpy as np
import pytest
from PIL import Image

from cct_tf.data import source
from cct_tf.datasets import checked, files, registry, tree
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.readers import headers, loading
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.held import Held
from cct_tf.settings.config import DataConfig

LAYOUT = {"train/ant": 3, "train/bee": 3, "test/ant": 2, "test/bee": 2, "val/bee": 1}
NUMBER = sum(LAYOUT.values())
RULES = source.Rules(bit_depth=16)  # of a run that goes on


def _make(root, layout=None, size=lambda index: (6 + index, 5)):
    for folder, number in (LAYOUT if layout is None else layout).items():
        (root / folder).mkdir(parents=True)
        for index in range(number):
            pixels = np.random.default_rng(index).integers(0, 256, (*size(index), 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{index}.{'png' if index % 2 else 'jpg'}")
    return root


@pytest.fixture
def folder(tmp_path):
    return _make(tmp_path / "images")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "images"


@pytest.fixture
def looks(monkeypatch):
    """Names of the files whose headers are read, filled in meanwhile."""
    found, check = [], headers.check

    def noted(path):
        check(path)
        found.append(os.path.basename(os.fsdecode(path)))

    monkeypatch.setattr(headers, "check", noted)
    return found


def _config(root, **fields):
    return DataConfig(**{"dataset": "folder", "data_dir": str(root), "in_memory_gib": 0.0} | fields)


def _open(root, cache=None, part=None, rules=RULES, **fields):
    return registry.open_source(_config(root, **fields), None, rules, part, cache)


def test_a_file_whose_header_was_found_good_is_not_opened_again(folder, cache, looks):
    first = _open(folder, cache)
    assert len(looks) == NUMBER
    assert _open(folder, cache).fingerprint == first.fingerprint and len(looks) == NUMBER
    _open(folder)  # without a cache each start looks
    assert len(looks) == 2 * NUMBER


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_a_file_that_changed_is_looked_at_again(folder, cache, looks, change):
    path = folder / "train/bee/1.png"
    _open(folder, cache)
    looks.clear()
    if change == "size":
        state = path.stat()
        path.write_bytes(path.read_bytes() + b"0")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    else:
        path = path.rename(path.with_name("7.png"))
    _open(folder, cache)
    assert looks == [path.name]


def test_a_file_that_broke_after_it_was_found_good_is_named(folder, cache):
    _open(folder, cache)
    (folder / "test/ant/0.jpg").write_bytes(b"not a picture")
    for _ in range(2):
        with pytest.raises(UserError, match="test/ant/0.jpg: expected an image, found text"):
            _open(folder, cache)


def test_a_look_that_found_a_broken_file_goes_on_from_there(folder, cache, looks, monkeypatch):
    monkeypatch.setattr(headers, "_BLOCK", 2)
    (folder / "val/bee/0.jpg").write_bytes(b"")  # splits come in the order train, test, validation
    with pytest.raises(UserError, match="val/bee/0.jpg: "):
        _open(folder, cache)
    looks.clear()
    _make(folder / "mended", {"x": 1})
    os.replace(folder / "mended/x/0.jpg", folder / "val/bee/0.jpg")
    _open(folder, cache)
    assert looks == ["0.jpg"]


@pytest.mark.parametrize("damage", [lambda note: note[:-3], lambda note: b"", lambda note: b"of another program\n",
                                    lambda note: note[:-1] + bytes([note[-1] ^ 1]), lambda note: note + b"\0" * 8])
def test_a_damaged_note_is_no_note(folder, cache, looks, damage):
    _open(folder, cache)
    [path] = cache.iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    looks.clear()
    _open(folder, cache)
    assert len(looks) == NUMBER and path.read_bytes() == sound and list(cache.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a file", "a folder in place of the note"])
def test_without_a_place_for_notes_files_are_looked_at_each_time(folder, cache, looks, kind):
    if kind == "a file":
        cache.parent.write_bytes(b"")
    else:
        _open(folder, cache)
        [path] = cache.iterdir()
        path.unlink()
        path.mkdir()
        looks.clear()
    for _ in range(2):
        assert _open(folder, cache).splits["train"].num_examples == 6
    assert len(looks) == 2 * NUMBER
    if kind != "a file":
        assert list(cache.iterdir()) == [path]  # and nothing half-written is left


def test_notes_have_a_bound_and_the_oldest_go(tmp_path):
    for age, name in enumerate("cab"):
        (tmp_path / name).write_bytes(b"12345678")
        os.utime(tmp_path / name, ns=(0, 10**9 - age))
    checked._prune(tmp_path / "b", most_bytes=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_notes_tell_no_names(folder, cache):
    _open(folder, cache)
    [path] = cache.iterdir()
    assert path.stat().st_size == len(checked._HEAD) + 4 + 8 * NUMBER and b"jpg" not in path.read_bytes()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_with_skip_what_was_decoded_is_not_decoded_again(folder, cache, monkeypatch, limit):
    """Of files on disk, and of those whose bytes are held; --decode=fast holds no pixels."""
    (folder / "train/ant/1.png").write_bytes(b"not a picture")
    asked, find_broken = [], loading.find_broken
    monkeypatch.setattr(loading, "find_broken", lambda images, *args: (
        asked.append(list(images.names)), find_broken(images, *args))[1])
    first, second = (_open(folder, cache, on_bad_image="skip", in_memory_gib=limit, decode="fast") for _ in range(2))
    assert len(asked[0]) == NUMBER and asked[1:] == [[str(folder / "train/ant/1.png")]]
    assert first.broken == second.broken and len(second.broken) == 1
    assert second.splits["train"].num_examples == 5 and first.fingerprint == second.fingerprint


def test_the_folder_is_listed_once_from_the_check_to_the_opening(folder, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    registry.check_name(_config(folder))
    once = sorted(listed)
    assert str(folder / "train/ant") in once
    _open(folder)
    assert sorted(listed) == once
    _open(folder)  # the list is used once: who opens anew sees what is there now
    assert len(listed) == 2 * len(once)


def test_a_list_made_for_other_flags_is_not_used(folder):
    registry.check_name(_config(folder))
    opened = _open(folder, validation_fraction=0.4)
    assert opened.splits["validation"].num_examples == 2  # of the training images


def _forbid(monkeypatch, root):
    """No file below root can be opened."""
    open_file, open_descriptor = builtins.open, os.open

    def forbidden(path):
        return not isinstance(path, int) and os.fspath(os.fsdecode(path)).startswith(str(root))

    def refuse(function):
        def opened(path, *args, **kwargs):
            assert not forbidden(path), path
            return function(path, *args, **kwargs)
        return opened

    monkeypatch.setattr(builtins, "open", refuse(open_file))
    monkeypatch.setattr(os, "open", refuse(open_descriptor))


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_a_part_opens_and_lists_its_split_alone(folder, monkeypatch, limit, on_bad_image):
    whole = _open(folder, in_memory_gib=limit)
    for path in (folder / "train").rglob("*.*"):
        path.write_bytes(b"broken")
    _forbid(monkeypatch, folder / "train")
    part = tree.Part(("test",), ("ant", "bee"), held=False)
    opened = _open(folder, part=part, in_memory_gib=limit, on_bad_image=on_bad_image)
    assert list(opened.splits) == ["test"] and opened.broken == () and opened.is_part and not whole.is_part
    assert opened.split_fingerprint("test") == whole.split_fingerprint("test")
    os.rename(folder / "train", folder / "gone")
    again = _open(folder, part=part, in_memory_gib=limit)
    for one, other in zip(again.splits["test"].images(range(4)), whole.splits["test"].images(range(4)), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]


@pytest.mark.parametrize(("rule", "fields"), [
    (1, {"validation_fraction": 0.4}), (2, {"validation_fraction": 0.4}), (2, {"fold": "2/3", "test_split": "val"})])
def test_a_part_held_out_of_the_training_images_is_that_of_the_whole(folder, monkeypatch, rule, fields):
    rules = source.Rules(split=rule, bit_depth=16)
    whole = _open(folder, rules=rules, **fields)
    held_out = [file.path for file in whole.splits["validation"].files]
    for path in folder.rglob("*.*"):
        if os.fsencode(path.relative_to(folder)) not in held_out:
            path.write_bytes(b"0" * path.stat().st_size)
    opened = _open(folder, part=tree.Part(("validation",), ("ant", "bee"), False), rules=rules, **fields)
    assert [file.path for file in opened.splits["validation"].files] == held_out
    assert opened.split_fingerprint("validation") == whole.split_fingerprint("validation")


@pytest.mark.parametrize("held_out", [{"validation_fraction": 0.4}, {"fold": "1/2", "test_split": "val"}])
def test_with_skip_what_is_held_out_depends_on_what_is_broken(folder, held_out):
    """So a part of such a run looks at all that its images were chosen from."""
    (folder / "train/ant/1.png").write_bytes(b"")
    fields = held_out | {"on_bad_image": "skip"}
    whole = _open(folder, **fields)
    opened = _open(folder, part=tree.Part(("validation",), ("ant", "bee"), False), **fields)
    assert opened.split_fingerprint("validation") == whole.split_fingerprint("validation")


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_the_test_split_of_a_run_with_images_held_out_is_opened_alone(folder, on_bad_image):
    fields = {"validation_fraction": 0.4, "on_bad_image": on_bad_image}
    whole = _open(folder, **fields)
    opened = _open(folder, part=tree.Part(("test",), ("ant", "bee"), False), **fields)
    assert list(opened.splits) == ["test"] and opened.split_fingerprint("test") == whole.split_fingerprint("test")


@pytest.mark.parametrize(("limit", "held", "kind"), [(1.0, False, Encoded), (0.0, True, Held), (0.0, None, Encoded),
                                                     (1.0, None, Held)])
def test_a_part_is_held_as_the_run_held_its_images(tmp_path, limit, held, kind):
    """Test images of one size beside a training split that doesn't fit, or isn't: they are resized as they were."""
    _make(tmp_path, size=lambda index: (6, 5))
    part = tree.Part(("test",), ("ant", "bee"), held) if held is not None else tree.Part(("train",))
    opened = _open(tmp_path, part=part, in_memory_gib=limit)
    assert all(isinstance(split.reader, kind) for split in opened.splits.values())


def test_what_a_part_cannot_find_is_one_line(folder):
    os.rename(folder / "val", folder / "gone")
    with pytest.raises(UserError, match="^--data_dir: expected a folder of the validation split in .*, found none$"):
        _open(folder, part=tree.Part(("validation",), ("ant", "bee"), False))
    with pytest.raises(UserError, match="test/bee: expected a class of the training folder, found an unknown one"):
        _open(folder, part=tree.Part(("test",), ("ant", "cat"), False))


def test_bits_of_the_whole_set_are_used_by_a_part_with_wide_images_and_no_others_are_looked_at(folder, monkeypatch):
    part = tree.Part(("train",))
    with monkeypatch.context() as patch:
        _forbid(patch, folder / "test")
        assert _open(folder, part=part, rules=None).rules.bit_depth == 16
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(folder / "train/ant/8.png")
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(folder / "test/ant/8.png")
    assert _open(folder, part=part, rules=None).rules.bit_depth == 12 == _open(folder, rules=None).rules.bit_depth


def test_first_bytes_are_looked_at_once(folder, cache, monkeypatch):
    asked, find_wide = [], headers.find_wide
    monkeypatch.setattr(headers, "find_wide", lambda paths, advance: (
        asked.append(len(paths)), find_wide(paths, advance))[1])
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(folder / "train/ant/8.png")
    depths = [_open(folder, cache, rules=None).rules.bit_depth for _ in range(2)]
    assert depths == [10, 10] and asked == [NUMBER + 1, 1]


def _jpeg(path, **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    image.convert(options.pop("mode", "RGB")).save(path, "JPEG", **options)
    return path.read_bytes()


@pytest.mark.parametrize(("options", "plain"), [
    ({}, True), ({"mode": "L"}, True), ({"progressive": True}, True), ({"subsampling": 0}, True),
    ({"comment": b"x" * 3000}, True), ({"icc_profile": b"x" * 40_000}, False), ({"mode": "CMYK"}, False)])
def test_plain_jpegs_are_told_by_their_segments_and_others_left_to_pillow(tmp_path, options, plain):
    contents = _jpeg(tmp_path / "x.jpg", **options)
    assert headers.is_plain_jpeg(headers._start(tmp_path / "x.jpg")) is plain
    headers.check(tmp_path / "x.jpg")
    pixels = contents.index(b"\xff\xda")
    for end in range(2, min(pixels, 3000)):  # where Pillow finds no image, neither do we
        assert not headers.is_plain_jpeg(contents[:end])
    if plain:
        frame = next(place for place in range(len(contents)) if contents[place:place + 2] in (b"\xff\xc0", b"\xff\xc2"))
        huge = contents[:frame + 5] + b"\xff" * 4 + contents[frame + 9:]
        (tmp_path / "x.jpg").write_bytes(huge)
        with pytest.raises(decode.BrokenImage, match="expected at most 134,217,728 pixels, found 4,294,836,225"):
            headers.check(tmp_path / "x.jpg")


def test_the_first_broken_file_in_order_is_named_whatever_the_threads(tmp_path):
    paths = []
    for index in range(3000):
        path = tmp_path / f"{index:04d}.jpg"
        os.link(paths[0], path) if index else _jpeg(path)
        paths.append(os.fsencode(path))
    for index in (2900, 1234, 2000):
        os.unlink(paths[index])
        pathlib.Path(os.fsdecode(paths[index])).write_bytes(b"<html>")
    paths, good = files.bytes_array(paths), 0
    with pytest.raises(decode.BrokenImage, match="1234.jpg: expected an image, found a web page"):
        for number in headers.check_many(paths):
            good += number
    assert good == 1234 // headers._BLOCK * headers._BLOCK


NAMES = [b"a/%d" % number for number in (1, 10, 2)] + [b"\xff", "\u00e4".encode(), b"a b", b"a/1.jpg", b"\x01"]


@pytest.mark.parametrize("names", [NAMES, [*NAMES, b"long" * 200]], ids=["padded", "objects"])
def test_columns_keep_names_order_and_memory(names):
    array = files.bytes_array(names)
    assert array.tolist() == names and (array.dtype == object) == (len(names) > len(NAMES))
    assert array[np.argsort(array, kind="stable")].tolist() == sorted(names)
    assert files.below("/r", array).tolist() == [b"/r/" + name for name in names] == files.below("/r/", array).tolist()
    columns = files.Files(array, np.arange(len(names)), np.zeros(len(names), np.int64))
    assert list(columns) == [source.File(name, size) for size, name in enumerate(names)] and columns[3] == (
        source.File(b"\xff", 3))
    both = files.joined([columns, columns[[0, 2]], columns[columns.sizes > 5]])
    assert both.paths.tolist() == [*names, names[0], names[2], *names[6:]] and len(both) == len(both.times)


def test_fingerprints_are_those_of_before(folder):
    """Of runs recorded before files were kept as columns: what is hashed, written down here."""
    (folder / "train/ant" / os.fsdecode(b"\xff.jpg")).write_bytes((folder / "train/ant/0.jpg").read_bytes())
    opened = _open(folder)
    digest, evaluated = hashlib.sha256(b"class ant\nclass bee\n"), hashlib.sha256(b"class ant\nclass bee\n")
    labels = {"train": [0] * 4 + [1] * 3, "validation": [1], "test": [0] * 2 + [1] * 2}
    for split, found in labels.items():
        head = b"split %b %d\n" % (split.encode(), len(found)) + np.array(found, "<i4").tobytes()
        digest.update(head)
        if split == "validation":
            evaluated.update(head)
    for where in ("train", "test", "val"):
        for name in sorted(os.fsencode(path.relative_to(folder)) for path in (folder / where).rglob("*.*")):
            size = os.path.getsize(os.path.join(os.fsencode(folder), name))
            digest.update(f"file {name.decode('utf-8', 'backslashreplace')} {size}\n".encode())
            if where == "val":
                evaluated.update(f"file {name!r} {size}\n".encode())
    assert opened.fingerprint == digest.hexdigest()
    assert opened.evaluated_fingerprint == opened.split_fingerprint("validation") == evaluated.hexdigest()
