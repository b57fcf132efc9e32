"""The commands of docs/tables.md, run as they stand there, on a folder made for them."""

import contextlib
import pathlib
import re
import shlex

import numpy as np
from PIL import Image

from tests.commands import run

PAGE = (pathlib.Path(__file__).resolve().parents[1] / "docs/tables.md").read_text(encoding="utf-8")


def test_a_reader_of_the_page_trains_on_a_table(tmp_path, monkeypatch, capfd):
    for index in range(40):
        path = tmp_path / "photos" / ("cats", "dogs")[index % 2] / f"black, white {index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 128, [40, 32, 3], np.uint8) + 127 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert len(lines) == 4 and len(PAGE.splitlines()) <= 60
    for line in lines:
        argv, _, target = line.partition(" > ")
        command, *flags = shlex.split(argv)[2:]
        short = ["--train_steps=2", "--jit=off"] if command.endswith(".train") else []
        with contextlib.ExitStack() as stack:
            if target:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(target.strip(), "w"))))
            assert run(command.removeprefix("cct_tf."), *flags, *short) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert err == "" and "table: 32 train, 8 validation" in out and "8 images" in out
    assert (tmp_path / "photos.csv").read_text().splitlines()[:2] == ["path,label", '"cats/black, white 0.jpg",cats']
    assert (tmp_path / "preview.png").exists()
