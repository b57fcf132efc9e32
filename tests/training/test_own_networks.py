"""docs/own_networks.md: its command, and what a run with a network of a user's own keeps of the promises."""

import pathlib
import re
import shlex
import shutil

import keras
import numpy as np
import pytest

import cct_tf
from cct_tf.assembly import own
from cct_tf.errors import Interrupted, UserError
from cct_tf.export import formats
from cct_tf.training import loop
from tests.commands import call, run
from tests.training import tiny

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/own_networks.md").read_text(encoding="utf-8")
CODE, = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
NETWORK = {"model": "./net.py:build", "dropout_rate": None, "attention_dropout_rate": None, "drop_path_rate": None,
           "train_steps": 8, "test_at_end": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's network, whose command was run there."""
    path = tmp_path_factory.mktemp("page")
    (path / "net.py").write_text(CODE)
    command, = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    name, *flags = shlex.split(command.replace("\\\n", " "))[2:]
    assert len(PAGE.splitlines()) <= 60 and name == "cct_tf.train" and "--workdir=runs/net" in flags
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert run("train", *flags, "--jit=off") == 0
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_reader_of_the_page_has_a_network_that_learnt(here, capfd):
    status, out, err = call(capfd, "evaluate", "--workdir=runs/net", "--json")
    assert status == 0, err
    assert float(re.search(r'"top1": ([\d.]+)', out)[1]) > 0.8
    (here / "photo.png").write_bytes(_digit())
    status, out, err = call(capfd, "predict", "--workdir=runs/net", "photo.png")
    assert status == 0 and re.search(r"photo\.png +3 ", out), err
    model = cct_tf.load("runs/net").model()
    assert isinstance(model, keras.Model) and type(model).__name__ == "Net"


def _digit():
    """The bytes of a picture of a 3."""
    import io

    from PIL import Image
    from sklearn.datasets import load_digits
    digits, file = load_digits(), io.BytesIO()
    image = digits.images[np.flatnonzero(digits.target == 3)[0]]
    Image.fromarray((image * 15.9).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def _exported(name, capfd):
    """The path of the page's network in a format, written once; the test is in the folder."""
    output = f"exported_{name}{formats.FORMATS[name].suffix}"
    if not pathlib.Path(output).exists():
        status, out, err = call(capfd, "export", "--workdir=runs/net", f"--format={name}", f"--output={output}",
                                "--check_images=64")
        assert status == 0 and "same prediction on 100.00%" in out, err
    return output


@pytest.mark.parametrize("name", formats.FORMATS)
def test_it_is_exported(here, name, capfd):
    kind = formats.FORMATS[name]
    for package in kind.writes_with:
        pytest.importorskip(package)
    output = _exported(name, capfd)
    (here / "photo.png").write_bytes(_digit())
    status, out, err = call(capfd, "predict", f"--exported={output}", "photo.png")
    assert status == 0 and re.search(r"photo\.png +3 ", out), err


def test_a_keras_file_without_its_code_is_one_line(here, tmp_path, monkeypatch, capfd):
    shutil.copy(_exported("keras", capfd), tmp_path / "net.keras")
    (tmp_path / "photo.png").write_bytes(_digit())
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capfd, "predict", "--exported=net.keras", "photo.png")
    assert (status, err.strip().splitlines()[-1]) == (
        2, "error: --exported: expected a Python file, found ./net.py (No such file or directory)")


def test_a_command_says_that_the_code_has_changed(here, capfd):
    (here / "photo.png").write_bytes(_digit())
    (here / "net.py").write_text(CODE + "\n")
    status, _, err = call(capfd, "predict", "--workdir=runs/net", "photo.png")
    (here / "net.py").write_text(CODE)
    assert status == 0 and err.startswith("warning: ./net.py:build has changed since runs/net/best/step_"), err


def test_replicas_micro_batches_and_xla_change_nothing(here, tmp_path):
    for name, more in (("one", {}), ("two", {"num_replicas": 2, "accumulate_steps": 2, "jit": "on"})):
        tiny.train(tmp_path / name, **NETWORK | more)
    one, two = ([record["train/loss"] for record in tiny.records(tmp_path / name, "train/")] for name in ("one", "two"))
    assert len(one) == 8
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bits_and_names_a_change(here, tmp_path, monkeypatch, capsys):
    more = {"ema_decay": 0.9, "optimizer": "muon"}
    trainer = tiny.Trainer(tmp_path / "trainer", **NETWORK | more)
    trainer.train(tmp_path / "whole")
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = trainer.assemble(tmp_path / "stopped")
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    with pytest.raises(UserError, match="--model"):
        tiny.assemble(tmp_path / "stopped", **NETWORK | more | {"model": "./net.py:Net"})
    tiny.train(tmp_path / "stopped", **NETWORK | more)
    assert tiny.records(tmp_path / "stopped") == tiny.records(tmp_path / "whole")
    settings, resolved = tiny.settings(tmp_path / "whole", **NETWORK), training.resolved
    assert own.changes(settings, resolved) is None
    (here / "net.py").write_text(CODE + "\n")
    assert own.changes(settings, resolved) == "./net.py:build"
    (here / "net.py").write_text(CODE)
