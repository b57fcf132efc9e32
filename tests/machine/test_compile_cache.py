"""The compilation cache: what TensorFlow is given, and that nothing found in the folder can harm a run."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import tensorflow as tf

from cct_tf.errors import UserError
from cct_tf.machine import compile_cache

REPO = Path(__file__).resolve().parents[2]
NAME = "xla_compile_cache__1__2__XLA_CPU_JIT.pb"

COMPUTED = """
function = tf.function(lambda x: tf.nn.softmax(x @ x, axis=0) @ x, jit_compile=True)
image = tf.reshape(tf.range(64.0), [8, 8]) / 63.0
found = function(image).numpy().tobytes().hex()
"""
# Compiles one function after tracing argv[2] others, with the folder argv[1]; prints what it computes.
PROGRAM = f"""
import os, sys
from cct_tf.machine import compile_cache, runtime
runtime.start_tensorflow(sys.argv[1], print)
import tensorflow as tf
for _ in range(int(sys.argv[2])):
    tf.function(lambda x: x + 1.0)(tf.constant(1.0))
compile_cache.steady_names()
{COMPUTED}
print(found)
"""


def _store(folder, data, name=NAME, used=None):
    path = folder / f"{name}.{zlib.crc32(data):08x}"
    path.write_bytes(data)
    if used is not None:
        os.utime(path, (used, used))
    return path


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_process_sees_whole_entries_only_and_leaves_none_of_its_own(tmp_path):
    whole = _store(tmp_path, b"program")
    damaged = _store(tmp_path, b"another", "damaged.pb")
    damaged.write_bytes(b"anotheR")
    truncated = _store(tmp_path, b"a third one", "truncated.pb")
    truncated.write_bytes(b"a third")
    cache = compile_cache.Cache(tmp_path)
    assert {path.name: path.read_bytes() for path in cache.private.iterdir()} == {NAME: b"program"}
    cache.close()
    assert _names(tmp_path) == [whole.name]


def test_what_is_compiled_is_kept_under_its_checksum_even_if_the_process_is_killed_later(tmp_path):
    cache = compile_cache.Cache(tmp_path)
    (cache.private / NAME).write_bytes(b"program")
    (cache.private / f"{NAME}.tmp").write_bytes(b"prog")  # TensorFlow writes under another name, then renames
    cache.keep()
    assert [path.name for path in compile_cache.entries(tmp_path)] == [f"{NAME}.{zlib.crc32(b'program'):08x}"]
    cache.close()


def test_pruning_by_one_process_takes_nothing_from_another(tmp_path):
    path = _store(tmp_path, b"program")
    first = compile_cache.Cache(tmp_path)
    compile_cache.prune(tmp_path, most_bytes=0)
    assert not path.exists() and (first.private / NAME).read_bytes() == b"program"
    first.close()


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    paths = [_store(tmp_path, bytes([index]) * 100, f"{index}.pb", used=used)
             for index, used in enumerate((3e8, 1e8, 2e8))]
    compile_cache.prune(tmp_path, most_bytes=299)
    assert compile_cache.entries(tmp_path) == sorted([paths[0], paths[2]])
    compile_cache.prune(tmp_path, most_bytes=100)
    assert compile_cache.entries(tmp_path) == [paths[0]]


def test_reading_an_entry_counts_as_use(tmp_path):
    path = _store(tmp_path, b"program", used=1e8)
    other = _store(tmp_path, b"other", "other.pb", used=2e8)
    cache = compile_cache.Cache(tmp_path)
    (cache.private / NAME).read_bytes()
    if os.stat(path).st_atime == 1e8:
        pytest.skip("this file system does not note when a file is read")
    cache.close()
    assert path.stat().st_mtime > 2e8 == other.stat().st_mtime


def test_folders_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    living = compile_cache.Cache(tmp_path)
    (tmp_path / "process-killed").mkdir()
    (tmp_path / "process-killed" / NAME).write_bytes(b"prog")
    (tmp_path / "process-killed.lock").touch()
    compile_cache.Cache(tmp_path).close()
    assert _names(tmp_path) == [living.private.name, f"{living.private.name}.lock"]
    living.close()


def test_a_folder_deleted_in_mid_run_does_no_harm(tmp_path):
    cache = compile_cache.Cache(tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "gone")
    cache.keep()
    cache.close()
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_makes_the_cache_read_only(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", full)
    cache = compile_cache.Cache(tmp_path)
    assert "--tf_xla_persistent_cache_read_only=true" in cache.flags
    assert _names(cache.private) == []
    cache.close()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        compile_cache.Cache(tmp_path)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("value", ["on", "true", "", "cache"])
def test_a_word_is_no_folder(value):
    with pytest.raises(UserError, match=f"^--compile_cache: expected auto, off, or .* found '{value}'$"):
        compile_cache.check(value)


def _start(monkeypatch, value, **environment):
    """(TF_XLA_FLAGS, warnings) after `start` in a process that has not imported TensorFlow."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(compile_cache, "_cache", None)
    monkeypatch.setenv("TF_XLA_FLAGS", "")  # what `start` sets goes with the test
    monkeypatch.setattr(compile_cache.atexit, "register", lambda function: None)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    warnings = []
    compile_cache.start(value, warnings.append)
    if compile_cache._cache is not None:
        compile_cache._cache.close()
    return os.environ["TF_XLA_FLAGS"], warnings


def test_the_users_flags_stay_and_his_cache_wins(tmp_path, monkeypatch):
    flags, _ = _start(monkeypatch, f"{tmp_path}/a", TF_XLA_FLAGS="--tf_xla_max_cluster_size=9")
    assert flags.startswith(f"--tf_xla_max_cluster_size=9 --tf_xla_persistent_cache_directory='{tmp_path}/a/tensorflow")
    own = "--tf_xla_persistent_cache_directory=/his"
    assert _start(monkeypatch, f"{tmp_path}/b", TF_XLA_FLAGS=own) == (own, [])
    assert _start(monkeypatch, f"{tmp_path}/b", TF_XLA_FLAGS="flags.txt") == ("flags.txt", [])
    assert not (tmp_path / "b").exists()


def test_auto_is_in_the_users_cache_folder_and_off_is_nowhere(tmp_path, monkeypatch):
    flags, _ = _start(monkeypatch, "auto", XDG_CACHE_HOME=str(tmp_path))
    assert flags.startswith(f"--tf_xla_persistent_cache_directory='{tmp_path}/cct_tf/xla/tensorflow-")
    assert _start(monkeypatch, "off") == ("", [])


def test_a_folder_that_cannot_be_used_is_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    flags, (warning,) = _start(monkeypatch, f"{tmp_path}/file")
    assert flags == "" and warning.startswith(f"--compile_cache: {tmp_path}/file can't be used (Not a directory)")


def test_other_processors_and_flags_of_xla_have_folders_of_their_own(monkeypatch):
    names = {compile_cache._build()}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    names.add(compile_cache._build())
    monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    names.add(compile_cache._build())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    names.add(compile_cache._build())
    assert len(names) == 4


def _compile(folder, traced_before):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(traced_before)], cwd=REPO, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(REPO)}, check=True)
    return done.stdout


@pytest.mark.slow
def test_another_process_finds_the_program_and_computes_the_same_bits(tmp_path):
    without = {"tf": tf}
    exec(COMPUTED, without)  # this process has no cache
    compiled = _compile(tmp_path, 1)
    (folder,) = tmp_path.iterdir()
    (entry,) = folder.iterdir()
    # A hit, though more functions were traced before: nothing is added. Damage costs a compilation and nothing else.
    found = _compile(tmp_path, 4)
    assert list(folder.iterdir()) == [entry]
    entry.write_bytes(entry.read_bytes()[:-100])
    again = _compile(tmp_path, 1)
    assert without["found"] == compiled.strip() == found.strip() == again.strip()
    assert f"{zlib.crc32(next(folder.iterdir()).read_bytes()):08x}" == next(folder.iterdir()).suffix[1:]
