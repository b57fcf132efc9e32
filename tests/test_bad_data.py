"""Data that only reading shows to be wrong: one line that names the file, exit status 2.

How images are decoded is tested in tests/images; here is what a person sees.
"""

import io

import numpy as np
import pytest
from PIL import Image

from tests.commands import call, only_line


def _encoded(file_format, side=16):
    pixels = np.random.default_rng(0).integers(0, 256, [side, side, 3], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Two classes of four sound images in two splits."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(4):
                (tmp_path / "images" / split / name / f"{index}.jpg").write_bytes(_encoded("JPEG"))
    return tmp_path / "images"


WRONG = {
    "JPEG cut in its header": ("broken.jpg", _encoded("JPEG")[:300]),
    "JPEG cut in its pixels": ("broken.jpg", _encoded("JPEG", 64)[:1500]),
    "truncated PNG": ("broken.png", _encoded("PNG")[:300]),
    "empty file": ("broken.jpg", b""),
    "text with the name of an image": ("broken.png", b"no image at all\n"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_image_is_named(kind, folder, tmp_path, capfd):
    name, contents = WRONG[kind]
    path = folder / "train/dog" / name
    path.write_bytes(contents)
    status, _, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=folder",
                          f"--data_dir={folder}")
    assert status == 2
    assert str(path) in only_line(err) and "--on_bad_image" in err


@pytest.mark.parametrize("flags", [[], ["--dry_run"]], ids=["train", "dry run"])
def test_an_image_on_disk_that_breaks_only_when_it_is_decoded_is_named(folder, tmp_path, capfd, flags):
    """Of images that are not held only the headers are read at the start."""
    path = folder / "train/dog/broken[1].jpg"
    whole = _encoded("JPEG", 64)
    path.write_bytes(whole[:len(whole) * 3 // 4])
    status, _, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=folder", f"--data_dir={folder}",
                          "--in_memory_gib=0", "--mean=0.5", "--std=0.5", "--model=cct_2_3x1_16", "--batch_size=16",
                          "--train_steps=2", *flags)
    assert status == 2
    assert str(path) in only_line(err)


def test_a_folder_of_broken_images_alone_is_an_error_even_if_they_may_be_skipped(folder, tmp_path, capfd):
    for path in folder.glob("*/*/*.jpg"):
        path.write_bytes(b"nothing")
    status, _, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=folder",
                          f"--data_dir={folder}", "--on_bad_image=skip")
    assert status == 2
    assert str(folder) in only_line(err)


def test_broken_images_that_may_be_skipped_are_counted_and_named_in_the_plan(folder, tmp_path, capfd):
    (folder / "train/dog/broken.jpg").write_bytes(b"")
    (folder / "train/cat/broken.jpg").write_bytes(b"text")
    status, out, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=folder", "--dry_run",
                            f"--data_dir={folder}", "--on_bad_image=skip", "--model=cct_2_3x1_16", "--batch_size=4")
    assert (status, err) == (0, "")
    assert "8 train" in out and "2 broken images" in out and str(folder / "train/dog/broken.jpg") in out


def test_broken_images_that_were_skipped_are_all_listed_in_the_work_folder(folder, tmp_path, capfd):
    for index in range(5):
        (folder / f"train/dog/broken{index}.jpg").write_bytes(b"text" * (index > 0))
    status, out, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=folder", f"--data_dir={folder}",
                            "--on_bad_image=skip", "--model=cct_2_3x1_16", "--batch_size=4", "--train_steps=1",
                            "--jit=off")
    assert (status, err) == (0, "")
    assert f"broken2.jpg and 2 more; see {tmp_path}/run/broken_images.txt" in out
    lines = (tmp_path / "run/broken_images.txt").read_text().splitlines()
    assert lines == [f"{folder}/train/dog/broken0.jpg\tthe file is empty"] + [
        f"{folder}/train/dog/broken{index}.jpg\texpected an image, found text" for index in (1, 2, 3, 4)]


def test_a_dry_run_writes_nothing(folder, tmp_path, capfd):
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    status, out, err = call(capfd, "train", f"--workdir={tmp_path}/a/b", "--dataset=folder", "--dry_run",
                            f"--data_dir={folder}", "--model=cct_2_3x1_16", "--batch_size=4")
    assert (status, err) == (0, "")
    assert f"{tmp_path}/a/b" in out  # the plan says where it would write
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_tfds_set_without_data_and_network_names_both_ways_on(tmp_path, monkeypatch, capfd):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    status, _, err = call(capfd, "train", f"--workdir={tmp_path}/run", "--dataset=cifar10",
                          f"--data_dir={tmp_path}/sets")
    assert status == 2
    for word in ("--dataset=cifar10", f"{tmp_path}/sets/cifar10", "prepare it elsewhere", "downloads/manual"):
        assert word in only_line(err)
