"""`cct_tf.checkpoints`, and that no damage to a checkpoint's files goes unseen. No TensorFlow needed."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cct_tf import checkpoints
from cct_tf.errors import UserError
from cct_tf.runs import inventory, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import config

REPO = Path(__file__).resolve().parents[1]
FILES = ("run.json", "weights.index", "weights.data-00000-of-00001")
PLACES = 300


def _write(folder, step, evaluated=True):
    """A checkpoint as far as its files tell, of random bytes in place of TensorFlow's."""
    path, luck = folder / f"step_{step:08d}", random.Random(step)
    path.mkdir(parents=True)
    for name, size in zip(FILES[1:], (1000, 5000), strict=True):
        (path / name).write_bytes(luck.randbytes(size))
    best = {"step": 4, "top1": 0.75, "loss": 1.0} if step >= 4 else None
    status = RunStatus(step if evaluated else 0, best)
    run_record.write_record(path, run_record.Record(config.Config().as_dict(), Resolved(8, (), {}, mean=(0.5,)), step,
                                                    status, step == 8, {"numpy": "2"}))
    return path


@pytest.fixture
def workdir(tmp_path):
    """A run of 8 steps: checkpoints at 2, 4, 6 (not evaluated) and 8, the best at 4."""
    for step in (2, 4, 6, 8):
        _write(tmp_path / "checkpoints", step, evaluated=step != 6)
    _write(tmp_path / "best", 4)
    return tmp_path


def _names(workdir):
    return sorted(str(path.relative_to(workdir)) for folder in ("checkpoints", "best")
                  for path in (workdir / folder).iterdir())


def _flip(path, place, bit):
    contents = bytearray(path.read_bytes())
    contents[place] ^= 1 << bit
    path.write_bytes(contents)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_seen_and_its_file_named(name, tmp_path):
    path, luck = _write(tmp_path, 4), random.Random(0)
    size = os.path.getsize(path / name)
    for place in [*range(50), *luck.sample(range(50, size), PLACES)]:  # run.json's own checksum comes first
        bit = luck.randrange(8)
        _flip(path / name, place, bit)
        with pytest.raises(run_record.Unreadable, match=name):
            run_record.read_record(path)
        _flip(path / name, place, bit)
    assert run_record.read_record(path).step == 4


def test_converted_weights_are_not_taken_for_evaluated_ones(tmp_path):
    """What `assembly.converted_run` writes: step 0, which is also the last evaluated step of what never was."""
    path = _write(tmp_path / "best", 0)
    entry, = inventory.take(Workdir(tmp_path), contents=True)
    assert (entry.path, entry.converted, entry.evaluated) == (path, True, False)


@pytest.mark.parametrize("contents", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_seen_also_without_reading_the_contents(name, contents, tmp_path):
    path = _write(tmp_path, 4)
    whole = (path / name).read_bytes()
    for size in {0, 1, len(whole) - 1, *random.Random(0).sample(range(len(whole)), PLACES)}:
        (path / name).write_bytes(whole[:size])
        with pytest.raises(run_record.Unreadable, match=name):
            run_record.read_record(path, contents)
    os.unlink(path / name)
    with pytest.raises(run_record.Unreadable, match=f"{name}: missing"):
        run_record.read_record(path, contents)


def test_a_record_of_before_it_had_a_checksum_is_read_and_with_a_wrong_one_is_not(tmp_path):
    path = _write(tmp_path, 4)
    data = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(data))  # the same content, not the same bytes
    with pytest.raises(run_record.Unreadable, match="not as it was written"):
        run_record.read_record(path)
    del data["checksum"]
    (path / "run.json").write_text(json.dumps(data))
    assert run_record.read_record(path).step == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(name, damage, workdir):
    file = workdir / "checkpoints/step_00000008" / name
    if damage == "flipped":
        _flip(file, 77, 3)
    else:
        file.write_bytes(file.read_bytes()[:77])
    warnings = []
    path, _ = run_record.newest_record(workdir / "checkpoints", warnings.append)
    assert path.name == "step_00000006"
    assert len(warnings) == 1 and str(file) in warnings[0]
    assert [path.name for path in run_record.list_set_aside(workdir / "checkpoints")] == ["step_00000008.corrupt"]


def test_a_list_says_of_each_what_it_is(workdir):
    os.utime(workdir / "checkpoints/step_00000006/weights.index", (1e9, 1e9))
    _flip(workdir / "checkpoints/step_00000002/weights.index", 0, 0)
    run_record.set_aside(workdir / "checkpoints/step_00000008")
    entries = inventory.take(Workdir(workdir), contents=True)
    assert [(entry.kind, entry.step) for entry in entries] == [
        ("checkpoint", 2), ("checkpoint", 4), ("checkpoint", 6), ("set aside", 8), ("best", 4)]
    damaged, evaluated, saved_only, _, best = entries
    assert damaged.damage == f"{damaged.path}/weights.index: not as it was written" and not damaged.evaluated
    assert evaluated.evaluated and evaluated.damage is None and evaluated.record.status.best["top1"] == 0.75
    assert not saved_only.evaluated and saved_only.saved == 1e9
    assert best.size == 6000 + os.path.getsize(best.path / "run.json")
    quick = inventory.take(Workdir(workdir), contents=False)  # of the same size, so not seen
    assert quick[0].damage is None


def test_a_checkpoint_that_a_run_removes_meanwhile_is_not_called_damaged(workdir, monkeypatch):
    read = run_record.read_record

    def removed(path, contents):
        if path.name == "step_00000002":
            inventory.checkpoint.remove(path)
        return read(path, contents)

    monkeypatch.setattr(run_record, "read_record", removed)
    assert [entry.step for entry in inventory.take(Workdir(workdir), True)] == [4, 6, 8, 4]


def _run(capsys, *argv):
    checkpoints.main(checkpoints.flags.parse(argv, checkpoints.FIELDS))
    return capsys.readouterr().out


def test_pruning_keeps_the_newest_whole_ones_and_the_best(workdir, capsys):
    flags = (f"--workdir={workdir}", "--prune=2")
    before = _names(workdir)
    out = _run(capsys, *flags, "--dry_run")
    assert out.count("would remove") == 2 and _names(workdir) == before and not (workdir / ".lock").exists()
    out = _run(capsys, *flags)
    assert out.count("\nremoved ") == 2
    assert _names(workdir) == ["best/step_00000004", "checkpoints/step_00000006", "checkpoints/step_00000008"]
    assert "nothing to remove" in _run(capsys, *flags)


def test_a_damaged_checkpoint_is_none_of_the_newest(workdir, capsys):
    """Or --prune=1 would leave nothing to go on from."""
    _flip(workdir / "checkpoints/step_00000008/weights.index", 9, 1)
    run_record.set_aside(workdir / "checkpoints/step_00000002")
    _run(capsys, f"--workdir={workdir}", "--prune=4")
    assert len(_names(workdir)) == 5  # fewer whole ones than that
    _run(capsys, f"--workdir={workdir}", "--prune=1")
    assert _names(workdir) == ["best/step_00000004", "checkpoints/step_00000006", "checkpoints/step_00000008"]


def test_nothing_is_removed_while_a_run_holds_the_folder(workdir, capsys):
    before = _names(workdir)
    with Workdir(workdir).locked(print), pytest.raises(UserError, match="in use by process"):
        _run(capsys, f"--workdir={workdir}", "--prune=1")
    assert _names(workdir) == before


def test_the_command_as_a_process_gives_one_object(workdir, tmp_path_factory):
    """In a Python in which TensorFlow's import ends the process."""
    barrier = tmp_path_factory.mktemp("path")
    for name in ("tensorflow", "keras"):
        (barrier / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    command = [sys.executable, "-m", "cct_tf.checkpoints", f"--workdir={workdir}", "--verify", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{barrier}{os.pathsep}{REPO}"}
    done = subprocess.run([*command, "--prune=3"], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert found["pruned"] == [f"{workdir}/checkpoints/step_00000002"] and found["verified"]
    assert [(row["kind"], row["step"], row["evaluated"], row["finished"]) for row in found["checkpoints"]] == [
        ("checkpoint", 4, True, False), ("checkpoint", 6, False, False), ("checkpoint", 8, True, True),
        ("best", 4, True, False)]
    assert found["checkpoints"][0]["best"] == {"step": 4, "top1": 0.75, "loss": 1.0}
    _flip(workdir / "best/step_00000004/weights.index", 5, 5)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "best/step_00000004/weights.index" in done.stderr
    assert [bool(row["damage"]) for row in json.loads(done.stdout)["checkpoints"]] == [False, False, False, True]
