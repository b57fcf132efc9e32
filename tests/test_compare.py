"""`cct_tf.compare`: what it makes of work folders. No TensorFlow needed."""

import csv
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cct_tf import compare
from cct_tf.runs import run_record, side_by_side
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.settings import config, flags

REPO = Path(__file__).resolve().parents[1]


def _run(path, tops, *, steps=8, finished=True, fingerprint="a" * 64, validation=False, speeds=(100.0, 300.0, 200.0),
         test=None, others=(), of_folds=None, **changes):
    """A run of which the evaluations at steps 2, 4, ... had these accuracies, and others: dicts of what else."""
    path.mkdir()
    settings = config.from_dict({"batch_size": 10, "train_steps": 8, "workdir": str(path)} | changes)
    (path / "config.cfg").write_text(flags.as_flagfile(settings))
    metrics = MetricsFile(path / "metrics.jsonl")
    for step, speed in enumerate(speeds, 1):
        metrics.write(step, {"train/loss": 2.0 / step, "timing/images_per_second": speed})
    evaluation = "eval_ema" if settings.optim.ema_decay else "eval"
    for number, top1 in enumerate(tops, 1):
        found = {"top1": top1, "loss": 1.0 - top1} | (others[number - 1] if others else {})
        metrics.write(2 * number, {f"{evaluation}/{name}": value for name, value in found.items()})
    if test is not None:
        metrics.write(2 * len(tops), {"test/top1": test, "test/loss": 0.5})
    folder = path / f"checkpoints/step_{steps:08d}"
    folder.mkdir(parents=True)
    counts = {"train": 40} | ({"validation": 10} if validation else {}) | {"test": 20}
    run_record.write_record(folder, run_record.Record(
        settings.as_dict(), Resolved(8, (), counts, fingerprint=fingerprint, folds_fingerprint=of_folds, total_steps=8),
        steps, RunStatus(steps), finished, {}))
    return str(path)


def _compare(capsys, *argv):
    compare.main(flags.parse([str(part) for part in argv], compare.FIELDS, "workdirs"))
    return capsys.readouterr().out


def _columns(out):
    return [line.split() for line in out.splitlines()]


def test_the_table_of_three_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run(Path("a0"), [0.5, 0.75, 0.75, 0.5], test=0.7)
    _run(Path("a1"), [0.5, 0.85], test=0.8, seed=1, num_replicas=2)
    _run(Path("long_name"), [0.25], learning_rate=0.002, crop_ratio=(0.5, 2.0), speeds=())
    assert _compare(capsys, "a0", "a1", "long_name").splitlines() == [
        "run        group  state     seed  steps    best  at step    loss    last    test  images/s",
        "a0         1      finished     0    8/8  75.00%        4  0.2500  50.00%  70.00%       200",
        "a1         1      finished     1    8/8  85.00%        4  0.1500  85.00%  80.00%       200",
        "long_name  2      finished     0    8/8  25.00%        2  0.7500  25.00%       -         -",
        "",
        "group  runs  best: mean ± std     last                  test                 flags",
        "1      2     80.00% ± 7.07 (n=2)  67.50% ± 24.75 (n=2)  75.00% ± 7.07 (n=2)  "
        "crop_ratio=0.75,1.33333 learning_rate=0.0005",
        "2      1     25.00% (n=1)         25.00% (n=1)          -                    "
        "crop_ratio=0.5,2 learning_rate=0.002",
        "",
        "--num_replicas (changes no result): default a0, 2 a1, default long_name"]


def test_mean_and_sample_deviation_are_of_the_finished_runs(tmp_path, capsys):
    tops = (0.71, 0.74, 0.78)
    folders = [_run(tmp_path / f"r{seed}", [0.1, top1], seed=seed) for seed, top1 in enumerate(tops)]
    folders.append(_run(tmp_path / "r3", [0.99], seed=3, finished=False, steps=4))
    found = json.loads(_compare(capsys, *folders, "--json"))
    group, = found["groups"]
    assert group["runs"] == folders and group["config"] == {}
    assert group["best_top1"]["mean"] == pytest.approx(sum(tops) / 3)
    assert group["best_top1"]["std"] == pytest.approx(statistics.stdev(tops)) and group["best_top1"]["count"] == 3
    assert group["test_top1"] == {"mean": None, "std": None, "count": 0}
    assert [(run["state"], run["step"], run["total_steps"]) for run in found["runs"]][2:] == [
        ("finished", 8, 8), ("unfinished", 4, 8)]


def test_folds_of_one_set_are_a_group_and_those_that_are_missing_are_named(tmp_path, capsys):
    tops, folds = (0.6, 0.7, 0.9), ("1/4", "2/4", "4/4")
    folders = [_run(tmp_path / f"r{place}", [top1], fold=fold, seed=place % 2, fingerprint=f"{place}" * 64,
                    of_folds="f" * 64, validation=True)
               for place, (top1, fold) in enumerate(zip(tops, folds, strict=True))]
    folders.append(_run(tmp_path / "r3", [0.1], fold="3/4", fingerprint="3" * 64, of_folds="f" * 64, finished=False))
    fewer = _run(tmp_path / "fewer", [0.2], fold="1/2", fingerprint="4" * 64, of_folds="f" * 64, validation=True)
    found = json.loads(_compare(capsys, *folders, fewer, "--json"))
    group, other = found["groups"]
    assert group["runs"] == folders and group["config"] == {"fold": "*/4"} and other["config"] == {"fold": "*/2"}
    assert group["best_top1"] == {"mean": pytest.approx(sum(tops) / 3), "std": pytest.approx(statistics.stdev(tops)),
                                  "count": 3}
    assert [run["fold"] for run in found["runs"]] == [*folds, "3/4", "1/2"]
    assert found["notes"] == [f"group {number} has no finished run of fold {fold}"
                              for number, fold in ((1, "3 of 4"), (2, "2 of 2"))]
    rows = _columns(_compare(capsys, *folders, f"--csv={tmp_path}/x.csv"))
    assert rows[0][3:5] == ["seed", "fold"] and [row[4] for row in rows[1:5]] == [*folds, "3/4"]


def test_folds_of_other_sets_are_not(tmp_path, capsys):
    folders = [_run(tmp_path / name, [0.5], fold=f"{place}/2", fingerprint=name * 64, of_folds=name * 64)
               for place, name in enumerate("ab", 1)]
    found = json.loads(_compare(capsys, *folders, "--json"))
    assert len(found["groups"]) == 2 and any("can't be compared" in note for note in found["notes"])


def test_ties_keep_the_earlier_best_and_averages_count_where_they_are_kept(tmp_path):
    best = side_by_side.read(_run(tmp_path / "a", [0.5, 0.75, 0.75])).best
    assert (best["step"], best["top1"]) == (4, 0.75)
    averaged = side_by_side.read(_run(tmp_path / "b", [0.5, 0.6], ema_decay=0.9))
    assert (averaged.best["top1"], averaged.curve("top1")) == (0.6, [(0.5, 0.5), (1.0, 0.6)])
    assert averaged.curve("loss") == [(0.25, 2.0), (0.5, 1.0), (0.75, pytest.approx(2 / 3))]


def test_the_best_is_that_of_the_metric_of_the_run(tmp_path, capsys):
    tops, losses = [0.5, 0.9, 0.7], [{"loss": float("nan")}, {"loss": 0.5}, {"loss": 0.2}]
    by_loss = _run(tmp_path / "a", tops, others=losses, best_metric="loss")
    assert side_by_side.read(by_loss).best == {"step": 6, "top1": 0.7, "loss": 0.2}
    by_f1 = _run(tmp_path / "b", tops, others=[{"macro_f1": value} for value in (0.1, 0.3, 0.3)],
                 best_metric="macro_f1")
    assert side_by_side.read(by_f1).best == {"step": 4, "top1": 0.9, "macro_f1": 0.3, "loss": pytest.approx(0.1)}
    out = _compare(capsys, by_loss, by_f1)
    assert [row[5:7] for row in _columns(out)[1:3]] == [["70.00%", "6"], ["30.00%", "4"]]
    assert out.splitlines()[-2:] == [
        "best, last and test are top-1, macro F1, each run's own: these figures can't be compared",
        f"the best is the checkpoint of the lowest loss: {by_loss}"]


def test_runs_with_several_labels_are_shown_by_map(tmp_path, capsys):
    others = [{"map": value} for value in (0.4, 0.8, 0.6)]
    folders = [_run(tmp_path / f"r{seed}", [0.0] * 3, others=others, dataset="npz", task="multilabel", seed=seed)
               for seed in (0, 1)]
    group, = json.loads(_compare(capsys, *folders, "--json", f"--csv={tmp_path}/x.csv"))["groups"]
    assert group["best_map"] == {"mean": 0.8, "std": 0.0, "count": 2} and "best_top1" not in group
    row, _ = csv.DictReader((tmp_path / "x.csv").open())
    assert [row[name] for name in ("best_step", "best_map", "last_map", "group_best_map_mean")] == [
        "4", "0.8", "0.6", "0.8"]
    _compare(capsys, *folders, f"--plot={tmp_path}/x.png")
    assert (tmp_path / "x.png").exists()


def test_a_run_that_goes_on_is_called_running(tmp_path, capsys):
    path = _run(tmp_path / "a", [0.5], finished=False, steps=2)
    assert side_by_side.read(path).state == "unfinished"
    with Workdir(path).locked(print):
        assert side_by_side.read(path).state == "running"
    assert side_by_side.read(path).state == "unfinished"


def test_what_is_missing_or_damaged_is_said(tmp_path, capsys):
    whole, bare, torn, binary = (_run(tmp_path / name, [0.5], seed=seed) for seed, name in enumerate("abcd"))
    (tmp_path / "b/metrics.jsonl").unlink()
    record = tmp_path / "c/checkpoints/step_00000008/run.json"
    record.write_bytes(record.read_bytes()[:-50])
    (tmp_path / "d/metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    lost = tmp_path / "e"
    lost.mkdir()
    (lost / "metrics.jsonl").write_text('{"step": 3, "train/loss": 1.0}\n[1]\n{"step": null}\n{"step": 4, "tr')
    fresh = tmp_path / "f"
    fresh.mkdir()
    (fresh / "config.cfg").write_text((tmp_path / "a/config.cfg").read_text())
    out = _compare(capsys, whole, bare, torn, binary, lost, fresh)
    notes = out.split("\n\n")[2]
    for line in (f"{bare}: no metrics.jsonl", f"{torn}: damaged: {record}: ",
                 f"{binary}: damaged: metrics.jsonl is no text", f"{lost}: no checkpoint",
                 f"{lost}: no config that can be read", f"{lost}: not evaluated yet", f"{fresh}: no checkpoint"):
        assert any(note.startswith(line) for note in notes.splitlines()), (line, notes)
    rows = {row[0]: row for row in _columns(out)[1:7]}
    assert rows[torn][1:5] == ["1", "unfinished", "2", "3"]  # the config is that of config.cfg, so the group is known
    assert rows[str(lost)][1:5] == ["2", "unfinished", "?", "3"]
    assert rows[str(fresh)][1:5] == ["1", "unfinished", "0", "0"]
    assert "can't be compared" not in out


def test_runs_on_other_data_are_no_group(tmp_path, capsys):
    folders = [_run(tmp_path / "a", [0.5]), _run(tmp_path / "b", [0.6], seed=1),
               _run(tmp_path / "c", [0.7], seed=2, fingerprint="b" * 64, validation=True)]
    found = json.loads(_compare(capsys, *folders, "--json"))
    assert [run["group"] for run in found["runs"]] == [1, 1, 2]
    assert [run["evaluated_on"] for run in found["runs"]] == ["test", "test", "validation"]
    note, = found["notes"]
    assert f"test split of digits, fingerprint {'a' * 12}: {folders[0]}, {folders[1]}; validation" in note


def test_the_best_of_a_run_whose_images_changed_is_the_one_that_counts_now(tmp_path, capsys):
    folder = _run(tmp_path / "a", [0.9, 0.6, 0.5])
    path = tmp_path / "a/checkpoints/step_00000008"
    record = run_record.read_record(path)
    best = {"step": 4, "top1": 0.6, "loss": 0.4}
    run_record.write_record(path, dataclasses.replace(
        record, status=dataclasses.replace(record.status, best=best),
        resolved=dataclasses.replace(record.resolved, fingerprints_before=("b" * 64,))))
    found = json.loads(_compare(capsys, folder, "--json"))
    assert found["runs"][0]["best"] == best and "went on with other images" in found["notes"][0]


def test_a_setting_of_before_it_was_a_field_counts_as_its_default(tmp_path):
    old, new = (_run(tmp_path / name, [0.5], seed=seed) for seed, name in enumerate("ab"))
    folder = tmp_path / "a/checkpoints/step_00000008"
    record = run_record.read_record(folder)
    del record.config["clip_norm"]
    run_record.write_record(folder, record)
    assert len(side_by_side.group([side_by_side.read(old), side_by_side.read(new)])) == 1


def test_the_csv_has_a_row_for_each_run(tmp_path, capsys):
    folders = [_run(tmp_path / "a", [0.5], test=0.4), _run(tmp_path / "b", [0.7], seed=1),
               _run(tmp_path / "c,d", [0.6], random_resized_crop=(0.5, 1.0))]
    _compare(capsys, *folders, f"--csv={tmp_path / 'x.csv'}")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["workdir"] for row in rows] == folders and [row["group"] for row in rows] == ["1", "1", "2"]
    assert [row["best_top1"] for row in rows] == ["0.5", "0.7", "0.6"]
    assert [row["test_top1"] for row in rows] == ["0.4", "", ""]
    assert [row["group_best_top1_count"] for row in rows] == ["2", "2", "1"]
    assert float(rows[0]["group_best_top1_std"]) == pytest.approx(0.2 / 2**0.5) and not rows[2]["group_best_top1_std"]
    assert [row["--random_resized_crop"] for row in rows] == ["default", "default", "0.5,1"]


def test_the_plot_has_a_colour_for_each_group(tmp_path, capsys):
    folders = [_run(tmp_path / "a", [0.2, 0.5], speeds=(1.0,) * 7), _run(tmp_path / "b", [0.3, 0.6], seed=1),
               _run(tmp_path / "c", [0.1, 0.9], weight_decay=0.5)]
    _compare(capsys, *folders, f"--plot={tmp_path / 'x.png'}")
    pixels = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    assert pixels.shape[1] == 1200 and np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).min() == 255
    red, blue = pixels[..., 0], pixels[..., 2]
    for half in (slice(600), slice(600, 1200)):  # lines of tab10's first two colours in both panels
        assert (blue[:400, half] - red[:400, half] > 80).sum() > 300
        assert (red[:400, half] - blue[:400, half] > 80).sum() > 200


def test_the_command_as_a_process(tmp_path):
    """In a Python in which TensorFlow's import ends the process; --json keeps stdout, flags stand anywhere."""
    barrier = tmp_path / "path"
    barrier.mkdir()
    for name in ("tensorflow", "keras"):
        (barrier / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    a, b = _run(tmp_path / "a", [0.5]), _run(tmp_path / "b", [0.6], seed=1)
    done = subprocess.run([sys.executable, "-m", "cct_tf.compare", a, "--csv", str(tmp_path / "x.csv"), "--json", b],
                          capture_output=True, text=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": f"{barrier}{os.pathsep}{REPO}"})
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert [run["workdir"] for run in json.loads(done.stdout)["runs"]] == [a, b]
    assert (tmp_path / "x.csv").exists()
