"""The command predict: what it says of files is what the network says of their pixels, whatever the format."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cct_tf.datasets import registry
from tests import commands
from tests.training import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(work folder of a tiny run on digits, its Training, trained to its end)."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, tiny.train(workdir, train_steps=60, eval_every_steps=60)


@pytest.fixture(autouse=True)
def _without_the_data_set(trained, monkeypatch):
    """Nothing of these tests may open the data set of the run."""
    monkeypatch.setattr(registry, "open_source", None)


def _pixels(index):
    return ((load_digits().images[index] * 255 + 8) // 16).astype(np.uint8)  # as data.digits scales them


def _found(capfd, trained, *argv):
    status, out, err = commands.call(capfd, "predict", f"--workdir={trained[0]}", "--json", *argv)
    return status, json.loads(out), err


def _shares(row):
    return {each["class"]: each["probability"] for each in row["predictions"]}


def test_probabilities_are_those_of_the_run(trained, tmp_path, capfd):
    workdir, training = trained
    split = training.images.source.splits["test"]
    images = training.images.source.splits["test"].reader.tensor.numpy()[split.reader.indices]
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index:03d}.png")
    status, found, err = _found(capfd, trained, tmp_path, "--top=100", "--batch_size=100")
    assert (status, err, found["broken"]) == (0, "", []) and found["step"] == 60
    logits = training.network.model((images / 255.0 - training.images.mean) / training.images.std).numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for row, probabilities in zip(found["images"], expected, strict=True):
        shares = _shares(row)
        assert len(shares) == 10 and list(shares.values()) == sorted(shares.values(), reverse=True)
        np.testing.assert_allclose([shares[str(digit)] for digit in range(10)], probabilities, atol=1e-5)
    hits = [next(iter(_shares(row))) == str(label) for row, label in zip(found["images"], split.labels, strict=True)]
    record, = tiny.records(workdir, "eval/")
    assert np.mean(hits) == record["eval/top1"]


def _write_formats(folder):
    """One image as a plain PNG and in forms that Pillow reads or that need a hand."""
    grey = _pixels(8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(rgb).save(folder / "0.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey).convert("P").save(folder / "palette.gif")
    Image.fromarray(np.dstack([rgb, 255 - grey])).save(folder / "alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "wide.png")
    Image.fromarray(rgb).save(folder / "lossless.webp", lossless=True)
    Image.fromarray(rgb).save(folder / "pages.tiff", save_all=True, append_images=[Image.fromarray(255 - rgb)])
    turned = Image.fromarray(np.rot90(rgb))
    exif = turned.getexif()
    exif[0x112] = 6  # "turn me clockwise"
    turned.save(folder / "turned.png", exif=exif)


def test_formats_make_no_difference_and_broken_files_are_left_out(trained, tmp_path, capfd):
    _write_formats(tmp_path)
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    status, found, err = _found(capfd, trained, tmp_path, "--batch_size=3", tmp_path / "0.png")
    assert status == 0 and len(found["images"]) == 8
    for row in found["images"]:
        assert _shares(row) == pytest.approx(_shares(found["images"][0]), abs=1e-6), row["image"]
    lines = err.splitlines()
    reasons = {"cut.png": "", "empty.jpg": "the file is empty", "text.png": "expected an image, found text"}
    for name, reason in reasons.items():
        line, = (line for line in lines if line.startswith(f"warning: broken image: {tmp_path}/{name}: "))
        assert reason in line
    assert len(lines) == 3
    assert {row["image"]: f"warning: broken image: {row['image']}: {row['reason']}" for row in found["broken"]} == {
        line.split(": ")[2]: line for line in lines}


def test_nothing_readable_is_status_2(trained, tmp_path, capfd):
    (tmp_path / "empty.png").touch()
    status, out, err = commands.call(capfd, "predict", f"--workdir={trained[0]}", tmp_path)
    assert status == 2 and err.splitlines()[-1] == (
        "error: IMAGE: expected at least one image that can be read, found 1 broken")


def test_table_and_csv_hold_the_same(trained, tmp_path, capfd):
    for index in range(3):
        Image.fromarray(_pixels(index)).save(tmp_path / f"{index}.png")
    _, found, _ = _found(capfd, trained, tmp_path, "--top=2")
    status, out, err = commands.call(capfd, "predict", f"--workdir={trained[0]}", tmp_path, "--top=2", "--csv")
    head, *rows = csv.reader(out.splitlines())
    assert (status, err) == (0, "") and head == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    _, table, _ = commands.call(capfd, "predict", f"--workdir={trained[0]}", tmp_path, "--top=2")
    for row, line, expected in zip(rows, table.splitlines()[-3:], found["images"], strict=True):
        flat = [part for name, share in _shares(expected).items() for part in (name, f"{share:.6f}")]
        assert row == [expected["image"], *flat]
        shown = [part for name, share in _shares(expected).items() for part in (name, f"{100 * share:.2f}%")]
        assert line.split() == [expected["image"], *shown]


def test_pictures_overwrite_neither_images_nor_one_another(trained, tmp_path, capfd):
    names = ["a/1.png", "b/1.png", "a/1_attention.png"]
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(_pixels(index)).save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    images = [tmp_path / name for name in names]
    status, found, err = _found(capfd, trained, f"--attention={tmp_path}/a", *images)
    assert (status, err) == (0, "") and before == {name: (tmp_path / name).read_bytes() for name in names}
    pictures = [row["attention"] for row in found["images"]]
    assert pictures == [f"{tmp_path}/a/1_attention_2.png", f"{tmp_path}/a/1_attention_3.png",
                        f"{tmp_path}/a/1_attention_attention.png"]
    for picture in pictures:
        pixels = np.asarray(Image.open(picture))
        assert pixels.shape == (310, 780, 3)
        assert np.ptp(pixels.astype(int), axis=2).max() > 100  # colours, of the maps
