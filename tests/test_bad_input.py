"""Wrong input that needs no TensorFlow to see: one line on stderr that names the flag or file, exit status 2.

The whole table runs in one process that cannot import TensorFlow (tests/without_tensorflow.py); a few cases run again
as a user would run them.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cct_tf.runs import run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.settings import config
from tests.bad_input_cases import FINE, FINISHED, SPACES, TABLE, TABLE_FILES
from tests.convert import torch_files

REPO = Path(__file__).resolve().parents[1]
SECONDS = 3.0  # of processor time, for other work may slow the clock; promised: about 1
IMAGE = bytes.fromhex("89504e470d0a1a0a")  # enough of a PNG for a listing, which decodes nothing


def _write_tree(root, files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGE)


def _write_archives(scene):
    x, y = np.zeros([6, 8, 8, 3], np.uint8), np.array([0, 1, 2, 0, 1, 2])
    whole = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    wrong = {"float": {"x_train": x / 255.0}, "five": {"x_train": np.zeros([6, 8, 8, 5], np.uint8)},
             "wide": {"x_train": x.astype(np.uint16)},
             "fewer": {"y_train": y[:5]}, "negative": {"y_train": y - 1}, "beyond": {"y_test": y + 5},
             "gap": {"y_train": y * 2}, "pickled": {"y_train": np.array([{}] * 6, object)}}
    for name, part in wrong.items():
        np.savez(scene / f"{name}.npz", **(whole | part))
    several = np.eye(3, dtype=int)[y]
    wrong = {"two": ((3, 1), 2), "half": ((3, 1), 0.5), "text": ((0, 0), "yes"), "unseen": ((slice(None), 2), 0)}
    for name, (place, value) in wrong.items():
        labels = several.astype({"half": float, "text": "U3"}.get(name, int))
        labels[place] = value
        np.savez(scene / f"{name}.npz", **(whole | {"y_train": labels, "y_test": several}))
    np.savez(scene / "narrow.npz", **(whole | {"y_train": several, "y_test": several[:, :2]}))
    np.savez(scene / "whole.npz", **whole)
    np.savez(scene / "key.npz", **{key: value for key, value in whole.items() if key != "y_test"})
    np.savez(scene / "chest.npz", train_images=x, train_labels=np.ones([6, 14], np.uint8), test_images=x,
             test_labels=np.ones([6, 14], np.uint8))
    (scene / "cut.npz").write_bytes((scene / "gap.npz").read_bytes()[:-200])


def _write_run(workdir, fingerprint="a" * 64, **changes):
    """A finished run as far as its records tell: two checkpoints and the best."""
    settings = config.from_dict(FINISHED | {"workdir": str(workdir)} | changes)
    for name, step in (("checkpoints", 2), ("checkpoints", 4), ("best", 4)):
        folder = workdir / name / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "weights.index").write_bytes(b"index")
        (folder / "weights.data-00000-of-00001").write_bytes(b"data")
        resolved = Resolved(8, (), {"train": 1438, "test": 359}, mean=(0.5,), std=(0.5,), fingerprint=fingerprint)
        run_record.write_record(folder, run_record.Record(
            settings.as_dict(), resolved, step, RunStatus(step, {"step": step, "top1": 0.5, "loss": 1.0}), step == 4,
            {}))


def _write_weights(scene):
    """A state dict of one tensor, one that tries to run something, and a folder of converted weights."""
    torch_files.write(scene / "weights.pth", {"classifier.fc.weigth": np.ones([3, 4], np.float32)}, "zip")
    system = torch_files.call(torch_files.name("os", "system"), "true")
    (scene / "code.pth").write_bytes(torch_files.legacy_bytes({"a": system}, {}))
    folder = scene / "converted/best/step_00000000"
    folder.mkdir(parents=True)
    run_record.write_record(folder, run_record.Record(config.from_dict({"workdir": "x"}).as_dict(),
                                                      Resolved(32, (), {}), 0, RunStatus(), False, {}))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder of wrong files."""
    folder = tmp_path_factory.mktemp("scene")
    for name in ("empty", "nested"):
        (folder / name).mkdir()
    (folder / "empty.keras").write_bytes(b"")
    (folder / "odd/best/step_00000004/run.json").mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("none")
    (folder / "binary.cfg").write_bytes(bytes(range(128, 256)))
    (folder / "words.cfg").write_text("# two lines\nepochs 3\n")
    (folder / "circle.cfg").write_text("--flagfile=nested/back.cfg\n")
    (folder / "nested/back.cfg").write_text("--flagfile=../circle.cfg\n")
    (folder / "self.cfg").write_text("--flagfile=self.cfg\n")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "comment.cfg").write_text("--batch_size=0  # none at all\n")
    (folder / "nested/outer.cfg").write_text("--flagfile=inner.cfg\n")
    (folder / "nested/inner.cfg").write_text("--seed=one\n")
    (folder / "nested/typo.cfg").write_text("--lerning_rate=1\n")
    _write_tree(folder, ["one/cat/1.png", "hollow/cat/1.png", "surprise/test/bird/1.png", "surprise/test/cat/1.png"])
    _write_tree(folder, [f"{root}/train/{name}/1.png" for root in ("surprise", "untested") for name in ("cat", "dog")])
    _write_tree(folder, [f"single/{name}/1.png" for name in ("cat", "dog", "owl")])
    (folder / "hollow/dog").mkdir()
    _write_archives(folder)
    for name, text in SPACES.items():
        (folder / name).write_text(text)
    for name, text in TABLE_FILES.items():
        (folder / name).write_text(text.replace("{img}", "untested/train/cat").replace("|", "\n"))
    _write_weights(folder)
    for name, entry in (("bare", "config.json"), ("other", "cct_tf.json")):
        with zipfile.ZipFile(folder / f"{name}.keras", "w") as archive:
            archive.writestr(entry, "{}")
    described = {"classes": ["a", "b"], "image_size": 8, "crop_pct": 1.0, "mean": [0.5], "std": [0.5],
                 "model": "cct_2_3x1_8", "checkpoint": "step_00000001", "step": 1, "weights": "raw", "quantize": "none",
                 "cct_tf": "1", "channels": 1}
    with zipfile.ZipFile(folder / "grey.keras", "w") as archive:
        archive.writestr("cct_tf.json", json.dumps({"format": 1} | described))
    (folder / "served").mkdir()
    (folder / "served/saved_model.pb").write_bytes(b"")
    for name in ("done", "damaged", "used"):
        _write_run(folder / name)
    _write_run(folder / "other", "b" * 64, keep_checkpoints=4)
    (folder / "net.py").write_text("def build(num_classes):\n    return None\n")
    _write_run(folder / "own", model=f"{folder}/net.py:build", image_size=8)
    _write_run(folder / "several", dataset="npz", task="multilabel")
    _write_run(folder / "folder", dataset="folder", data_dir=str(folder / "surprise"))
    for name, seed in (("one_split", 0), ("other_split", 1)):
        _write_run(folder / name, validation_fraction=0.1, split_seed=seed)
    for number in (1, 2):
        _write_run(folder / f"fold_{number}", fold=f"{number}/5")
    (folder / "damaged/checkpoints/step_00000004/weights.index").write_bytes(b"inDex")
    (folder / "damaged/checkpoints/step_00000002/run.json").write_text('{"format": 1, "con')
    return folder


@pytest.fixture(scope="module")
def locked_folder():
    """A folder that this user, or `nobody` where this user is root, may not write to. Beside it, closed: nor read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "locked"
        path.mkdir(mode=0o555)
        path.with_name("closed").mkdir(mode=0o000)
        os.chmod(folder, 0o755)
        yield path


def _environment(name, words):
    return {"KERAS_BACKEND": name} if words[0] == "KERAS_BACKEND" else {}


@pytest.fixture(scope="module")
def outcomes(scene, locked_folder):
    """{name of the case: what happened}, of the whole table."""
    cases = [{"module": f"cct_tf.{module}", "argv": arguments.format(scene=scene, locked=locked_folder).split(),
              "env": _environment(name, words), "as_nobody": "{locked}" in arguments and os.geteuid() == 0}
             for name, module, arguments, *words in TABLE]
    (scene / "busy").mkdir()
    with contextlib.ExitStack() as stack:
        for name, process in (("busy", "4711"), ("used", "4712")):
            lock = stack.enter_context(open(scene / name / ".lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(process)
            lock.flush()
        environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        run = subprocess.run([sys.executable, str(REPO / "tests/without_tensorflow.py")], input=json.dumps(cases),
                             capture_output=True, text=True, env=environment | {"PYTHONPATH": str(REPO)}, check=True)
    assert run.stderr == ""
    return dict(zip((case[0] for case in TABLE), json.loads(run.stdout), strict=True))


def _ids(table):
    return [case[0] for case in table]


@pytest.mark.parametrize("case", TABLE[:-len(FINE)], ids=_ids(TABLE[:-len(FINE)]))
def test_wrong_input_is_one_line_and_status_2(case, outcomes, scene, locked_folder):
    name, _, _, *words = case
    outcome = outcomes[name]
    assert outcome["status"] == 2, outcome
    assert outcome["err"].startswith("error: ") and outcome["err"].count("\n") == 1, outcome["err"]
    for word in words:
        assert word.format(scene=scene, locked=locked_folder) in outcome["err"]


@pytest.mark.parametrize("case", FINE, ids=_ids(FINE))
def test_what_is_no_error_says_so_on_stdout(case, outcomes):
    name, _, _, *words = case
    outcome = outcomes[name]
    assert (outcome["status"], outcome["err"]) == (0, ""), outcome
    for word in words:
        assert word in outcome["out"]


def test_names_are_unique():
    assert len({case[0] for case in TABLE}) == len(TABLE)


def test_every_answer_is_quick(outcomes):
    assert {name: outcome["seconds"] for name, outcome in outcomes.items() if outcome["seconds"] > SECONDS} == {}


def test_a_refused_run_leaves_no_folder_and_no_change(outcomes, scene):
    assert not (scene / "new").exists()
    names = {path.name for path in (scene / "damaged/checkpoints").iterdir()}
    assert names == {"step_00000002", "step_00000004"}  # or the next start would take the folder for a new run


def test_help_lists_every_flag(outcomes):
    for name in config.FIELDS:
        assert f"--{name}" in outcomes["help"]["out"] or f"--[no]{name}" in outcomes["help"]["out"]


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """A folder for PYTHONPATH with packages that end the process when they are imported."""
    folder = tmp_path_factory.mktemp("path")
    for name in ("tensorflow", "keras"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    return folder


@pytest.mark.parametrize("arguments, status, words", [
    (["--workdir=new", "--batch_siez=3"], 2, ["--batch_siez", "batch_size"]),
    (["smoke.cfg"], 2, ["smoke.cfg", "--flagfile"]),
    (["--help"], 0, []),
])
def test_the_command_itself_answers_before_tensorflow(arguments, status, words, no_tensorflow, tmp_path):
    run = subprocess.run([sys.executable, "-m", "cct_tf.train", *arguments], cwd=tmp_path, capture_output=True,
                         text=True, env=os.environ | {"PYTHONPATH": f"{no_tensorflow}{os.pathsep}{REPO}"},
                         timeout=60)
    assert run.returncode == status
    assert run.stderr.count("\n") == (1 if status else 0)
    for word in words:
        assert word in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_comes_from(tmp_path):
    run = subprocess.run([sys.executable, "-m", "cct_tf.train", "--debug", "--seed=x"], cwd=tmp_path, text=True,
                         capture_output=True, env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=60)
    assert run.returncode == 2
    assert "Traceback" in run.stderr and run.stderr.splitlines()[-1].startswith("error: --seed")
