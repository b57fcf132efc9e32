"""Images that break while a run uses them: with --on_bad_image=skip it goes on, and is the run that knew them."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.errors import Interrupted, UserError
from cct_tf.readers.broken import Finding
from cct_tf.runs import found_broken_file, run_record
from cct_tf.training import broken_images
from cct_tf.training.broken_images import BrokenImages
from tests.commands import call
from tests.datasets import test_tfds
from tests.exact_resume import differences
from tests.readers import damaged
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")
RUN = {"dataset": "folder", "in_memory_gib": 0.0, "batch_size": 4, "train_steps": 8, "eval_every_steps": 3,
       "checkpoint_every_steps": 2, "keep_checkpoints": 9, "crop_padding": 0, "on_bad_image": "skip",
       "validation_fraction": 0.25}


def _jpeg(seed, side=24):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, [side, side, 3], np.uint8)).save(file, "JPEG")
    return file.getvalue()


def _write(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_jpeg(seed, **options))


def _cut(path):
    path.write_bytes(path.read_bytes()[:900])


def _stop_at(training, step):
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, step))


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """{"images": folder, "run": stopped at step 3, when 12 of its 12 training images were seen}."""
    root = tmp_path_factory.mktemp("began")
    for index in range(16):
        _write(root / "images" / "ab"[index % 2] / f"{index // 2}.jpg", index)
    _stop_at(tiny.assemble(root / "run", data_dir=str(root / "images"), **RUN), 3)
    return root


def _listed(root, split="train"):
    rows = [line.split("\t") for line in (root / "run/files.txt").read_text().splitlines()[1:]]
    return [path for where, _, _, path in rows if where == split]


@pytest.fixture
def copy(began, tmp_path):
    """The same to change at will."""
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _assemble(root, run="run", **changes):
    return tiny.assemble(root / run, data_dir=str(root / "images"), **RUN | changes)


def _train(root, run="run", **changes):
    training = _assemble(root, run, **changes)
    training.run(tiny.NoInterrupts())
    return training


def _record(root, run="run", step=None):
    checkpoints = run_record.list_checkpoints(root / run / "checkpoints")
    return run_record.read_record(checkpoints[-1] if step is None else root / run / f"checkpoints/step_{step:08d}")


@pytest.fixture(scope="module")
def whole(began, tmp_path_factory):
    """The run that met a broken file after step 3 and was not disturbed; "name", its path below the images."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(began, root, dirs_exist_ok=True)
    training = _assemble(root)
    (root / "name").write_text(_listed(root)[5])
    _cut(root / "images" / _listed(root)[5])
    training.run(tiny.NoInterrupts())
    return root


@pytest.fixture
def name(whole):
    return (whole / "name").read_text()


def _differences(one, other):
    """As `differences`, but for the place of the images, of two work folders."""
    records = [run_record.read_record(run_record.list_checkpoints(run / "checkpoints")[-1]) for run in (one, other)]
    records = [dataclasses.replace(record, config=record.config | {"data_dir": None, "workdir": None})
               for record in records]
    return [line for line in differences(one, other) if not line.startswith("run.json")] + (
        [] if records[0] == records[1] else records)


def test_it_is_recorded_named_once_and_counted_from_the_step_that_met_it(whole, name, capsys):
    (row,) = _record(whole).resolved.found_broken
    assert {key: row[key] for key in ("split", "place", "path", "label")} == {
        "split": "train", "place": 5, "path": name, "label": "ab".index(name[0])}
    assert row["size"] > 900 and row["reason"] == "the file is cut off"
    met = row["position"] // 4
    assert 3 <= met < 6
    counts = {record["step"]: record["data/broken_images"] for record in tiny.records(whole / "run", "data/")}
    assert counts == {step: int(step > met) for step in range(1, 9)}
    for step in (4, 6, 8):
        assert len(_record(whole, step=step).resolved.found_broken) == int(step > met)
    assert (whole / "run/broken_images.txt").read_text() == f"{whole}/images/{name}\tthe file is cut off\n"


def test_it_is_the_run_whose_record_lists_the_file_though_that_is_sound(copy, whole):
    path = copy / "run/checkpoints/step_00000003"
    record, found = run_record.read_record(path), _record(whole).resolved.found_broken
    run_record.write_record(path, dataclasses.replace(
        record, resolved=dataclasses.replace(record.resolved, found_broken=found)))
    _train(copy)
    assert _differences(whole / "run", copy / "run") == []


REMEDIES = {"mended": lambda path, contents: path.write_bytes(contents),
            "removed": lambda path, contents: os.remove(path),
            "cut further": lambda path, contents: path.write_bytes(contents[:300])}


@pytest.mark.parametrize("kind", REMEDIES)
def test_stopped_after_it_the_file_may_be_mended_changed_or_gone(copy, whole, name, kind, capsys):
    path = copy / "images" / name
    contents, training = path.read_bytes(), _assemble(copy)
    _cut(path)
    _stop_at(training, 7)
    assert capsys.readouterr().err.count(f"broken image: {path}: the file is cut off; from here on") == 1
    REMEDIES[kind](path, contents)
    _train(copy)
    assert "broken image" not in capsys.readouterr().err
    assert _differences(whole / "run", copy / "run") == []


def test_killed_before_a_checkpoint_lists_it_the_file_may_be_gone(copy, whole, name):
    path, training = copy / "images" / name, _assemble(copy)
    _cut(path)
    file = copy / "run/found_broken_0.jsonl"

    def die_once_found():
        if int(training.network.state.step.numpy()) == 5:  # the batch of the next step is being made
            deadline = time.monotonic() + 60
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run(tiny.NoInterrupts(), die_once_found)
    assert _record(copy).step == 4 and not _record(copy).resolved.found_broken
    assert found_broken_file.read(copy / "run", _record(copy).resolved.fingerprint)
    file.write_bytes(file.read_bytes() + b'{"fingerprint": "torn')
    path.unlink()
    _train(copy)
    assert _differences(whole / "run", copy / "run") == []


def test_another_file_that_changed_is_refused_and_named_alone(whole, name, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000008")  # finished
    (tmp_path / "images" / name).unlink()
    other = _listed(tmp_path)[2]
    _cut(tmp_path / "images" / other)
    with pytest.raises(UserError) as refused:
        _assemble(tmp_path)
    assert f"; 1 of another size ({other}); --accept_config_change" in str(refused.value)
    assert name not in str(refused.value)


@pytest.mark.parametrize("kind", ["mended", "still broken"])
def test_only_accept_config_change_reads_the_list_anew(whole, name, tmp_path, kind):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000008")
    if kind == "mended":
        _write(tmp_path / "images" / name, 99)
    training = _assemble(tmp_path)
    assert training.images.source.splits["train"].reader.broken.known.keys() == {5}
    training = _assemble(tmp_path, accept_config_change=True)
    assert training.images.source.splits["train"].reader.broken.known == {}
    training._before_first_step = _die
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny.NoInterrupts())
    assert not found_broken_file.read(tmp_path / "run", _record(whole).resolved.fingerprint)
    found = _record(tmp_path).resolved
    assert found.found_broken == () and sum(found.num_examples.values()) == 16 - (kind != "mended")
    assert [row["path"] for row in found.left_out] == [name] * (kind != "mended")
    if kind != "mended":  # from now on it stays out
        _write(tmp_path / "images" / name, 99)
    again = _assemble(tmp_path)
    assert again.images.source.fingerprint == found.fingerprint


def _die(*args):
    raise KeyboardInterrupt


def test_in_evaluation_it_is_masked_counted_recorded_and_so_for_the_command(copy, capfd):
    gone = _listed(copy, "validation")[1]
    training = _assemble(copy)
    (copy / "images" / gone).unlink()
    training.run(tiny.NoInterrupts())
    assert f"{gone}: No such file or directory; from here on it counts for nothing in the validation split" in (
        capfd.readouterr().err)
    counts = {record["step"]: record.get("eval/broken_images") for record in tiny.records(copy / "run", "eval/")}
    assert counts == {3: 1, 6: 1, 8: 1}  # that of step 3 was owed
    assert [row["path"] for row in _record(copy).resolved.found_broken] == [gone]
    for checkpoint in ("best", "last"):
        status, out, err = call(capfd, "evaluate", f"--workdir={copy}/run", f"--checkpoint={checkpoint}", "--json",
                                "--split=validation")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert (status, found["examples"], found["broken_images"]) == (0, 3, 1)
        assert gone not in [os.path.relpath(each["origin"], copy / "images") for each in found["worst_mistakes"]]
    status, out, err = call(capfd, "evaluate", f"--workdir={copy}/run", "--split=validation")
    assert f"left out: 1 that can't be decoded ({copy}/images/{gone})" in out


def test_with_stop_the_line_names_the_file_and_the_command_goes_on_once_it_is_mended(copy, whole, tmp_path):
    flags = {"on_bad_image": "stop", "eval_every_steps": 99}
    _train(copy, "undisturbed", **flags)
    training = _assemble(copy, "stopped", **flags)
    path = copy / "images" / _listed(copy)[5]
    contents = path.read_bytes()
    training._before_first_step = lambda *args: _cut(path)
    with pytest.raises(UserError, match="^broken image: .*: the file is cut off") as found:
        training.run(tiny.NoInterrupts())
    assert str(path) in str(found.value) and "\n" not in str(found.value)
    assert "mended, the same command goes on" in str(found.value) and "--on_bad_image=skip" in str(found.value)
    path.write_bytes(contents)
    _train(copy, "stopped", **flags)
    assert _differences(copy / "undisturbed", copy / "stopped") == []


STREAM = {"dataset": "grey", "train_steps": 8, "eval_every_steps": 8, "validation_fraction": 0.0, "shuffle_window": 4,
          "mean": (0.5,), "std": (0.25,)}


def _damage(shard, number, records, writer):
    """Cut the image of a record of a shard; the file keeps its form, and the record its checksum."""
    example = tf.train.Example.FromString(records[number])
    image = example.features.feature["image"].bytes_list.value
    image[0] = image[0][:-30]
    records[number] = example.SerializeToString()
    os.remove(shard)
    with writer(shard) as file:
        for record in records:
            file.write(record)


def _records_of(shard, kind):
    if kind == "tfrecord":
        return [record.numpy() for record in tf.data.TFRecordDataset(shard)]
    from array_record.python import array_record_module
    with contextlib.closing(array_record_module.ArrayRecordReader(shard)) as reader:
        return reader.read_all()


@pytest.mark.parametrize(("kind", "damage"), [("tfrecord", "image"), ("tfrecord", "checksum"),
                                              ("array_record", "image")])
def test_a_record_of_a_set_that_is_not_held_is_replaced_too(tmp_path, kind, damage, capsys):
    if kind == "array_record":
        pytest.importorskip("array_record", reason="TFDS brings it along on Linux")
    examples = [test_tfds._example(number) for number in range(24)]
    test_tfds._write(tmp_path / "images", "grey", (6, 5, 1), {"train": examples[:16], "test": examples[16:]},
                     file_format=kind)
    _stop_at(_assemble(tmp_path, **STREAM), 2)
    shutil.copytree(tmp_path / "run", tmp_path / "listed")
    shard, sound = str(next((tmp_path / "images").rglob("grey-train*-00001-of-*"))), tmp_path / "sound"
    shutil.copytree(tmp_path / "images", sound / "images")
    writer = {"tfrecord": tf.io.TFRecordWriter, "array_record": test_tfds._array_record_writer}[kind]
    if damage == "image":
        _damage(shard, 1, _records_of(shard, kind), writer)
    else:
        damaged.flip(shard, 1)
    _train(tmp_path, **STREAM)
    assert capsys.readouterr().err.count(f"broken image: {shard} (record 1): ") == 1
    (row,) = _record(tmp_path).resolved.found_broken
    assert (row["split"], row["place"], "path" in row) == ("train", 5, False)  # four records in the first shard
    path = tmp_path / "listed/checkpoints/step_00000002"
    record = run_record.read_record(path)
    run_record.write_record(path, dataclasses.replace(
        record, resolved=dataclasses.replace(record.resolved, found_broken=(row,))))
    training = tiny.assemble(tmp_path / "listed", data_dir=str(sound / "images"), **RUN | STREAM)
    training.run(tiny.NoInterrupts())
    assert _differences(tmp_path / "run", tmp_path / "listed") == []


def test_of_many_at_once_some_are_named_and_all_are_listed(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(broken_images, "_MOST_NAMED", 2)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    training = _assemble(tmp_path, "other")
    agreeing = BrokenImages(types.SimpleNamespace(
        data=training, workdir=training.workdir, console=training.console, peers=training.peers, start=training.start,
        config=training.config))
    for place in range(5):
        training.images.source.splits["train"].reader.broken.add(place, Finding("a reason", 3))
    agreeing.agree()
    told = capsys.readouterr().err
    assert told.count(": a reason; from here on") == 2
    assert "3 more broken images, for which the same holds; broken_images.txt lists them all" in told
    assert (tmp_path / "other/broken_images.txt").read_text().count("\ta reason\n") == 5


class _Peers:
    """Worker `index` of two, whose other one found `rows`."""

    num_workers = 2

    def __init__(self, index, rows):
        self.index, self.is_chief, self._rows = index, index == 0, rows

    def exchange(self, value):
        pair = [value, self._rows]
        return pair if self.is_chief else pair[::-1]


@pytest.mark.parametrize("index", [0, 1])
def test_workers_agree_on_what_one_of_them_found(whole, tmp_path, index, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    training = _assemble(tmp_path, "other")
    broken, rows = training.images.source.splits["train"].reader.broken, _record(whole).resolved.found_broken
    agreeing = BrokenImages(types.SimpleNamespace(
        data=training, workdir=training.workdir, console=training.console, peers=_Peers(index, list(rows)),
        start=training.start, config=training.config))
    broken.add(2, Finding("own", 30))
    agreeing.agree()
    assert broken.known.keys() == {2, 5} and bool(broken.is_listed(5))
    assert capsys.readouterr().err.count("broken image: ") == (2 if index == 0 else 0)
    agreeing.agree()
    assert capsys.readouterr().err == "" and agreeing.counted(30) == {"data/broken_images": 1}
