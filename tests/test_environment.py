"""Tests use no GPU, and leave nothing in the machine's temporary folder; nor does a command that leaves at once."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf

from tests import environment

REPO = Path(__file__).resolve().parents[1]
LEAVE = """
import pathlib, sys, threading, types
from cct_tf.machine import process_exit
for name in ("__autograph_generated_fileab12", "__autograph_generated_filecd34", "mine"):
    module = types.ModuleType(name)
    module.__file__ = f"{sys.argv[1]}/{name}.py"
    sys.modules[name] = module
    if name[-1] != "4":  # removed by somebody else
        pathlib.Path(module.__file__).touch()
thread = threading.Thread(target=process_exit.at_once, args=(75,))
thread.start()
thread.join()
print("still here")
"""


def test_no_gpu_is_seen_by_the_tests_and_by_what_they_start():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1" and tf.config.list_physical_devices("GPU") == []


@pytest.mark.parametrize("given", ["0,1", None])
def test_the_environment_hides_gpus_and_gives_processes_a_temporary_folder_of_their_own(monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if given:
        os.environ["CUDA_VISIBLE_DEVICES"] = given
    folder = environment.prepare()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    monkeypatch.setattr(environment, "GIVEN", given)
    code = "import tempfile; print(tempfile.mkdtemp())"
    made = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert os.path.dirname(made.stdout.strip()) == folder == tempfile.gettempdir()
    environment.clear(folder)
    assert not os.path.exists(folder)
    environment.show_gpus()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given


@pytest.mark.parametrize(("expression", "expected"), [
    ("gpu", True), ("gpu and not slow", True), ("", False), ("not gpu", False), ("not slow", False)])
def test_gpus_are_shown_to_those_tests_that_ask_for_them(expression, expected):
    assert environment.wants_gpus(expression) == expected


def test_a_process_that_leaves_at_once_removes_the_files_of_autograph(tmp_path):
    done = subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(REPO)},
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
