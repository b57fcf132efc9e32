"""The files of an image folder change in mid-run: what is said, what goes on, and that nothing is lost by it."""

import dataclasses
import json
import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from cct_tf.assembly import recorded_data
from cct_tf.data import source
from cct_tf.errors import Interrupted, UserError
from cct_tf.runs import file_list, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.workdir import Workdir
from cct_tf.training import resume
from tests.commands import call, only_line
from tests.exact_resume import differences
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")
RUN = {"dataset": "folder", "in_memory_gib": 0.0, "batch_size": 4, "train_steps": 8, "eval_every_steps": 3,
       "checkpoint_every_steps": 2, "validation_fraction": 0.25, "keep_checkpoints": 9, "crop_padding": 0}
BROKEN = "b/7.jpg"  # to train on; without it as many are held out


def _write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, [24, 24, 3], np.uint8)).save(path)


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """{"images": folder with one that is broken behind its header, "run": stopped at step 4}."""
    root = tmp_path_factory.mktemp("began")
    for index in range(16):
        _write(root / "images" / "ab"[index % 2] / f"{index // 2}.jpg", index)
    training = tiny.assemble(root / "run", data_dir=str(root / "images"), **RUN)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 4))
    return root


@pytest.fixture
def copy(began, tmp_path):
    """The same with a file cut behind its header, to change at will."""
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "images" / BROKEN
    path.write_bytes(path.read_bytes()[:900])
    return tmp_path


def _mend(path):
    _write(path, 99)


REMEDIES = {"mended": (_mend, {}, f"1 of another size ({BROKEN})"),
            "removed": (os.remove, {}, f"1 removed ({BROKEN})"),
            "left out": (lambda path: None, {"on_bad_image": "skip"}, f"1 removed ({BROKEN})")}


def _train(copy, **changes):
    return tiny.train(copy / "run", data_dir=str(copy / "images"), **RUN | changes)


def _record(copy, folder="checkpoints"):
    return run_record.read_record(run_record.list_checkpoints(copy / "run" / folder)[-1])


def _killed_before_its_first_step(copy, **changes):
    """Start a run; what is left is what it has written before any step."""
    training = tiny.assemble(copy / "run", data_dir=str(copy / "images"), **RUN | changes)

    def die(*args):
        raise KeyboardInterrupt

    training._before_first_step = die
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny.NoInterrupts())


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_broken_image_may_be_mended_removed_or_left_out(copy, kind, capsys):
    change, flags, said = REMEDIES[kind]
    change(copy / "images" / BROKEN)
    before, old = sorted((copy / "run").rglob("*")), _record(copy)
    with pytest.raises(UserError, match="accept_config_change") as refused:
        _train(copy, **flags)
    if not flags:  # else it is the flag that is refused, for the same reason
        assert f"{said}; --accept_config_change goes on with them" in str(refused.value)
        assert str(refused.value).startswith("--data_dir: ") and "\n" not in str(refused.value)
    assert sorted((copy / "run").rglob("*")) == before and _record(copy) == old
    _killed_before_its_first_step(copy, accept_config_change=True, **flags)
    found = _record(copy).resolved
    assert found.fingerprints_before == (old.resolved.fingerprint,) != (found.fingerprint,)
    assert found.mean == old.resolved.mean and found.data_rules == old.resolved.data_rules
    assert sum(found.num_examples.values()) == 16 - (kind != "mended")
    assert (copy / "run/files.txt").read_text().startswith(f"fingerprint {found.fingerprint}\n")
    capsys.readouterr()
    again = tiny.assemble(copy / "run", data_dir=str(copy / "images"), **RUN | flags)  # goes on without the flag
    assert again.start.step == 4 and capsys.readouterr().err == ""


def test_the_commands_say_it_and_evaluate_what_was_accepted(copy, capfd):
    (copy / "images" / BROKEN).unlink()
    config = tiny.settings(copy / "run", data_dir=str(copy / "images"), **RUN)
    flags = [f"--{name}={value}" for name, value in RUN.items()] + [
        f"--{name}={tiny.EVERYTHING_RANDOM[name]}" for name in tiny.EVERYTHING_RANDOM.keys() - RUN.keys()]
    command = ["train", *flags, f"--workdir={config.run.workdir}", f"--data_dir={copy}/images"]
    status, _, err = call(capfd, *command)
    assert status == 2 and "found others (" in err and f"1 removed ({BROKEN}); --accept_config" in only_line(err)
    status, out, err = call(capfd, *command, "--accept_config_change", "--dry_run")
    assert (status, err) == (0, "") and f"going on with other images: 1 removed ({BROKEN})" in out
    assert call(capfd, *command)[0] == 2  # a dry run changes nothing
    assert call(capfd, *command, "--accept_config_change", "--train_steps=4", "--schedule=constant")[0] == 0
    best, last = _record(copy, "best"), _record(copy)
    assert best.resolved.fingerprint != last.resolved.fingerprint  # it is from before the change
    for name in ("best", "last"):
        status, out, err = call(capfd, "evaluate", f"--workdir={copy}/run", f"--checkpoint={name}", "--json",
                                "--split=validation")
        assert (status, err) == (0, "")
        assert json.loads(out)["examples"] == last.resolved.num_examples["validation"]


def _stop_after(training, step):
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, step))


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_commands_that_look_at_a_run_name_what_changed_and_the_ways_out(copy, capfd, command):
    """The run of a moved work folder too, whose record names the old one."""
    gone = _held_out(copy)
    os.rename(copy / "run", copy / "moved")
    os.remove(copy / "images" / gone)
    flags = {"evaluate": [], "export": ["--format=keras", f"--output={copy}/x.keras"]}[command]
    status, _, err = call(capfd, command, f"--workdir={copy}/moved", f"--data_dir={copy}/images", *flags)
    line = only_line(err[err.index("error: "):])
    assert status == 2 and "expected the images of the validation split" in line and "found others (" in line
    assert f"1 removed ({gone}); cct_tf.train goes on with them" in line.replace(", 1 added", "")
    assert "--data_dir=DIR names a folder as it was" in line


@pytest.mark.parametrize("recorded", [True, False], ids=["now", "of before splits were recorded"])
@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_commands_that_look_at_a_run_open_the_split_they_need(copy, capfd, command, recorded):
    """Of a run that recorded how a split alone is told, training images may be broken, of others none may differ."""
    if not recorded:
        for path in (copy / "run").rglob("step_*"):
            record = run_record.read_record(path)
            resolved = dataclasses.replace(record.resolved, folder=None)
            run_record.write_record(path, dataclasses.replace(record, resolved=resolved))
    kept = {_held_out(copy, place) for place in range(4)}
    broken = [path for path in (copy / "images").rglob("*.jpg") if str(path.relative_to(copy / "images")) not in kept]
    assert len(broken) == 12
    flags = {"evaluate": ["--json"], "export": ["--json", "--format=keras", f"--output={copy}/x.keras"]}[command]
    results = []
    for contents in (None, b"no image"):
        for path in broken if contents else ():
            path.write_bytes(contents)
        status, out, err = call(capfd, command, f"--workdir={copy}/run", f"--data_dir={copy}/images", *flags)
        results.append(out)
        shutil.rmtree(copy / "x.keras", ignore_errors=True)
        (copy / "x.keras").unlink(missing_ok=True)
    if recorded:
        assert (status, err) == (0, "") and results[0] == results[1]
    else:
        assert status == 2 and "broken image: " in err


def _held_out(copy, place=0):
    listed = [line.split("\t") for line in (copy / "run/files.txt").read_text().splitlines()[1:]]
    return [path for where, _, _, path in listed if where == "validation"][place]


def test_after_an_accepted_change_a_run_that_is_killed_and_stopped_is_the_one_that_was_not(copy, tmp_path):
    _mend(copy / "images" / BROKEN)
    shutil.copytree(copy / "run", tmp_path / "other")
    tiny.train(tmp_path / "other", data_dir=str(copy / "images"), accept_config_change=True, **RUN)
    _killed_before_its_first_step(copy, accept_config_change=True)
    training = tiny.assemble(copy / "run", data_dir=str(copy / "images"), **RUN)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 5))
    _train(copy)
    assert differences(tmp_path / "other", copy / "run") == []


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_best_stays_where_the_evaluated_split_does(copy, split):
    listed = [line.split("\t") for line in (copy / "run/files.txt").read_text().splitlines()[1:]]
    name = next(path for where, _, _, path in listed if where == split and path != BROKEN)
    with open(copy / "images" / name, "ab") as file:
        file.write(b"more")
    before = _record(copy)
    assert before.status.best["step"] == 3
    training = tiny.assemble(copy / "run", data_dir=str(copy / "images"), accept_config_change=True, **RUN)
    assert training.status.best == (before.status.best if split == "train" else None)
    assert training.status.evaluations_without_best == 0
    if split == "validation":  # at the end of a run too
        training = tiny.train(copy / "run", data_dir=str(copy / "images"), accept_config_change=True,
                              **RUN | {"train_steps": 4, "schedule": "constant"})
        assert training.status.best["step"] == 4


def test_worker_0_tells_the_others_what_changed(copy):
    """They may see its list a moment later, or one that it has replaced."""
    class Worker1:
        is_chief = False

        def exchange(self, value):
            assert value is None
            return ["1 removed (b/7.jpg)", None]

    config = tiny.settings(copy / "run", data_dir=str(copy / "images"), **RUN)
    images = types.SimpleNamespace(source=_source({"train": {}}, ("a", "b")))
    start, workdir = resume.Start(copy, _record(copy)), Workdir(copy / "nowhere")
    with pytest.raises(UserError, match=r"; 1 removed \(b/7.jpg\); --accept_config_change"):
        recorded_data.check_images(images, start, config, workdir, None, Worker1())
    accepting = tiny.settings(copy / "run", data_dir=str(copy / "images"), accept_config_change=True, **RUN)
    assert recorded_data.check_images(images, start, accepting, workdir, None, Worker1()) is None


def test_other_classes_are_another_run_whatever_the_flags_say(copy):
    _write(copy / "images/c/0.jpg", 7)
    _write(copy / "images/c/1.jpg", 8)
    with pytest.raises(UserError, match="--data_dir: expected the classes of this run, a, b, found a, b, c; "):
        _train(copy, accept_config_change=True)


@pytest.mark.parametrize("listing", [None, "fingerprint of another\n", "\0\xff"])
def test_without_a_list_of_the_files_counts_are_compared(copy, listing):
    (copy / "images" / BROKEN).unlink()
    (copy / "run/files.txt").unlink()
    if listing is not None:
        (copy / "run/files.txt").write_bytes(listing.encode("latin-1"))
    with pytest.raises(UserError, match=r"\); train 12 -> 11 images, validation 4 -> 4 images; --accept_config"):
        _train(copy)


def _source(files, class_names=("a",)):
    """A Source of {split: {path: bytes}}, as far as its files go."""
    splits = {name: source.Split(name, None, len(found), np.zeros(len(found), np.int32), np.array(
        [source.File(path, size) for path, size in found.items()], object)) for name, found in files.items()}
    return source.Source("folder", class_names, splits, None, None, repr(files), (), "indexed", source.Rules())


def test_every_kind_of_change_is_named_whatever_the_bytes_of_a_name(tmp_path):
    workdir = Workdir(tmp_path)
    odd = [b"\xff", b"\\xff", b"\n", b"\\n", b"\t", "\u00a0".encode(), b"\xa0", "\u00e4".encode(), b"x\\"]
    train = {b"a/%s" % name: 3 for name in odd} | {b"gone": 3, b"moved": 3, b"longer": 3}
    before = _source({"train": train, "test": {}}, ("\ta",))
    file_list.write(workdir, before)
    assert len(workdir.files.read_text().split("\n")) == 1 + len(train) + 1
    resolved = Resolved(8, (), {}, fingerprint=before.fingerprint)
    assert file_list.changes(workdir, resolved, before) == "the same files, split or weighted anew"
    after = dict.fromkeys(train, 3) | {b"longer": 4} | {b"%d" % number: 3 for number in range(1200)}
    del after[b"gone"], after[b"moved"], after[b"a/\n"]
    now = _source({"train": after, "test": {b"moved": 3}}, ("\ta",))
    assert file_list.changes(workdir, resolved, now) == (
        r"1,200 added (0, 1, 2 and 1,197 more), 2 removed (a/\x0a, gone), 1 of another size (longer), 1 in another "
        "split (moved)")
    relabelled = _source({"train": train, "test": {}}, ("b",))
    assert file_list.changes(workdir, resolved, relabelled).startswith(f"{len(train)} of another class (a/")
