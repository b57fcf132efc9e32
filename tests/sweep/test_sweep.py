"""A sweep as processes that are killed and that share the work; the training is a fake of a second."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import commands
from tests.sweep import fake_training

REPO = Path(__file__).resolve().parents[2]
BASE = ["--dataset=digits", "--validation_fraction=0.2", "--model=cct_2_3x1_16", "--image_size=16", "--prune_after=1"]
SPACE = "--learning_rate=0.5:6\n--drop_path_rate=0:0.3\n--flip=none|random\n"
TRIALS = 6


def arguments(folder, *argv):
    return [*BASE, f"--workdir={folder / 'sweep'}", f"--space={folder / 'space.cfg'}", *argv]


def start(folder, *argv):
    return subprocess.Popen([sys.executable, "-m", "tests.sweep.run_sweep", *arguments(folder, *argv)], cwd=REPO,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": str(REPO)})


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def sweep(folder, *argv, space=SPACE):
    folder.mkdir(exist_ok=True)
    (folder / "space.cfg").write_text(space)
    return finish(start(folder, *argv))


def starts(folder):
    """{name of the work folder: how often its training was started}."""
    return {path.parent.name: path.read_text().count("start")
            for path in sorted((folder / "sweep").glob("*/starts.txt"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder, stdout) of a sweep that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, out, err = sweep(folder, f"--trials={TRIALS}", "--seeds=2", "--finalists=2")
    assert (status, err) == (0, ""), err
    return folder, out


def test_the_best_comes_first_and_pruned_trials_saw_whole_rungs(undisturbed):
    table = (undisturbed[0] / "sweep/table.txt").read_text()
    rows = [line.split() for line in table.splitlines()[1:TRIALS + 1]]
    complete = [row for row in rows if row[2] == "complete"]
    assert [row[0] for row in complete] == [str(place + 1) for place in range(len(complete))]
    values = [float(row[4].rstrip("%")) for row in complete]
    assert values == sorted(values, reverse=True)
    for row in complete:
        assert (row[3], values[0]) == ("9", max(values))
        assert float(row[4][:-1]) == pytest.approx(100 * max(
            fake_training.accuracy(float(row[6]), 0, place) for place in range(1, 10)), abs=0.02)
    pruned = [row for row in rows if row[2] == "pruned"]
    assert pruned and {row[3] for row in pruned} <= {"1", "3"}  # rungs of 1, 3 and 9 evaluations; the last is the end


def test_finalists_are_repeated_and_only_the_winner_is_tested(undisturbed):
    folder, out = undisturbed
    result = json.loads((folder / "sweep/result.json").read_text())
    finals = [name for name in starts(folder) if name.startswith("final_")]
    assert len(finals) == 4 and result["repeats"]["seeds"] == [1, 2]
    assert {name[len("final_0000_"):] for name in finals} == {"seed_1", "seed_2"}
    assert result["test"] == {"top1": 0.5, "loss": 1.0, "examples": 9}
    assert out.count("testing trial") == 1
    assert "paired t-test" in out and f"winner: trial {result['trial']} of {TRIALS}" in out


def test_best_cfg_trains_what_won(undisturbed):
    from cct_tf.settings import flags
    folder = undisturbed[0] / "sweep"
    result = json.loads((folder / "result.json").read_text())
    best = flags.load_config([f"--flagfile={folder / 'best.cfg'}"])
    assert best.optim.learning_rate == result["values"]["learning_rate"]  # to the last bit
    assert best.model.drop_path_rate == result["values"]["drop_path_rate"]
    assert best.run.test_at_end and best.run.workdir == f"{folder}/best" and best.data.validation_fraction == 0.2
    head = (folder / "best.cfg").read_text()
    for word in ("command", "hardware", "seen here", f"trial {result['trial']} of {TRIALS}"):
        assert word in head


def test_pictures_are_drawn(undisturbed):
    from PIL import Image
    for name in ("history", "parallel_coordinates"):
        assert Image.open(undisturbed[0] / f"sweep/plots/{name}.png").size == (1100, 550)


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_table(undisturbed, tmp_path):
    luck = random.Random(1)
    (tmp_path / "space.cfg").write_text(SPACE)
    argv = (f"--trials={TRIALS}", "--seeds=2", "--finalists=2")
    for _ in range(3):
        process = start(tmp_path, *argv)
        begun = sum(starts(tmp_path).values())
        while sum(starts(tmp_path).values()) == begun:  # until it trains, so that each start gets on
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(luck.uniform(0.0, 1.2))
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert finish(start(tmp_path, *argv))[::2] == (0, "")
    tables = [(folder / "sweep/table.txt").read_text() for folder in (tmp_path, undisturbed[0])]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_two_processes_run_every_trial_once(tmp_path):
    (tmp_path / "space.cfg").write_text(SPACE)
    argv = (f"--trials={TRIALS}", "--seeds=1", "--finalists=2", "--pruner=none", f"--storage=sqlite:///{tmp_path}/shared.db")
    processes = [start(tmp_path, *argv) for _ in range(2)]
    ended = [finish(process) for process in processes]
    assert [(status, err) for status, _, err in ended] == [(0, ""), (0, "")]
    assert set(starts(tmp_path).values()) == {1} and len(starts(tmp_path)) == TRIALS + 2
    began = [line.split(":")[0] for _, out, _ in ended for line in out.splitlines() if "learning_rate=" in line
             and line.startswith("trial ")]
    assert sorted(began) == [f"trial {number}" for number in range(TRIALS)]
    assert (tmp_path / "shared.db").exists() and not (tmp_path / "sweep/study.db").exists()
    tables = [out[out.index("rank "):] for _, out, _ in ended]
    assert tables[0] == tables[1]
    assert sum("testing trial" in out for _, out, _ in ended) == 1


def test_a_training_that_fails_is_named_and_one_that_a_fault_stopped_is_tried_again(tmp_path):
    status, out, err = sweep(tmp_path, "--trials=4", "--search=random", "--pruner=none", space=(
        "--learning_rate=7.5|8.5\n"))
    assert (status, err) == (0, "")
    failed = [line for line in out.splitlines() if line.startswith("trial") and ": failed, " in line]
    assert failed and all("exit status 2: error: --learning_rate: expected a loss that is finite" in line
                          for line in failed)
    assert "complete" in out and 2 in starts(tmp_path).values()


def test_a_fault_that_stays_ends_the_sweep_which_goes_on_later(tmp_path):
    status, _, err = sweep(tmp_path, "--trials=1", space="--learning_rate=9.5|9.6\n")
    assert (status, err.count("\n")) == (75, 1)
    assert err.startswith("stopped: ") and "trial_0000: exit status 75: stopped: storage: No space left" in err
    assert sweep(tmp_path, "--trials=1", space="--learning_rate=9.5|9.6\n")[0] == 75
    assert starts(tmp_path) == {"trial_0000": 6}  # never made anew


def test_sigterm_leaves_a_line_and_no_training(tmp_path):
    (tmp_path / "space.cfg").write_text(SPACE)
    process = start(tmp_path, "--trials=2")
    while not list((tmp_path / "sweep").glob("trial_0000/starts.txt")):
        time.sleep(0.02)
        assert process.poll() is None
    process.terminate()
    status, _, err = finish(process)
    assert status == 143 and err.startswith("stopped: SIGTERM") and err.count("\n") == 1
    from cct_tf.runs.workdir import Workdir
    assert not Workdir(tmp_path / "sweep/trial_0000").is_in_use()


@pytest.mark.parametrize(("argv", "words"), [
    (["--learning_rate=0.1", "--epochs=3"], ["--epochs", "expected 30.0", "found 3.0", "--learning_rate"]),
    (["--eval_every_epochs=0.5"], ["--eval_every_epochs", "expected 1.0", "found 0.5"]),
    (["--search=random"], ["--search", "expected tpe", "found random"]),
    (["--search_seed=1"], ["--search_seed", "expected 0", "found 1"]),
    (["--prune_keep=4"], ["--prune_keep", "expected 3", "found 4"]),
    (["--storage=sqlite:////tmp/none.db"], ["--storage", "expected none", "found sqlite:////tmp/none.db"]),
    (["--space=SPACE"], ["--space", "--learning_rate=0.5:6", "found --learning_rate=0.5:7"]),
    (["--trials=3"], ["--trials", f"expected at least {TRIALS}", "found 3"]),
])
def test_another_sweep_in_the_same_folder_is_refused(undisturbed, argv, words, tmp_path, capfd):
    other = tmp_path / "other.cfg"
    other.write_text(SPACE.replace("0.5:6", "0.5:7"))
    status, _, err = commands.call(capfd, "sweep", *arguments(undisturbed[0], f"--trials={TRIALS}", *(
        text.replace("SPACE", str(other)) for text in argv)))
    assert (status, err.count("\n")) == (2, 1)
    for word in words:
        assert word in err, err


def test_a_database_that_cannot_be_opened_is_one_line_and_another_one_may_follow(tmp_path, capfd):
    (tmp_path / "space.cfg").write_text(SPACE)
    status, _, err = commands.call(capfd, "sweep", *arguments(
        tmp_path, "--trials=1", f"--storage=sqlite:///{tmp_path}/none/x.db"))
    assert (status, err.count("\n")) == (2, 1) and err.startswith("error: --storage: ") and "none/x.db" in err
    assert sweep(tmp_path, "--trials=1")[::2] == (0, "")


def test_what_changes_no_result_may_change_and_trials_may_be_added(undisturbed, tmp_path):
    import shutil
    shutil.copytree(undisturbed[0], tmp_path / "copy")
    before = starts(tmp_path / "copy")
    status, out, err = finish(start(tmp_path / "copy", f"--trials={TRIALS + 1}", "--log_every_steps=7"))
    assert (status, err) == (0, "")
    after = starts(tmp_path / "copy")
    assert {name: count for name, count in after.items() if name in before} == before
    assert set(after) - set(before) == {f"trial_{TRIALS:04d}"} and f"trial {TRIALS}: " in out
