"""--backup_dir: a copy of the work folder, from which an empty one goes on."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from fsspec.implementations.memory import MemoryFileSystem

from cct_tf.errors import Interrupted, OutsideFault, UserError
from cct_tf.runs.workdir import Workdir
from cct_tf.training import backup, loop
from tests.commands import call
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")
PLACE = "ram://copies"


@pytest.fixture
def place():
    if tf.io.gfile.exists(PLACE):
        tf.io.gfile.rmtree(PLACE)
    return PLACE


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run/checkpoints/step_1").mkdir(parents=True)
    (tmp_path / "run/config.cfg").write_text("--epochs=1\n")
    (tmp_path / "run/.lock").write_text("1")
    (tmp_path / "run/checkpoints/step_1/run.json").write_text("{}")
    (tmp_path / "run/checkpoints/step_1/data").write_bytes(bytes(range(256)) * 300)
    return Workdir(tmp_path / "run")


def _contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*"))
            if file.is_file() and not file.name.startswith(".")}


def _copier(workdir, place):
    return backup.Backup(workdir, place, lambda line: None)


def test_an_empty_folder_gets_the_newest_copy(folder, place, tmp_path):
    copier = _copier(folder, place)
    copier.copy()
    (folder.path / "config.cfg").write_text("--epochs=2\n")
    shutil.rmtree(folder.path / "checkpoints/step_1")
    copier.copy()
    empty = Workdir(tmp_path / "new")
    assert backup.restore(empty, place) == 1
    assert _contents(empty.path) == {"config.cfg": b"--epochs=2\n"} == _contents(folder.path)


def test_a_place_of_fsspec_or_on_a_mounted_disk_will_do(folder, tmp_path):
    for number, place in enumerate(("memory://copies", str(tmp_path / "mounted"))):
        copier = _copier(folder, place)
        copier.copy()
        copier.copy()
        copier.copy()
        assert len(backup._lists(place)) == 2
        empty = Workdir(tmp_path / f"new{number}")
        assert backup.restore(empty, place) == 3 and _contents(empty.path) == _contents(folder.path)


def test_a_place_that_does_not_answer_is_not_taken_for_an_empty_one(folder, tmp_path, monkeypatch):
    def away(*_, **__):
        raise ConnectionError("the bucket is away")

    monkeypatch.setattr(MemoryFileSystem, "info", away)
    with pytest.raises(OutsideFault, match="--backup_dir: memory://copies can't be read .the bucket is away"):
        backup.restore(Workdir(tmp_path / "new"), "memory://copies")


def test_contents_are_stored_once_and_go_when_no_kept_list_names_them(folder, place):
    copier = _copier(folder, place)
    copier.copy()
    first = set(tf.io.gfile.listdir(f"{place}/files"))
    copier.copy()
    assert set(tf.io.gfile.listdir(f"{place}/files")) == first and len(first) == 3
    for text in ("a", "b", "c"):
        (folder.path / "config.cfg").write_text(text)
        copier.copy()
    left = {name.partition("-")[2] for name in tf.io.gfile.listdir(f"{place}/files")}
    assert left == {"config.cfg", "run.json", "data"} and len(tf.io.gfile.listdir(f"{place}/files")) == 4
    again = _copier(folder, place)  # another process goes on with what is there
    again.copy()
    assert again._number == copier._number + 1


@pytest.mark.parametrize("damage", ["list", "file"])
def test_a_copy_that_was_cut_short_or_damaged_is_never_seen(folder, place, tmp_path, damage):
    copier = _copier(folder, place)
    copier.copy()
    expected = _contents(folder.path)
    (folder.path / "config.cfg").write_text("--epochs=2\n")
    copier.copy()
    newest = f"{place}/list_{copier._number:08d}.json"
    if damage == "file":
        listed = json.loads(tf.io.gfile.GFile(newest).read())["files"]
        newest = f"{place}/files/{listed['config.cfg']}"
    with tf.io.gfile.GFile(newest, "w") as file:
        file.write("{")
    backup.restore(Workdir(tmp_path / "new"), place)
    assert _contents(tmp_path / "new") == expected


def test_a_copy_without_a_whole_list_is_an_error_and_none_at_all_is_a_new_run(folder, place, tmp_path):
    assert backup.restore(Workdir(tmp_path / "new"), place) == 0
    copier = _copier(folder, place)
    copier.copy()
    for name in tf.io.gfile.listdir(f"{place}/files"):
        tf.io.gfile.remove(f"{place}/files/{name}")
    with pytest.raises(OutsideFault, match="--backup_dir: expected a whole copy in ram://copies"):
        backup.restore(Workdir(tmp_path / "new"), place)


def test_a_copy_that_fails_is_said_once_and_tried_again(folder, place, monkeypatch):
    said, tries, original = [], [], backup._copied

    def faulty(*arguments):
        tries.append(arguments)
        if len(tries) < 4:
            raise tf.errors.UnavailableError(None, None, "the bucket is away")
        original(*arguments)

    monkeypatch.setattr(backup, "_copied", faulty)
    monkeypatch.setattr(backup, "_FIRST_WAIT", 0.02)
    copier = backup.Backup(folder, place, said.append)
    with copier:
        copier.changed()
        for _ in range(2000):
            if len(tries) >= 6:
                break
            copier._thread.join(0.05)
    assert len(said) == 1 and "the bucket is away" in said[0]
    assert backup._lists(place)


def test_a_last_copy_that_fails_is_said(folder, place, monkeypatch):
    def away(*_):
        raise OSError("the bucket is away")

    monkeypatch.setattr(backup, "_copied", away)
    said = []
    with backup.Backup(folder, place, said.append):
        pass
    assert "failed" in said[0] and said[1] == f"--backup_dir: the last copy to {place} is not complete"


def test_a_place_without_a_file_system_is_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match="--backup_dir: expected a file system that .*, found 'nope://x'"):
        backup.check("nope://x")
    status, _, err = call(capfd, "train", "--dataset=digits", "--model=cct_2_3x1_8", f"--workdir={tmp_path}/run",
                          "--backup_dir=nope://x")
    assert status == 2 and err.startswith("error: --backup_dir") and err.count("\n") == 1


def test_a_preempted_run_whose_folder_is_lost_goes_on_to_the_same_bits(tmp_path, place, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    tiny.train(tmp_path / "whole")
    training = tiny.assemble(tmp_path / "lost")
    copier = _copier(training.workdir, place)
    training._save._saved = copier.changed
    with pytest.raises(Interrupted), copier:
        training.run(tiny.StopAt(training, 3))
    shutil.rmtree(tmp_path / "lost")
    found = Workdir(tmp_path / "found")
    assert backup.restore(found, place) > 3
    tiny.train(tmp_path / "found")
    assert tiny.records(tmp_path / "found") == tiny.records(tmp_path / "whole")
    last, expected = (tiny.tensors(tmp_path / name) for name in ("found", "whole"))
    assert all(np.array_equal(last[name], expected[name]) for name in expected)
