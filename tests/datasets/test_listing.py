"""Which files the names on a command line stand for."""

import pytest

from cct_tf.datasets.listing import list_images
from cct_tf.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/1.JPG", "b/deep/3.webp", "b/notes.txt", "b/.hidden.png", "a.dat", "x[1].png", "x1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "hollow").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("names", "files"), [
    (["b"], ["b/1.JPG", "b/2.png", "b/deep/3.webp"]),  # images by suffix, sorted, none hidden
    (["a.dat", "b/notes.txt"], ["a.dat", "b/notes.txt"]),  # who names a file means it
    (["b/2.png", "b"], ["b/2.png", "b/1.JPG", "b/deep/3.webp"]),  # each once
    (["x[1].png"], ["x[1].png"]),  # a file of that name goes before the pattern
    (["x[0-9].png"], ["x1.png"]),
    (["b/**/*.[jw]*"], ["b/deep/3.webp"]),
    (["b/de*"], ["b/deep/3.webp"]),
])
def test_names_stand_for(folder, names, files):
    assert list_images(names) == files


@pytest.mark.parametrize(("names", "words"), [
    ([], "IMAGE: expected"), (["c.png"], "c.png: expected an image"), (["b/*.tif"], r"\*.tif: expected a pattern"),
    (["b", "hollow"], "hollow: expected a folder with images")])
def test_what_stands_for_nothing_is_named(folder, names, words):
    with pytest.raises(UserError, match=words):
        list_images(names)


def test_links_back_are_no_way_on(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for link, target in (("a/b", "../b"), ("b/a", "../a"), ("a/self", "."), ("a/up", "..")):  # else 2^40 ways
        (tmp_path / link).symlink_to(target)
    assert list_images([str(tmp_path / "a")]) == [f"{tmp_path}/a/{name}" for name in ("1.png", "b/2.png", "up/b/2.png")]
