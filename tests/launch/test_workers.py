"""launch/workers.py, its policy rule by rule, with a fake trainer (fake_worker.py) and short times."""

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TIMES = {"grace": 10, "save": 10, "first_wait": 0.05, "longest_wait": 0.15, "second_press": 0}
PATIENCE = 60  # seconds that a busy machine may take for what takes a moment
HANG = {"hang": True, "on": {"15": 143, "2": 130}}


class Run:
    """One supervisor with its work folder; `plan` is that of fake_worker.py, per worker."""

    def __init__(self, folder, *plan, options=(), flags=(), times=None, wrapper=(), **env):
        self.workdir = folder
        (folder / "plan").write_text(json.dumps({str(index): starts for index, starts in enumerate(plan)}))
        (folder / "starts").touch()
        argv = [*options, str(len(plan)), "--dataset=digits", f"--workdir={folder}", *flags]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **env}
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, str(HERE / "drive_workers.py"), json.dumps(TIMES | (times or {})), *argv],
            env=env, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def end(self):
        """Exit status; the supervisor's lines are in `lines` then."""
        _, err = self.process.communicate(timeout=PATIENCE)
        self.lines = err.splitlines()
        return self.process.returncode

    def records(self, name):
        path = self.workdir / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, count=0):
        """What the workers wrote when they started, once there are at least so many."""
        wait_for(lambda: len(self.records("starts")) >= count)
        return self.records("starts")

    def has_line(self, *texts):
        return any(all(text in line for text in texts) for line in self.lines)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_gone(pid):
    """Dead, if perhaps not yet waited for."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def done(status, **others):
    return {"exit": status, **others}


def test_workers_get_the_flags_and_one_cluster_and_all_finish(tmp_path):
    run = Run(tmp_path, [[done(0)]], [[done(0, sleep=0.2)]], flags=["--epochs=3"])
    assert run.end() == 0
    first, second = sorted(run.starts(), key=lambda start: start["index"])
    assert first["argv"] == second["argv"] == ["--dataset=digits", f"--workdir={tmp_path}", "--epochs=3"]
    assert first["cluster"] == second["cluster"] and len(set(first["cluster"])) == 2
    assert {start["group"] for start in (first, second)} == {run.process.pid}
    assert run.has_line(f"started [0] pid {first['pid']}, [1] pid {second['pid']}") and run.has_line("finished")
    assert all(line.startswith("workers.sh: ") for line in run.lines)


@pytest.mark.parametrize(("first", "second", "status"), [(2, 2, 2), (75, 1, 1), (1, 2, 2), (0, 141, 141)])
def test_wrong_input_and_bugs_are_not_started_again(tmp_path, first, second, status):
    run = Run(tmp_path, [[done(first)]], [[done(second, sleep=0.1)]])
    assert run.end() == status and len(run.starts()) == 2
    assert run.has_line("not started again") and run.has_line("worker 1 (pid", f"ended with status {second}")


@pytest.mark.parametrize(("fault", "text"), [(done(75), "ended with status 75"), (done(139), "ended with status 139"),
                                             ({"kill": 9}, "was killed by SIGKILL"), (done(143), "status 143")])
def test_a_fault_starts_all_again_on_other_ports(tmp_path, fault, text):
    run = Run(tmp_path, [[done(75, sleep=1.0)], [done(0)]], [[fault], [done(0)]])
    assert run.end() == 0
    starts = run.starts()
    assert len(starts) == 4 and starts[0]["cluster"] != starts[-1]["cluster"]
    assert run.has_line("worker 1", text, "restart 1 of 3 in 0.05 s, from the beginning")


def test_restarts_in_a_row_are_bounded_and_wait_longer_each_time(tmp_path):
    run = Run(tmp_path, [[{"kill": 9}]], options=["--max_restarts=4"])
    assert run.end() == 137 and len(run.starts()) == 5
    waits = [line.split(" in ")[1].split(" s,")[0] for line in run.lines if "; restart " in line]
    assert waits == ["0.05", "0.1", "0.15", "0.15"]
    assert run.has_line("worker 0", "killed by SIGKILL; given up after 4 restarts", "status 137")


def test_status_of_giving_up_is_that_of_the_first_that_failed(tmp_path):
    run = Run(tmp_path, [[done(75, sleep=0.3)]], [[done(139)]], options=["--max_restarts", "0"])
    assert run.end() == 139 and len(run.starts()) == 2


@pytest.mark.parametrize("status", [143, 129])
def test_being_asked_to_stop_does_not_lengthen_the_wait_but_counts(tmp_path, status):
    run = Run(tmp_path, [[done(status)]])
    assert run.end() == status and len(run.starts()) == 4
    assert sum("in 0.05 s" in line for line in run.lines) == 3


def test_a_new_checkpoint_begins_a_new_row(tmp_path):
    starts = [[{"checkpoint": step}, done(75)] for step in (10, 20, 20, 30, 30)]
    run = Run(tmp_path, starts, options=["--max_restarts=2"])
    assert run.end() == 75 and len(run.starts()) == 6
    told = [line.partition("; ")[2] for line in run.lines if "; restart" in line]
    assert told == ["restart 1 of 2 in 0.05 s, from step 10", "restart 1 of 2 in 0.05 s, from step 20",
                    "restart 2 of 2 in 0.1 s, from step 20", "restart 1 of 2 in 0.05 s, from step 30",
                    "restart 2 of 2 in 0.1 s, from step 30"]


def test_checkpoints_from_before_count_for_nothing(tmp_path):
    (tmp_path / "checkpoints/step_00000050").mkdir(parents=True)
    (tmp_path / "checkpoints/.partial-step_00000060").mkdir()
    run = Run(tmp_path, [[{"checkpoint": 40}, done(75)]], options=["--max_restarts=2"])
    assert run.end() == 75 and len(run.starts()) == 3
    assert run.has_line("restart 1 of 2 in 0.05 s, from step 50")


def test_a_worker_that_does_not_end_is_killed_before_the_restart(tmp_path):
    stopped = [{"kill": signal.SIGSTOP}, done(0)]
    run = Run(tmp_path, [stopped, [done(0)]], [[{"hang": True, "on": {"15": None}}], [done(0)]],
              [[{"after": {"0": "stopped", "1": "started"}}, done(75)], [done(0)]], times={"grace": 0.3})
    assert run.end() == 0
    assert run.has_line("killing what is left: [0] pid", "[1] pid")
    assert all(is_gone(start["pid"]) for start in run.starts())


def test_what_stands_still_beside_a_fault_is_not_waited_for(tmp_path):
    run = Run(tmp_path, [[{"kill": signal.SIGSTOP}], [done(0)]], [[{"after": {"0": "stopped"}}, done(75)], [done(0)]],
              times={"grace": 100 * PATIENCE})  # for which `end` would not wait
    assert run.end() == 0
    assert run.has_line("killing what is left and stands still: [0] pid")


def test_a_worker_that_finishes_is_not_the_end_of_the_others(tmp_path):
    run = Run(tmp_path, [[done(0)]], [[done(0, sleep=0.5)]], times={"grace": 0.1})
    assert run.end() == 0 and not run.has_line("killing")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_goes_to_all_workers_once(tmp_path, number, status):
    run = Run(tmp_path, [[HANG]], [[HANG]])
    run.starts(2)
    run.process.send_signal(number)
    assert run.end() == status and len(run.starts()) == 2
    assert sorted(run.records("signals")) == [["0", signal.SIGTERM], ["1", signal.SIGTERM]]
    assert run.has_line(f"{number.name}: 10 s for the workers to save and leave")


def test_a_lost_terminal_makes_no_difference_under_nohup(tmp_path):
    run = Run(tmp_path, [[{"hang": True, "on": {"15": 143}}]], wrapper=["nohup"])
    run.starts(1)
    os.killpg(run.process.pid, signal.SIGHUP)
    run.process.terminate()
    assert run.end() == 143 and not run.has_line("SIGHUP") and run.records("signals") == [["0", signal.SIGTERM]]


def test_a_lost_terminal_ends_all_workers_though_nobody_reads(tmp_path):
    (tmp_path / "plan").write_text(json.dumps({"0": [[{"hang": True, "on": {"1": 129, "15": 129}}]]}))
    (tmp_path / "starts").touch()
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
        os.execv(sys.executable, [sys.executable, str(HERE / "drive_workers.py"), json.dumps(TIMES), "1",
                                  f"--workdir={tmp_path}"])
    wait_for(lambda: (tmp_path / "starts").read_text().count("\n") == 1)
    os.close(terminal)  # as a cut connection does
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert "signals" in os.listdir(tmp_path)


def test_a_signal_in_the_moment_of_finishing_leaves_the_run_finished(tmp_path):
    run = Run(tmp_path, [[{"hang": True, "on": {"15": 0}}]])
    run.starts(1)
    run.process.terminate()
    assert run.end() == 0


def test_ctrl_c_in_a_terminal_reaches_each_worker_once(tmp_path):
    (tmp_path / "plan").write_text(json.dumps({"0": [[HANG]], "1": [[HANG]]}))
    (tmp_path / "starts").touch()
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ.update(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
        os.execv(sys.executable, [sys.executable, str(HERE / "drive_workers.py"), json.dumps(TIMES), "2",
                                  f"--workdir={tmp_path}"])
    wait_for(lambda: (tmp_path / "starts").read_text().count("\n") == 2)
    os.write(terminal, b"\x03")
    text = b""
    try:
        while part := os.read(terminal, 4096):
            text += part
    except OSError:  # how the end of a terminal shows
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130 and b"SIGINT" in text
    signals = [json.loads(line) for line in (tmp_path / "signals").read_text().splitlines()]
    assert sorted(signals) == [["0", signal.SIGINT], ["1", signal.SIGINT]]
    os.close(terminal)


def test_a_second_sigint_kills_and_so_does_the_deadline(tmp_path):
    deaf = [[{"hang": True, "on": {"15": None, "2": None}}]]
    run = Run(tmp_path, deaf, times={"save": 60})
    run.starts(1)
    run.process.terminate()
    wait_for(lambda: run.records("signals"))
    run.process.send_signal(signal.SIGTERM)  # a second one of these changes nothing
    time.sleep(0.1)
    assert not is_gone(run.starts()[0]["pid"])
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 143 and run.has_line("killing what is left: [0] pid")
    (tmp_path / "starts").write_text("")
    run = Run(tmp_path, deaf, times={"save": 0.2})
    run.starts(1)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130 and is_gone(run.starts()[0]["pid"])


def test_two_sigints_at_once_are_one_wish(tmp_path):
    run = Run(tmp_path, [[{"hang": True, "on": {"15": None}}]], times={"second_press": 5, "save": 0.4})
    run.starts(1)
    began = time.monotonic()
    for _ in range(2):  # as `timeout -s INT` does
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert run.end() == 130 and time.monotonic() - began >= 0.4


def test_a_signal_ends_the_wait_for_a_restart(tmp_path):
    run = Run(tmp_path, [[done(75)]], times={"first_wait": 30})
    for line in run.process.stderr:
        if "restart 1 of 3 in 30 s" in line:
            break
    run.process.terminate()
    assert run.end() == 143 and len(run.starts()) == 1 and run.has_line("SIGTERM before the restart")


def test_workers_die_with_the_supervisor(tmp_path):
    run = Run(tmp_path, [[{"hang": True, "on": {"15": None}}]], [[HANG]])
    pids = [start["pid"] for start in run.starts(2)]
    run.process.kill()
    run.process.wait()
    wait_for(lambda: all(is_gone(pid) for pid in pids))


def test_gpus_are_shared_out_evenly(tmp_path):
    run = Run(tmp_path, [[done(0)]], [[done(0)]], CUDA_VISIBLE_DEVICES="4,5,6,7,2")
    assert run.end() == 0 and run.has_line("2 workers with 2 of 5 GPUs each: 1 not used")
    assert {start["index"]: start["devices"] for start in run.starts()} == {"0": "4,5", "1": "6,7"}


def test_gpus_are_counted_by_nvidia_smi(tmp_path):
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n[ $1 = -L ] && printf 'GPU 0: A\\n  MIG 1g.10gb\\nGPU 1: B\\n'\n")
    tool.chmod(0o755)
    code = "import sys; sys.path.insert(0, 'launch'); import workers; print(workers.share_devices(2))"
    env = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for changes, expected in (({}, "['0', '1']"), ({"CCT_CUDA": "0"}, "None")):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env | changes, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def test_devices_say_whether_gpus_are_shared_out(monkeypatch, workers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert workers.share_devices(2, "cpu") is None
    assert workers.share_devices(2, "auto") == workers.share_devices(2, "gpu") == ["0", "1"]
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert workers.share_devices(2) is None


@pytest.mark.parametrize(("argv", "expected"), [
    ([], "N: expected the number of workers, 1 or more, before the flags, found nothing"),
    (["--workdir=x"], "N: expected the number of workers, 1 or more, before the flags, found '--workdir=x'"),
    (["0", "--workdir=x"], "N: expected the number of workers, 1 or more, before the flags, found '0'"),
    (["--max_restarts=-1", "2"], "--max_restarts: expected --max_restarts=R, 0 or more, found '-1'"),
    (["--max_restarts"], "--max_restarts: expected --max_restarts=R, 0 or more, found ''"),
    (["-1", "2"], "N: expected the number of workers, 1 or more, before the flags, found '-1'"),
    (["2"], "--workdir: expected the folder of the run, found none"),
    (["2", "--workdir=x", "--epoch=3"], "--epoch: expected a flag of this command, found none of that name"),
    (["2", "--flagfile=none.cfg"], "--flagfile: expected a file that can be read, found 'none.cfg'"),
    (["3", "--workdir=x"], "N: expected at most 2, one worker a GPU, found 3"),
    (["2", "--workdir=x", "--device=gpu:1,0"], "--device: expected auto, cpu or gpu with 2 workers, who share the GPUs "
     "out, found 'gpu:1,0'; CUDA_VISIBLE_DEVICES=1,0 before the command"),
])
def test_wrong_usage_is_one_line_before_a_worker_starts(argv, expected, monkeypatch, capsys, workers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(workers, "Group", None)
    assert workers.main(argv) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {expected}") and err.count("\n") == 1


def test_help_says_what_it_does(capsys, workers):
    for argv in (["-h"], ["2", "--help"]):
        assert workers.main(argv) == 0
        out, err = capsys.readouterr()
        assert "usage: ./launch/workers.sh [--max_restarts=R] N" in out and "143, 130" in out and not err
    assert max(map(len, out.splitlines())) <= 120


@pytest.fixture
def workers(monkeypatch):
    """The module, found as the script finds it."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import workers
    return workers
