"""Images of every format go all the way: training, its pictures, evaluation, prediction, export."""

import json

import pytest
from PIL import Image

from tests.commands import call
from tests.images import images

EVERY_KIND = images.AS_PILLOW | images.OTHERS
SUFFIXES = {"jpeg": "jpg", "webp": "webp", "tiff": "tif", "bmp": "bmp", "gif": "gif", "ppm": "ppm", "png": "png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, each with a file of every kind; one PNG of another size makes the sizes mixed."""
    root = tmp_path_factory.mktemp("every_format")
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for kind, contents in EVERY_KIND.items():
            (root / name / f"{kind}.{SUFFIXES[kind.split()[0].lower()]}").write_bytes(contents)
        images.RGB.resize((20, 11)).save(root / name / "another size.png")
    return root


def _ran(capfd, *argv):
    status, out, err = call(capfd, *argv)
    assert status == 0, err
    return out


@pytest.mark.parametrize("holding", ["bytes", "on disk"])
def test_every_format_trains_and_is_shown_evaluated_predicted_and_exported(folder, tmp_path, capfd, holding):
    where = [f"--data_dir={folder}", "--dataset=folder"]
    gib = "8" if holding == "bytes" else "0"
    how = ["--validation_fraction=0.3", "--model=cct_2_3x1_8", "--batch_size=8", "--flip=random", "--jit=off",
           f"--in_memory_gib={gib}"]
    run = f"--workdir={tmp_path}/run"
    out = _ran(capfd, "train", *where, *how, run, "--epochs=2")
    assert "use 12 bits; the network sees the highest 8 (16 neighbouring values become one)" in out
    _ran(capfd, "preview", *where, *how, f"--output={tmp_path}/preview.png", "--rows=40", "--draws=2")
    assert Image.open(tmp_path / "preview.png").height > 40 * 96
    pictures = tmp_path / "pictures"
    found = json.loads(_ran(capfd, "evaluate", run, "--split=validation", f"--output_dir={pictures}", "--json"))
    assert found["examples"] == 18 and found["top1"] < 1
    assert list(pictures.glob("*_worst_mistakes.png"))
    if holding == "on disk":
        return
    found = json.loads(_ran(capfd, "predict", run, folder, "--json"))
    assert len(found["images"]) == 2 * (len(EVERY_KIND) + 1) and not found["broken"]
    _ran(capfd, "export", run, "--format=keras", f"--output={tmp_path}/run.keras", "--check_images=100")
    exported = json.loads(_ran(capfd, "predict", f"--exported={tmp_path}/run.keras", folder, "--json"))
    _agree(found, exported, 1e-4)
    # A SavedModel resizes by itself, where Pillow did it for the run: its pixels are a level off here and there.
    _ran(capfd, "export", run, "--format=saved_model", f"--output={tmp_path}/saved", "--check_images=100")
    saved = json.loads(_ran(capfd, "predict", f"--exported={tmp_path}/saved", folder, "--json"))
    _agree(found, saved, 0.02)
    described = json.loads((tmp_path / "saved" / "assets.extra" / "cct_tf.json").read_text())
    assert described["resampler"] == "pillow"


def _agree(found, exported, most):
    for ours, theirs in zip(found["images"], exported["images"], strict=True):
        assert ours["image"] == theirs["image"]
        best, other = ours["predictions"][0], theirs["predictions"][0]
        assert best["class"] == other["class"] and abs(best["probability"] - other["probability"]) < most
