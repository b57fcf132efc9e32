"""Faults planted in a data set are found, and nothing else is."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from cct_tf.inspection import findings, report
from tests.commands import call

CLASSES = ("temple", "flower")


@pytest.fixture(scope="module")
def cuts():
    """60 cuts of 120 x 86 of two photographs, none of them of plain sky, that overlap in part at most."""
    rng, photos, found, taken = np.random.default_rng(0), load_sample_images().images, [], []
    while len(found) < 60:
        which, y, x = len(found) % 2, int(rng.integers(0, 340)), int(rng.integers(0, 520))
        cut = photos[which][y:y + 86, x:x + 120]
        if cut.std() > 30 and all(which != other or abs(y - top) + abs(x - left) > 24 for other, top, left in taken):
            taken.append((which, y, x))
            found.append(cut)
    return found


def _save(root, split, name, pixels, number, **options):
    path = root / split / CLASSES[number % 2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture(scope="module")
def folder(cuts, tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    for number, pixels in enumerate(cuts):
        split = "train" if number < 40 else "test"
        _save(root, split, f"{number}.jpg", pixels, number, quality=92)
    for number, quality in enumerate((30, 50, 70, 90)):
        _save(root, "test", f"again_{number}.jpg", cuts[number], number, quality=quality)
    for number in (4, 5, 6):
        _save(root, "test", f"half_{number}.png", np.asarray(Image.fromarray(cuts[number]).resize((60, 43))), number)
    for number in (7, 8, 9):
        bright = np.minimum(cuts[number] * 1.03, 255).astype(np.uint8)
        _save(root, "test", f"bright_{number}.jpg", bright, number, quality=92)
    shutil.copy(root / "train/temple/10.jpg", root / "test/temple/copy.jpg")
    shutil.copy(root / "train/temple/12.jpg", root / "train/flower/wrong.jpg")
    whole = (root / "train/temple/14.jpg").read_bytes()
    (root / "train/temple/cut_off.jpg").write_bytes(whole[:len(whole) // 2])
    return root


@pytest.mark.parametrize("in_memory_gib", [0, 8])
def test_planted_faults_are_found_and_no_others(folder, capfd, in_memory_gib):
    status, out, err = call(capfd, "inspect_data", "--dataset=folder", f"--data_dir={folder}", "--json",
                            f"--in_memory_gib={in_memory_gib}")
    assert status == 0 and err == ""
    found = json.loads(out)

    def names(groups):
        return {frozenset(image["image"].removeprefix(f"{folder}/") for image in group) for group in groups}

    assert [(name.removeprefix(f"{folder}/"), reason) for name, reason in found["broken"]] == [
        ("train/temple/cut_off.jpg", "the file is cut off")]
    assert names(found["contradictions"]) == {frozenset({"train/temple/12.jpg", "train/flower/wrong.jpg"})}
    assert names(found["equal_across_splits"]) == {frozenset({"train/temple/10.jpg", "test/temple/copy.jpg"})}
    planted = [f"again_{number}.jpg" for number in range(4)] + [f"half_{number}.png" for number in (4, 5, 6)] + [
        f"bright_{number}.jpg" for number in (7, 8, 9)]
    assert names(found["near_across_splits"]) == {
        frozenset({f"train/{CLASSES[number % 2]}/{number}.jpg", f"test/{CLASSES[number % 2]}/{name}"})
        for number, name in enumerate(planted)}
    assert found["images"] == {"train": 41, "test": 31} and found["formats"] == {".jpg": 69, ".png": 3}
    assert found["classes"]["temple"] == {"train": 20, "test": 16}


def test_a_person_gets_words_and_a_picture(folder, tmp_path, capfd):
    status, out, _ = call(capfd, "inspect_data", "--dataset=folder", f"--data_dir={folder}",
                          f"--output={tmp_path}/pairs.png")
    assert status == 0 and "nearly equal images in different splits: 10" in out and "41 train, 31 test" in out
    pixels = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert pixels.shape[0] > 1000 and len(np.unique(pixels)) > 100


def test_an_image_that_is_no_file_has_no_format():
    assert [findings._format(name) for name in ("a/b.JPG", "row 3 of ./mine.py:load", "image 3")] == [
        ".jpg", "none", "none"]
    found = {"images": {"train": 2}, "sizes": {}, "grey": 0, "widened": 0, "classes": {}}
    assert not any(line.startswith("formats") for line in itertools.islice(
        report.lines(found | {"formats": {"none": 2}}), 3))


def test_images_of_8_bits_among_those_of_16_are_counted(tmp_path, capfd):
    draws = np.random.default_rng(0)
    wide = {f"x_{split}": draws.integers(0, 2**16, [4, 8, 8], np.uint16) for split in ("train", "test")}
    wide["x_train"][1] = draws.integers(0, 256, [8, 8]) * 257
    np.savez(tmp_path / "wide.npz", **wide, y_train=[0, 1, 0, 1], y_test=[0, 1, 0, 1])
    status, out, _ = call(capfd, "inspect_data", "--dataset=npz", f"--data_dir={tmp_path}/wide.npz", "--bits=16",
                          "--channels=1")
    assert status == 0 and "\nbits          1 have 8 bits, of which --bits=16 makes 16" in out


def test_a_class_with_another_share_is_named(tmp_path, capfd):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images[:40], y_train=np.arange(40) % 2, x_test=images[40:],
             y_test=np.arange(20) // 16)
    status, out, _ = call(capfd, "inspect_data", "--dataset=npz", f"--data_dir={tmp_path}/a.npz")
    assert status == 0 and "1: 20.0% of test, 50.0% of train" in out
    assert "grey          60 of 60" in out and "nearly equal images in different splits: none" in out


def test_a_wrong_flag_is_one_line(capfd):
    status, _, err = call(capfd, "inspect_data", "--dataset=folder", "--data_dir=/nowhere")
    assert status == 2 and err.startswith("error: --data_dir") and err.count("\n") == 1
