"""Starting a run again: on damaged checkpoints, under another config, on other data, on a disk that is full.

What a restart computes is tested in tests/training/test_resume.py and tests/test_faults.py; here is what it says, and
that a checkpoint that cannot be read costs steps and nothing else.
"""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.runs import run_record
from cct_tf.runs.checkpoint import storage_faults
from cct_tf.runs.workdir import MetricsFile, Workdir
from tests.commands import call, only_line, run
from tests.exact_resume import differences

pytestmark = pytest.mark.usefixtures("one_network")
SIDE = 8
FLAGS = ["--dataset=npz", "--model=cct_2_3x1_8", "--batch_size=8", "--train_steps=5", "--checkpoint_every_steps=2",
         "--eval_every_steps=4", "--log_every_steps=3", "--jit=off"]


def _write_images(path, seed):
    """An archive of random images of three classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(24) % 3
    images = random.integers(0, 256, [24, SIDE, SIDE, 3], np.uint8)
    np.savez(path, x_train=images, y_train=labels[random.permutation(24)], x_test=images[:12], y_test=labels[:12])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    _write_images(path, 0)
    return path


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """Work folder of a run of 5 steps: checkpoints at 2, 4 and 5, evaluations at 4 and 5."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert run("train", *FLAGS, f"--data_dir={images}", f"--workdir={workdir}") == 0
    assert [path.name for path in run_record.list_checkpoints(workdir / "checkpoints")] == [
        "step_00000002", "step_00000004", "step_00000005"]
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """The same folder, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path):
    contents = bytearray(path.read_bytes())
    for place in range(len(contents) // 3, len(contents) // 3 + 8):
        contents[place] ^= 0xFF
    path.write_bytes(contents)


def _halve(path):
    path.write_bytes(path.read_bytes()[:os.path.getsize(path) // 2])


FILES = {"run.json", "weights.index", "weights.data-00000-of-00001"}
DAMAGE = {
    "data file truncated": ("weights.data-00000-of-00001", _cut),
    "bytes of the data flipped": ("weights.data-00000-of-00001", _flip),
    "bytes of the index flipped": ("weights.index", _flip),
    "index missing": ("weights.index", os.unlink),
    "data missing": ("weights.data-00000-of-00001", os.unlink),
    "run.json torn": ("run.json", _halve),
    "run.json missing": ("run.json", os.unlink),
}


def test_every_file_of_a_checkpoint_has_a_checksum(finished):
    """run.json holds its own; tests/test_checkpoints.py flips and truncates each of them."""
    for path in run_record.list_checkpoints(finished / "checkpoints") + run_record.list_checkpoints(finished / "best"):
        record = json.loads((path / "run.json").read_text())
        assert {*record["files"], "run.json"} == {file.name for file in path.iterdir()} == FILES
        assert list(record)[0] == "checksum"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_found_without_tensorflow_and_named(damage, copy, capfd):
    name, apply = DAMAGE[damage]
    newest = copy / "checkpoints/step_00000005"
    apply(newest / name)
    warnings = []
    path, record = run_record.newest_record(copy / "checkpoints", warnings.append)
    assert path.name == "step_00000004" and record.step == 4
    assert len(warnings) == 1 and str(newest / name) in warnings[0]
    assert (copy / "checkpoints/step_00000005.corrupt").is_dir()


@pytest.mark.parametrize("damage", ["data file truncated", "run.json torn"])
def test_the_run_goes_on_from_the_one_before_to_the_same_result(damage, copy, finished, images, capfd):
    name, apply = DAMAGE[damage]
    for step in ("step_00000004", "step_00000005"):
        apply(copy / "checkpoints" / step / name)
    status, out, err = call(capfd, "train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}")
    assert status == 0
    assert err.count("\n") == 2 and err.count("warning: ") == 2  # one for each
    assert "goes on from step 2" in out
    assert differences(finished, copy) == []


def test_without_a_readable_checkpoint_every_start_is_refused_and_names_the_files(copy, images, capfd):
    for step in (2, 4, 5):
        _cut(copy / f"checkpoints/step_{step:08d}/weights.data-00000-of-00001")
    for _ in range(2):
        status, _, err = call(capfd, "train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}")
        assert status == 2
        assert all(f"step_{step:08d}/weights.data" in only_line(err) for step in (2, 4, 5))


@pytest.fixture
def unreadable(copy):
    """A work folder all of whose checkpoints are damaged, each in its way."""
    for step, (name, apply) in zip((2, 4, 5), (DAMAGE["run.json torn"], DAMAGE["bytes of the index flipped"],
                                               DAMAGE["data file truncated"]), strict=True):
        apply(copy / f"checkpoints/step_{step:08d}" / name)
    return copy


def test_asked_to_a_run_starts_anew_beside_what_is_damaged(unreadable, finished, images, capfd):
    """What it writes is what a run in a fresh folder writes, and nothing of the run before is lost."""
    (unreadable / "plots").mkdir()
    (unreadable / "plots/curves.png").touch()
    metrics = (unreadable / "metrics.jsonl").read_bytes()
    damaged = (unreadable / "checkpoints/step_00000004/weights.index").read_bytes()
    command = ["train", *FLAGS, f"--data_dir={images}", f"--workdir={unreadable}", "--restart_if_unreadable"]
    before = sorted(path.name for path in unreadable.rglob("*"))
    status, out, err = call(capfd, *command, "--dry_run")
    assert status == 0 and "step_00000002/run.json" in only_line(err)
    assert sorted(path.name for path in unreadable.rglob("*")) == before
    status, out, err = call(capfd, *command)
    assert status == 0
    assert err.count("\n") == err.count("warning: ") == 3
    assert differences(finished, unreadable) == []
    assert {path.name for path in finished.iterdir()} | {"before_restart_1"} == {
        path.name for path in unreadable.iterdir()}
    aside = unreadable / "before_restart_1"
    assert (aside / "metrics.jsonl").read_bytes() == metrics
    assert (aside / "plots/curves.png").exists() and (aside / "best").is_dir()
    assert (unreadable / "checkpoints/step_00000004.corrupt/weights.index").read_bytes() == damaged
    assert len(list((unreadable / "train").glob("events.*"))) == 1
    assert "restart_if_unreadable" not in (unreadable / "config.cfg").read_text()


def test_where_a_checkpoint_is_whole_the_flag_starts_nothing_anew(copy, finished, images, capfd):
    _cut(copy / "checkpoints/step_00000005/weights.data-00000-of-00001")
    status, out, _ = call(capfd, "train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}",
                          "--restart_if_unreadable")
    assert status == 0 and "goes on from step 4" in out
    assert not (copy / "before_restart_1").exists() and differences(finished, copy) == []


def test_killed_while_setting_aside_the_next_start_is_still_refused(unreadable, images, capfd, monkeypatch):
    """Or it would begin anew without being asked to, on records that are not its own."""
    set_aside, command = run_record.set_aside, ["train", *FLAGS, f"--data_dir={images}", f"--workdir={unreadable}"]

    def killed(path):
        if path.name == "step_00000002":
            raise KeyboardInterrupt
        return set_aside(path)

    with monkeypatch.context() as patch:
        patch.setattr(run_record, "set_aside", killed)
        assert call(capfd, *command, "--restart_if_unreadable")[0] == 130
    status, _, err = call(capfd, *command)
    assert status == 2 and "--restart_if_unreadable" in only_line(err)


def test_the_best_checkpoint_can_take_the_place_of_damaged_ones(unreadable, finished, images, capfd):
    best, = run_record.list_checkpoints(finished / "best")
    for path in run_record.list_checkpoints(unreadable / "checkpoints"):
        shutil.rmtree(path)
    shutil.copytree(best, unreadable / "checkpoints" / best.name)
    assert call(capfd, "train", *FLAGS, f"--data_dir={images}", f"--workdir={unreadable}")[0] == 0
    assert differences(finished, unreadable) == []


def test_a_changed_config_goes_on_when_accepted_and_is_written_down(copy, images, capfd):
    longer = [flag.replace("train_steps=5", "train_steps=7") for flag in FLAGS]
    status, out, err = call(capfd, "train", *longer, "--accept_config_change", f"--data_dir={images}",
                            f"--workdir={copy}")
    assert (status, err) == (0, "")
    assert "--train_steps (checkpoint 5, now 7)" in out
    record = run_record.read_record(copy / "checkpoints/step_00000007")
    assert record.config["train_steps"] == 7 and record.finished
    assert "--train_steps=7" in (copy / "config.cfg").read_text()
    status, out, err = call(capfd, "train", f"--flagfile={copy}/config.cfg")
    assert (status, err) == (0, "") and "finished" in out


@pytest.mark.parametrize(("change", "words"), [("--train_steps=3", "--train_steps"),
                                                ("--model=cct_2_3x2_16", "expected the weights of this network")])
def test_a_change_that_the_checkpoint_cannot_take_is_one_line(copy, images, capfd, change, words):
    before = (copy / "checkpoints/step_00000005/run.json").read_bytes()
    status, _, err = call(capfd, "train", *FLAGS, change, "--accept_config_change", f"--data_dir={images}",
                          f"--workdir={copy}")
    assert status == 2 and words in only_line(err)
    assert (copy / "checkpoints/step_00000005/run.json").read_bytes() == before


def test_a_dry_run_judges_the_run_that_is_there_and_leaves_it_alone(copy, images, capfd):
    before = sorted(path.name for path in copy.rglob("*"))
    command = ["train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}", "--dry_run"]
    status, out, _ = call(capfd, *command)
    assert status == 0 and "finished" in out
    status, _, err = call(capfd, *command, "--learning_rate=1")
    assert status == 2 and "--learning_rate" in only_line(err)
    status, out, err = call(capfd, *command, "--train_steps=9", "--accept_config_change")
    assert (status, err) == (0, "") and "goes on from step 5" in out
    assert sorted(path.name for path in copy.rglob("*")) == before


def test_the_only_checkpoint_is_never_set_aside(copy, images, capfd, monkeypatch):
    """Or the same command would begin anew, and take the records with it."""
    for path in run_record.list_checkpoints(copy / "checkpoints")[:-1]:
        shutil.rmtree(path)

    def damaged(path, trackable):
        raise run_record.Unreadable(f"{path}: DataLossError")

    monkeypatch.setattr("cct_tf.runs.checkpoint.restore", damaged)
    for _ in range(2):
        status, _, err = call(capfd, "train", *FLAGS, "--train_steps=9", "--accept_config_change",
                              f"--data_dir={images}", f"--workdir={copy}")
        assert status == 2 and "found none" in only_line(err)


def test_what_only_tensorflow_finds_damaged_starts_anew_in_another_process(copy, images, finished, capfd, monkeypatch):
    """The read that failed may have replaced some of the initial weights already."""
    for path in run_record.list_checkpoints(copy / "checkpoints")[:-1]:
        shutil.rmtree(path)

    def damaged(path, trackable):
        raise run_record.Unreadable(f"{path}: DataLossError")

    command = ["train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}", "--restart_if_unreadable"]
    with monkeypatch.context() as patch:
        patch.setattr("cct_tf.runs.checkpoint.restore", damaged)
        status, _, err = call(capfd, *command, "--train_steps=9", "--accept_config_change")
    assert status == 75 and "step_00000005: DataLossError; the same command starts anew" in err
    assert call(capfd, *command)[0] == 0
    assert differences(finished, copy) == []


def test_other_data_is_refused_whatever_the_flags_say(copy, tmp_path, capfd):
    other = tmp_path / "other.npz"
    _write_images(other, 1)
    status, _, err = call(capfd, "train", *FLAGS, "--train_steps=9", "--accept_config_change", f"--data_dir={other}",
                          f"--workdir={copy}")
    assert status == 2
    assert "--data_dir" in only_line(err) and "fingerprint" in err
    status, _, err = call(capfd, "evaluate", f"--workdir={copy}", f"--data_dir={other}")
    assert status == 2
    assert "--data_dir" in only_line(err)


@pytest.mark.parametrize("changes", [["--num_replicas=3"], ["--eval_batch_size=1"], ["--eval_batch_size=1000"]])
def test_evaluate_counts_the_same_whatever_it_computes_on(finished, capfd, changes):
    found = []
    for flags in ([], changes):
        status, out, err = call(capfd, "evaluate", f"--workdir={finished}", "--json", *flags)
        assert (status, err) == (0, "")
        found.append(json.loads(out))
    assert [found[0][name] for name in ("examples", "top1", "top5")] == [
        found[1][name] for name in ("examples", "top1", "top5")]
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-6)


def test_evaluate_gives_the_numbers_of_the_run(finished, capfd):
    with Workdir(finished).locked(print):  # evaluating does not wait for the run to end
        status, out, err = call(capfd, "evaluate", f"--workdir={finished}", "--checkpoint=last", "--json")
    assert (status, err) == (0, "")
    last = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()][-1]
    found = json.loads(out)
    assert (found["step"], found["top1"], found["loss"]) == (5, last["eval/top1"], last["eval/loss"])


def _no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_space_for_events(*args, **kwargs):
    """As TensorFlow's event files put it."""
    raise tf.errors.ResourceExhaustedError(
        None, None, "{{function_node __wrapped__FlushSummaryWriter}} /run/train/events.1; No space left on device\n"
        "\tFailed to flush 1 events to /run/train/events.1")


FULL = {"checkpoint": ("cct_tf.runs.checkpoint.sync", _no_space),
        "metrics": ("cct_tf.runs.workdir.MetricsFile._open", lambda file: open("/dev/full", "ab", buffering=0)),
        "plots": ("PIL.Image.Image.save", _no_space),
        "projector": ("numpy.savetxt", _no_space),
        "events": ("tensorflow.summary.scalar", _no_space_for_events)}


@pytest.mark.parametrize("place", FULL)
def test_a_full_disk_is_status_75_and_one_line(place, pictures, copy, finished, images, monkeypatch, capfd):
    shutil.rmtree(copy / "checkpoints/step_00000005")
    command = ["train", *FLAGS, f"--data_dir={images}", f"--workdir={copy}"]
    with monkeypatch.context() as patch:
        patch.setattr(*FULL[place])
        status, _, err = call(capfd, *command)
    assert status == 75
    assert "No space left on" in only_line(err) and str(copy) in err
    assert run_record.newest_record(copy / "checkpoints", None)[0].name in ("step_00000004", "step_00000005")
    if place in ("checkpoint", "metrics"):  # once there is room again
        assert run(*command) == 0
        assert differences(finished, copy) == []


def test_a_line_that_fits_only_in_part_is_an_error_and_goes_at_the_next_start(tmp_path, monkeypatch):
    """A raw write to a disk that is nearly full writes what fits and raises nothing."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(1, {"train/loss": 1.0})
    whole = (tmp_path / "metrics.jsonl").read_bytes()

    class NearlyFull:
        def write(self, line):
            (tmp_path / "metrics.jsonl").write_bytes(whole + line[:9])
            return 9

        def close(self):
            """As a file."""

    metrics.close()
    monkeypatch.setattr(MetricsFile, "_open", lambda file: NearlyFull())
    with pytest.raises(OSError, match="No space left") as error:
        metrics.write(2, {"train/loss": 2.0})
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    metrics.cut(2, 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_an_error_of_tensorflow_that_is_not_the_disks_stays_one():
    """Status 75 asks for a restart: a bug under that name would be restarted for ever."""
    with pytest.raises(tf.errors.InvalidArgumentError), storage_faults("run"):
        raise tf.errors.InvalidArgumentError(None, None, "shapes differ")
