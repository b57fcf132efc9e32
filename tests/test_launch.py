"""launch/*.sh and the packaging, with a stand-in for Python: nothing is installed and no network is used."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Everything the scripts call beyond bash itself; PATH holds these and the stand-ins only.
TOOLS = "env bash cat dirname find flock grep mkdir readlink realpath rm sha256sum tail touch".split()
PATIENCE = 60  # seconds that a busy machine may take for what takes a moment
# Plays the machine's Python and, copied by `-m venv`, the environment's. Installer calls are written to $CALLS.
STUB = """#!/bin/bash
case "$*" in
  "-I -S -c"*) echo @VERSION@; [[ @VERSION@ =~ ^3\\.1[123]$ ]] ;;
  "-I -c import ensurepip, venv") exit "${NO_VENV:-0}" ;;
  "-I -c "*) ;;
  "-I -m venv --without-pip "*) echo "venv $4 $5" >>"$CALLS" ;;
  "-I -m venv "*) echo "venv $4" >>"$CALLS"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *" setuptools>=77") exit "${PROJECT_STATUS:-0}" ;;
  "-I -m pip "*" -e "*) shift 3; echo "pip $*" >>"$CALLS.project"; echo "no room"; exit "${PROJECT_STATUS:-0}" ;;
  "-I -m pip "*)
    shift 3; echo "pip $*" >>"$CALLS"
    [[ ! ${PIP_PHASE:-} ]] || echo "$PIP_PHASE"
    if [[ ${PIP_UNTIL:-} ]]; then
      trap 'exit 1' TERM; echo "waiting" >>"$CALLS"
      while [[ ! -e $PIP_UNTIL ]]; do sleep 0.02; done
    fi
    echo "the last line of pip"; exit "${PIP_STATUS:-0}" ;;
  "-P -m ruff "*) exit "${RUFF_STATUS:-0}" ;;
  "-P ${SUBMITTED:-}/launch/tf_config.py "*) shift 2; exec "$@" ;;
  "-P -m "*|*/launch/workers.py*)
    [[ ! ${RUN_SLEEP:-} ]] || trap 'exit 143' TERM
    echo "pid $$"; echo "cwd $PWD"; echo "path $PYTHONPATH"; printf '<%s>' "$@"; echo
    if [[ ${RUN_SLEEP:-} ]]; then sleep "$RUN_SLEEP" & wait; fi
    exit "${RUN_STATUS:-0}" ;;
esac
"""


class Machine:
    """A checkout (its path has a space) on a machine with the named Pythons in PATH."""

    def __init__(self, folder):
        self.root, self.bin, self.calls_file = folder / "check out", folder / "bin", folder / "calls"
        shutil.copytree(REPO / "launch", self.root / "launch")
        for name in ("requirements.txt", "pyproject.toml"):
            shutil.copy(REPO / name, self.root)
        self.bin.mkdir()
        for tool in [*TOOLS, "cp", "sleep"]:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.venv = self.root / ".venv"

    def add_python(self, name, version):
        self.write(self.bin / name, STUB.replace("@VERSION@", version))

    @staticmethod
    def write(path, text):
        path.write_text(text)
        path.chmod(0o755)

    def popen(self, *args, script="local.sh", cwd=None, **env):
        env = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "CCT_CUDA": "0", **env}
        # Tests that run in the background of a shell ignore SIGINT, and a shell can't catch what it inherits ignored.
        return subprocess.Popen([self.root / "launch" / script, *args], cwd=cwd or self.root, env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def start(self, *args, **kwargs):
        process = self.popen(*args, **kwargs)
        process.out, process.err = process.communicate(timeout=PATIENCE)
        return process

    def projects(self):
        """The folders of which the project was installed, in order."""
        file = self.calls_file.with_suffix(".project")
        lines = file.read_text().splitlines() if file.exists() else []
        return [Path(line.partition(" --no-deps --no-build-isolation -e ")[2]) for line in lines]

    def calls(self, kind=""):
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.startswith(kind)]


@pytest.fixture
def bare(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def machine(bare):
    bare.add_python("python3", "3.12")
    return bare


def children_seconds():
    """Processor time of the processes that have ended: a busy machine slows the clock, not these."""
    found = os.times()
    return found.children_user + found.children_system


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_first_start_installs_and_second_start_only_runs(machine):
    first = machine.start()
    assert first.returncode == 0 and "making" in first.err and "installing" in first.err
    assert machine.calls("venv") == [f"venv {machine.venv}"]
    assert machine.calls("pip") == [f"pip install --no-input -r {machine.root}/requirements.txt"]
    before = {p: p.stat().st_mtime_ns for p in machine.root.rglob("*")}
    begin = children_seconds()
    second = machine.start()
    assert children_seconds() - begin < 1
    assert second.returncode == 0 and "is ready: Python 3.12" in second.err and len(machine.calls()) == 2
    assert before == {p: p.stat().st_mtime_ns for p in machine.root.rglob("*")}


def test_arguments_folder_and_exit_status_pass_through(machine, tmp_path):
    run = machine.start("--flagfile=a b.cfg", "", "*", cwd=tmp_path, RUN_STATUS="7", PYTHONPATH="/theirs")
    assert run.returncode == 7
    command = "<-P><-m><cct_tf.train><--flagfile=a b.cfg><><*>"
    assert run.out.splitlines()[1:] == [f"cwd {tmp_path}", f"path {machine.root}:/theirs", command]


def test_a_link_to_the_script_finds_the_checkout(machine, tmp_path):
    machine.start()
    (tmp_path / "train").symlink_to(machine.root / "launch/local.sh")
    run = machine.start(script=tmp_path / "train", cwd=tmp_path)
    assert run.returncode == 0 and f"path {machine.root}\n" in run.out


def test_training_is_the_started_process_and_gets_its_signals(machine):
    machine.start()
    process = machine.popen(RUN_SLEEP="20")
    assert process.stdout.readline() == f"pid {process.pid}\n"
    [process.stdout.readline() for _ in range(3)]
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 143
    # Nor does the training hold the lock of the set-up.
    process = machine.popen(RUN_SLEEP="20")
    process.stdout.readline()
    (machine.root / "requirements.txt").write_text("numpy\n")
    assert machine.start().returncode == 0
    process.terminate()
    process.wait(timeout=PATIENCE)


def test_workers_script_becomes_the_supervisor(machine, tmp_path):
    run = machine.start("--max_restarts=1", "2", "--flagfile=a b.cfg", script="workers.sh", cwd=tmp_path,
                        RUN_STATUS="75")
    assert run.returncode == 75
    command = f"<{machine.root}/launch/workers.py><--max_restarts=1><2><--flagfile=a b.cfg>"
    assert run.out.splitlines()[1:] == [f"cwd {tmp_path}", f"path {machine.root}", command]
    process = machine.popen("2", script="workers.sh", RUN_SLEEP="20")
    assert process.stdout.readline() == f"pid {process.pid}\n"
    [process.stdout.readline() for _ in range(3)]
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 143


@pytest.fixture
def slurm(machine, tmp_path):
    """start(*flags, **env) of launch/slurm.sh as a job: a copy, as Slurm makes one, between stand-ins of its tools."""
    shutil.copy(machine.root / "launch/slurm.sh", tmp_path / "slurm_script")
    machine.write(machine.bin / "srun", '#!/bin/bash\necho "srun $SRUN_CPUS_PER_TASK" >>"$CALLS"\n'
                  'while [[ $1 == --* ]]; do shift; done; "$@"')
    # Slurm ends a job that goes back into the queue, the script that asked for it included.
    machine.write(machine.bin / "scontrol", '#!/bin/bash\necho "scontrol $*" >>"$CALLS"; kill -KILL "$PPID"')

    def start(*flags, **env):
        return machine.start(*flags, script=tmp_path / "slurm_script", SLURM_JOB_ID="7", **{
            "SUBMITTED": str(machine.root), "SLURM_SUBMIT_DIR": str(machine.root), **env})
    return start


def test_a_slurm_job_trains_and_ends_with_the_status(slurm, machine):
    run = slurm("--flagfile=a b.cfg", "*", SLURM_CPUS_PER_TASK="6")
    assert run.returncode == 0 and run.out.splitlines()[-1] == "<-P><-m><cct_tf.train><--flagfile=a b.cfg><*>"
    assert machine.calls("srun") == ["srun 6"]
    assert [slurm(RUN_STATUS=str(status)).returncode for status in (1, 2, 127)] == [1, 2, 127]
    assert not machine.calls("scontrol")


def test_a_slurm_job_that_was_stopped_or_lost_goes_back_into_the_queue(slurm, machine):
    for status in ("75", "143", "130", "137"):
        run = slurm(RUN_STATUS=status, SLURM_RESTART_COUNT="2")
        assert run.returncode == -9 and f"status {status}; back into the queue for restart 3 of 20" in run.err
    assert machine.calls("scontrol") == ["scontrol requeue 7"] * 4
    run = slurm(RUN_STATUS="75", SLURM_RESTART_COUNT="3", CCT_MAX_RESTARTS="3")
    assert run.returncode == 75 and "given up" in run.err and len(machine.calls("scontrol")) == 4
    machine.write(machine.bin / "scontrol", "#!/bin/bash\nexit 1")
    run = slurm(RUN_STATUS="137")
    assert run.returncode == 137 and "job 7 was not put back into the queue" in run.err


def test_a_slurm_job_submitted_from_elsewhere_says_so(slurm, tmp_path):
    run = slurm(SLURM_SUBMIT_DIR=str(tmp_path))
    assert run.returncode == 2 and "expected to be started by sbatch from the repository's root" in run.err
    assert run.err.count("\n") == 1


def test_missing_venv_module_names_the_packages_to_install(machine):
    run = machine.start(NO_VENV="1")
    assert run.returncode == 2 and "sudo apt-get install python3-venv python3.12-venv" in run.err
    assert not machine.calls()


def test_without_a_fitting_python_the_found_ones_are_named(bare):
    bare.add_python("python3", "3.10")
    bare.write(bare.bin / "python3.13", "#!/bin/bash\necho 'pyenv: command not found' >&2; exit 127\n")
    run = bare.start()
    assert run.returncode == 2 and "apt-get install python3 python3-venv" in run.err
    assert f"{bare.bin}/python3 (3.10) {bare.bin}/python3.13." in run.err and "pyenv" not in run.err


def test_a_python_that_does_not_run_is_passed_over(bare, tmp_path):
    bare.write(bare.bin / "python3", "#!/bin/bash\nexit 127\n")
    other = tmp_path / "other"
    other.mkdir()
    bare.add_python("../other/python3", "3.11")
    run = bare.start(PATH=f"{bare.bin}:{other}")
    assert run.returncode == 0 and f"with {other}/python3 (3.11)" in run.err


def test_cct_python_and_cct_venv_choose(machine, tmp_path):
    machine.add_python("mine", "3.13")
    run = machine.start(cwd=tmp_path, CCT_PYTHON=str(machine.bin / "mine"), CCT_VENV="my venv")
    assert run.returncode == 0 and f"{tmp_path}/my venv is ready: Python 3.13" in run.err
    assert not machine.venv.exists()
    assert machine.start(CCT_PYTHON="none-such", CCT_VENV=str(tmp_path / "new")).returncode == 2


def test_parallel_starts_install_once(machine, tmp_path):
    release = tmp_path / "release"
    first = machine.popen(PIP_UNTIL=str(release))
    wait_for(lambda: machine.calls("pip"))
    others = [machine.popen() for _ in range(3)]
    said = [p.stderr.readline() for p in others]  # before the install has ended: the first line says so
    release.touch()
    outs = [p.communicate(timeout=PATIENCE) for p in [first, *others]]
    assert [p.returncode for p in [first, *others]] == [0] * 4, outs
    assert len(machine.calls("venv")) == len(machine.calls("pip")) == 1
    assert all("waiting for it" in line for line in said), said


def test_failed_install_shows_the_log_and_is_repeated(machine):
    run = machine.start(PIP_STATUS="1")
    assert run.returncode == 75 and "the last line of pip" in run.err and "pid" not in run.out
    assert machine.start().returncode == 0
    assert len(machine.calls("pip")) == 2 and len(machine.calls("venv")) == 1  # pip had not begun to write


@pytest.mark.parametrize("kill, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_install_stopped_while_writing_is_made_again(machine, kill, status, tmp_path):
    release = tmp_path / "release"
    process = machine.popen(PIP_UNTIL=str(release), PIP_PHASE="Installing collected packages: tensorflow")
    wait_for(lambda: machine.calls("waiting"))
    process.send_signal(kill)
    assert process.wait(timeout=PATIENCE) == status
    run, first = machine.popen(), ""
    if kill == signal.SIGKILL:  # the installer still holds the lock
        first = run.stderr.readline()
        assert "waiting for it" in first
    release.touch()
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0 and "unfinished" in first + err and len(machine.calls("venv")) == 2
    process.communicate(timeout=PATIENCE)


def test_changed_requirements_or_python_are_installed_again(machine):
    machine.start()
    with open(machine.root / "requirements.txt", "a") as file:
        file.write("# changed\n")
    assert "installing" in machine.start().err and len(machine.calls("venv")) == 1
    (machine.venv / "bin/python").unlink()  # as after an upgrade of the system
    assert "making it again" in machine.start().err and len(machine.calls("venv")) == 2


def test_the_project_is_installed_once(machine):
    machine.start()
    assert machine.projects() == [machine.root]
    assert "its commands work in any folder" not in machine.start().err and machine.projects() == [machine.root]
    with open(machine.root / "pyproject.toml", "a") as file:
        file.write("# changed\n")
    assert "its commands work in any folder" in machine.start().err and machine.projects() == 2 * [machine.root]
    (machine.venv / ".cct/project").unlink()  # as in an environment of an older version
    machine.start()
    assert machine.projects() == 3 * [machine.root] and len(machine.calls("pip")) == 1


def test_a_moved_checkout_is_installed_anew(machine):
    machine.start()
    before, machine.root = machine.root, machine.root.with_name("moved")
    before.rename(machine.root)
    machine.venv = machine.root / ".venv"
    machine.start()
    assert machine.projects() == [before, machine.root] and len(machine.calls("pip")) == 1
    assert machine.calls("venv")[-1] == f"venv --without-pip {machine.venv}"  # activate names the old place


def test_checkouts_that_share_an_environment_run_their_own_code(machine, tmp_path):
    first, second = machine.root, tmp_path / "second"
    shutil.copytree(first, second)
    for root in (first, second, first, second):
        machine.root = root
        assert f"path {root}\n" in machine.start(CCT_VENV=str(tmp_path / "shared")).out
    assert machine.projects() == [first] and len(machine.calls("pip")) == 1
    shutil.rmtree(first)
    machine.start(CCT_VENV=str(tmp_path / "shared"))
    assert machine.projects() == [first, second]


def test_a_project_that_cannot_be_installed_is_a_message_and_is_not_tried_each_time(machine):
    run = machine.start(PROJECT_STATUS="1")
    assert run.returncode == 0 and "could not install the project into" in run.err and "pid" in run.out
    assert not machine.projects()
    run = machine.start()
    assert run.returncode == 0 and "could not install" not in run.err and not machine.projects()


def test_cuda_is_added_once_and_kept(machine):
    machine.start()
    machine.start(CCT_CUDA="1")
    assert machine.calls("pip")[1].endswith("requirements.txt tensorflow[and-cuda]")
    run = machine.start(CCT_CUDA="1")
    assert "CCT_CUDA=1" in run.err
    machine.start()
    assert len(machine.calls("pip")) == 2
    run = machine.start(CCT_CUDA="yes")
    assert run.returncode == 2 and "found 'yes'" in run.err


def test_a_folder_that_is_no_environment_is_left_alone(machine, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    run = machine.start(CCT_VENV=str(tmp_path / "home"))
    assert run.returncode == 2 and "not made by this script" in run.err
    assert os.listdir(tmp_path / "home") == ["thesis.txt"] and not machine.calls()


def test_an_environment_made_by_hand_is_used_and_never_deleted(machine):
    (machine.venv / "bin").mkdir(parents=True)
    shutil.copy(machine.bin / "python3", machine.venv / "bin/python")
    assert machine.start(PIP_STATUS="1", PIP_PHASE="Installing collected packages").returncode == 75
    assert machine.start().returncode == 0 and not machine.calls("venv")


def test_test_script_adds_its_packages_and_passes_arguments(machine, tmp_path):
    config = f"<-P><-m><pytest><-c><{machine.root}/pyproject.toml>"
    run = machine.start("-k", "a or b", script="test.sh", cwd=tmp_path)
    whole = f"<-n><3><--dist=loadfile><--no-loadscope-reorder><{machine.root}/tests>"
    assert run.returncode == 0 and run.out.splitlines()[-1] == f"{config}{whole}<-k><a or b>"
    assert machine.calls("pip")[0].endswith("".join(
        f" -r {machine.root}/{name}.txt" for name in ("requirements", "launch/requirements-test",
                                                      "launch/requirements-export")))
    (tmp_path / "test_a.py").touch()
    run = machine.start("test_a.py::test_b", script="test.sh", cwd=tmp_path, RUN_STATUS="5")
    assert run.returncode == 5 and run.out.splitlines()[-1] == f"{config}<test_a.py::test_b>"
    assert machine.start().returncode == 0 and len(machine.calls("pip")) == 1  # local.sh needs no more
    run = machine.start(script="test.sh", RUFF_STATUS="1")
    assert run.returncode == 1 and not run.out


def test_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    scripts = [*sorted((REPO / "launch").glob("*.sh")), REPO / ".ci/run"]
    result = subprocess.run([shellcheck, "-x", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_requirements_name_every_imported_package():
    """Those of the extras where they are used; pandas is for `History.to_pandas`, of those who have it.

    array_record (on Linux), pyarrow and fsspec come with tensorflow-datasets, scipy with scikit-learn, sqlalchemy with
    optuna.
    """
    names, extra, heif, simd, sweep, tiff = (
        {re.match(r"[\w-]+", line)[0].lower() for line in (REPO / name).read_text().splitlines()
         if line and not line.startswith("#")}
        for name in ("requirements.txt", "launch/requirements-export.txt", "launch/requirements-heif.txt",
                     "launch/requirements-simd.txt", "launch/requirements-sweep.txt", "launch/requirements-tiff.txt"))
    distributions = {"absl": "absl-py", "pil": "pillow", "sklearn": "scikit-learn", "ai_edge_litert": "ai-edge-litert",
                     "tensorflow_datasets": "tensorflow-datasets", "pillow_heif": "pillow-heif",
                     "cykooz_resizer": "cykooz-resizer"}
    standard = set(map(str.lower, sys.stdlib_module_names))
    for path in (REPO / "cct_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {m.split(".")[0].lower() for m in modules} - standard:
                known = names | {"export": extra, "runs": extra, "readers": {"array_record"}, "images": heif | tiff,
                                 "augment": simd, "tables": {"pyarrow"}, "machine": {"fsspec"},
                                 "sweep": sweep | {"scipy", "sqlalchemy"}, "cct_tf": {"pandas"}
                                 }.get(path.parent.name, set())
                assert top == "cct_tf" or distributions.get(top, top) in known, f"{path}: {top}"


def test_console_commands_name_functions_without_arguments():
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"cct-inspect", "cct-train", "cct-evaluate", "cct-preview", "cct-benchmark", "cct-models",
                            "cct-checkpoints", "cct-predict", "cct-compare", "cct-convert-torch", "cct-export",
                            "cct-tabulate", "cct-sweep"}
    for target in scripts.values():
        module, _, name = target.partition(":")
        tree = ast.parse((REPO / (module.replace(".", "/") + ".py")).read_text())
        found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
        assert found and not any(a.arg for a in [*found[0].args.posonlyargs, *found[0].args.args]), target
