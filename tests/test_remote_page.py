"""The commands of docs/remote_files.md, run as they stand there but for the schemes, on a folder made for them."""

import contextlib
import pathlib
import re
import shlex

import numpy as np
from PIL import Image

from cct_tf.machine import files
from tests.commands import run

PAGE = (pathlib.Path(__file__).resolve().parents[1] / "docs/remote_files.md").read_text(encoding="utf-8")


def test_a_reader_of_the_page_trains_exports_and_predicts_elsewhere(tmp_path, monkeypatch, capfd):
    for index in range(40):
        path = tmp_path / "photos" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 128, [40, 32, 3], np.uint8) + 127 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    for scheme in ("ram", "memory"):
        files.send(str(tmp_path / "photos"), f"{scheme}://bucket/photos")
    monkeypatch.chdir(tmp_path)
    with open("photos.csv", "w") as file, contextlib.redirect_stdout(file):
        assert run("tabulate", "memory://bucket/photos") == 0
    block, = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    lines = block.replace("\\\n", " ").replace("gs://", "ram://").replace("s3://", "memory://").splitlines()
    assert len(lines) == 4 and len(PAGE.splitlines()) <= 60
    for line in lines:
        command, *flags = shlex.split(line)[2:]
        short = ["--train_steps=2", "--jit=off"] if command.endswith(".train") else []
        assert run(command.removeprefix("cct_tf."), *flags, *short) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert err == "" and "folder: 32 train, 8 validation" in out and "table: 32 train, 8 validation" in out
    assert "wrote memory://bucket/photos.keras" in out
    assert re.search(r"starts from +memory://bucket/photos.keras", out)
    assert out.count("ram://bucket/photos/cats/") == 20
