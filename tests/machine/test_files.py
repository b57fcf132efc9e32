"""Files elsewhere: TensorFlow's `ram://`, fsspec's `memory://`, and a file system that is at fault."""

import errno
import os
import sys
import threading

import fsspec
import pytest
import tensorflow as tf
from fsspec.implementations.memory import MemoryFileSystem

from cct_tf.errors import OutsideFault, UserError
from cct_tf.machine import files

CONTENTS = bytes(range(256)) + b"\0\0"  # zeros at the end stay


class Faulty(MemoryFileSystem):
    """`faulty://`, whose every answer is the error `raised`, or waits for the event `waits`."""

    protocol = "faulty"
    raised, waits, cachable = None, None, False

    def _fail(self, *_, **__):
        if self.waits:
            self.waits.wait()
        raise self.raised

    info = ls = cat_file = _open = makedirs = _fail


@pytest.fixture
def faulty(monkeypatch):
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    return lambda name, value: monkeypatch.setattr(Faulty, name, value)


@pytest.fixture(params=["ram", "memory"])
def folder(request):
    place = f"{request.param}://files"
    if request.param == "ram" and tf.io.gfile.exists(place):
        tf.io.gfile.rmtree(place)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return place


@pytest.fixture
def filled(folder, tmp_path):
    """A folder with b/y.bin, b/deep/z.bin and x.bin."""
    for name in ("x.bin", "b/y.bin", "b/deep/z.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CONTENTS + name.encode())
    files.send(str(tmp_path), folder)
    return folder


def test_remote_files_are_read_as_local_ones(filled, tmp_path):
    name = "b/y.bin"
    for path in (f"{filled}/{name}", f"{filled}/{name}".encode()):
        assert files.read(path) == (tmp_path / name).read_bytes() and files.read(path, 3) == CONTENTS[:3]
    with files.open(f"{filled}/{name}", encoding="latin-1", newline="") as file:
        assert file.read().encode("latin-1") == (tmp_path / name).read_bytes()
    found = files.stat(f"{filled}/{name}")
    assert found.st_size == len(CONTENTS) + len(name) and not found.is_dir()
    for path, kind in ((f"{filled}/x.bin", "file"), (f"{filled}/b", "folder"), (f"{filled}/none", None)):
        assert (files.is_file(path), files.is_dir(path), files.exists(path)) == (kind == "file", kind == "folder",
                                                                                 kind is not None)


def test_a_remote_folder_lists_as_a_local_one(filled, tmp_path):
    for below in ("", "/b"):
        with files.scandir(filled + below) as remote, files.scandir(f"{tmp_path}{below}") as local:
            assert {(each.name, each.is_dir(), each.path.removeprefix(filled)) for each in remote} == {
                (each.name, each.is_dir(), each.path.removeprefix(str(tmp_path))) for each in local}
    assert files.glob(f"{filled}/b/*.bin") == [f"{filled}/b/y.bin"]


def test_what_is_not_there_is_an_error_of_the_system(filled):
    for ask in (files.read, files.stat, files.scandir):
        with pytest.raises(FileNotFoundError) as raised:
            ask(f"{filled}/none")
        assert raised.value.filename == f"{filled}/none" and raised.value.strerror == os.strerror(errno.ENOENT)


def test_a_copy_is_made_once_and_again_when_something_changed(filled, tmp_path):
    assert files.local(str(tmp_path)) == str(tmp_path)
    copy = files.local(filled)
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.bin")} == {
        name: open(f"{copy}/{name}", "rb").read() for name in ("x.bin", "b/y.bin", "b/deep/z.bin")}
    assert files.local(f"{filled}/") == copy
    (tmp_path / "longer.bin").write_bytes(CONTENTS * 2)
    files.send(str(tmp_path / "longer.bin"), f"{filled}/x.bin")
    again = files.local(filled)
    assert again != copy and open(f"{again}/x.bin", "rb").read() == CONTENTS * 2
    one = files.local(f"{filled}/x.bin")
    assert os.path.basename(one) == "x.bin" and open(one, "rb").read() == CONTENTS * 2
    with pytest.raises(UserError, match=f"^{filled}/x.bin: wrong$"), files.named(f"{filled}/x.bin", one):
        raise UserError(f"{one}: wrong")


def test_a_file_is_seen_whole_and_a_folder_by_its_last_file(folder, tmp_path, monkeypatch):
    for name in ("a", "mark", "z"):
        (tmp_path / name).write_bytes(b"1")
    sent, put = [], files._put
    monkeypatch.setattr(files, "_put", lambda *names: (sent.append(names[-1]), put(*names)))
    files.send(str(tmp_path), folder, last="mark")
    assert sent == [f"{folder}/a", f"{folder}/z", f"{folder}/mark"]

    def cut(system, source, target):
        with system.opened(target, "wb") as file:
            file.write(b"half")
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(files, "_put", cut)
    with pytest.raises(OSError, match="gone"):
        files.send(str(tmp_path / "a"), f"{folder}/a")
    assert files.read(f"{folder}/a") == b"1" and set(files.names(folder)) == {"a", "mark", "z"}


def test_names_of_folders():
    assert [files.dirname(path) for path in ("gs://b/x/y", "gs://b", "/a/b", "b")] == ["gs://b/x", "gs://", "/a", ""]
    assert files.realpath("s3://b/x/") == "s3://b/x" != files.realpath("gs://b/x")
    assert [files.by_tensorflow(path) for path in (None, "a", "gs://b", "s3://b")] == [False, False, True, False]


@pytest.mark.parametrize(("raised", "expected"), [
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), (OutsideFault, "--data_dir: .* reached .*refused")),
    (RuntimeError("a library's own"), (OutsideFault, "own.; the same command tries again")),
    (PermissionError("403"), (UserError, "--data_dir: expected .* credentials given here, found faulty://x .*403")),
    (tf.errors.PermissionDeniedError(None, None, "401"), (UserError, "credentials")),
    (tf.errors.UnavailableError(None, None, "503"), (OutsideFault, "503")),
    (FileNotFoundError("faulty://x"), None),
])
def test_the_first_answer_tells_what_is_wrong(faulty, raised, expected):
    faulty("raised", raised)
    if expected is None:
        files.check("--data_dir", "faulty://x")  # whoever reads it says that it is not there
        return
    with pytest.raises(expected[0], match=expected[1]):
        files.check("--data_dir", "faulty://x")


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_patience(faulty, monkeypatch):
    waits = threading.Event()
    faulty("waits", waits)
    faulty("raised", OSError(errno.EIO, "late"))
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with pytest.raises(OutsideFault, match="--output: expected an answer from faulty://x within 0.05 s"):
        files.check_folder("--output", "faulty://x")
    waits.set()


@pytest.mark.parametrize(("path", "words"), [
    ("nope://x", "--data_dir: expected a file system that TensorFlow or fsspec"),
    ("s3://x/y", "--data_dir: expected the package s3fs, which reads s3://")])
def test_schemes_that_nothing_reads(path, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=words):
        files.check("--data_dir", path)
