"""launch/tf_config.py: TF_CONFIG from the variables of Slurm and of Kubernetes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch/tf_config.py"
SLURM = {"SLURM_JOB_ID": "71234", "SLURM_STEP_NODELIST": "gpu[01-02,07],login2", "SLURM_STEP_NUM_TASKS": "4",
         "SLURM_NODEID": "2"}
POD = {"JOB_COMPLETION_INDEX": "1", "CCT_WORKERS": "2", "CCT_JOB": "my-run", "CCT_SERVICE": "cct", "CCT_PORT": "2222"}


@pytest.fixture(scope="module")
def tf_config():
    spec = importlib.util.spec_from_file_location("tf_config", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("text", "nodes"), [
    ("vm", "vm"),
    ("gpu[01-03,07],login2", "gpu01 gpu02 gpu03 gpu07 login2"),
    ("a,n[9-11],b[3]", "a n9 n10 n11 b3"),
    ("n[098-101]", "n098 n099 n100 n101"),
    ("rack[1-2]n[09-10]-ib.site,x-1", "rack1n09-ib.site rack1n10-ib.site rack2n09-ib.site rack2n10-ib.site x-1"),
])
def test_node_lists(tf_config, text, nodes):
    assert tf_config.expand_nodes(text) == nodes.split()


def test_slurm(tf_config):
    hosts = ["gpu01:21234", "gpu02:21234", "gpu07:21234", "login2:21234"]
    expected = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 2}}
    assert json.loads(tf_config.derive(SLURM)) == expected
    # What older versions and steps that are the job's first set instead.
    old = {"SLURM_JOB_ID": "71234", "SLURM_JOB_NODELIST": "gpu[01-02,07],login2", "SLURM_NTASKS": "4",
           "SLURM_PROCID": "2"}
    assert json.loads(tf_config.derive(old)) == expected
    other = json.loads(tf_config.derive(SLURM | {"CCT_PORT": "5000"}))
    assert other["cluster"]["worker"][0] == "gpu01:5000"
    for job in (0, 1, 9999, 10000, 2**31):  # above the privileged ports, below those of outgoing connections
        port = json.loads(tf_config.derive(SLURM | {"SLURM_JOB_ID": str(job)}))["cluster"]["worker"][0].split(":")[1]
        assert 20000 <= int(port) < 30000


def test_kubernetes(tf_config):
    assert json.loads(tf_config.derive(POD)) == {"cluster": {"worker": ["my-run-0.cct:2222", "my-run-1.cct:2222"]},
                                                 "task": {"type": "worker", "index": 1}}
    # A pod of Kubernetes inside which a Slurm variable is set is still a pod.
    assert tf_config.derive(SLURM | POD) == tf_config.derive(POD)


def without(name, environment):
    return {key: value for key, value in environment.items() if key != name}


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, "JOB_COMPLETION_INDEX or SLURM_JOB_ID: expected one of them"),
    (without("SLURM_STEP_NODELIST", SLURM), "SLURM_STEP_NODELIST: expected to be set, found nothing"),
    (SLURM | {"SLURM_STEP_NODELIST": "gpu[01-"}, "SLURM_STEP_NODELIST: expected a list like gpu[01-03,07],login2"),
    (SLURM | {"SLURM_STEP_NODELIST": "a,,b"}, "SLURM_STEP_NODELIST: expected a list like"),
    (SLURM | {"SLURM_STEP_NODELIST": "a b"}, "SLURM_STEP_NODELIST: expected a list like"),
    (SLURM | {"SLURM_STEP_NODELIST": "a[3-1]"}, "SLURM_STEP_NODELIST: expected ranges like [01-03,07], found 'a[3-1]'"),
    (SLURM | {"SLURM_STEP_NODELIST": "a[1-2],a1"}, "SLURM_STEP_NODELIST: expected different machines"),
    (SLURM | {"SLURM_STEP_NUM_TASKS": "8"}, "SLURM_STEP_NUM_TASKS: expected one task on each of 4 machines"),
    (SLURM | {"SLURM_NODEID": "4"}, "SLURM_NODEID: expected a whole number from 0 to 3, found '4'"),
    (SLURM | {"CCT_PORT": "80"}, "CCT_PORT: expected a whole number from 1024 to 65535, found '80'"),
    (POD | {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX: expected a whole number from 0 to 1, found '2'"),
    (POD | {"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX: expected to be set, found nothing"),
    (POD | {"CCT_WORKERS": "two"}, "CCT_WORKERS: expected a whole number from 1 to 99999, found 'two'"),
    (POD | {"CCT_JOB": "My_run"}, "CCT_JOB: expected a name of lower-case letters, digits and '-', found 'My_run'"),
    *[(without(name, POD), f"{name}: expected to be set") for name in ("CCT_WORKERS", "CCT_SERVICE", "CCT_PORT")],
])
def test_wrong_variables_are_one_line(tf_config, environment, expected, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", environment)
    assert tf_config.main([]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {expected}") and err.count("\n") == 1


def call(*argv, **env):
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT), *argv], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_it_prints_or_becomes_the_command(tf_config):
    text = tf_config.derive(POD)
    assert call(**POD) == (0, f"{text}\n", "")
    assert call("/bin/sh", "-c", "echo $TF_CONFIG; kill -TERM $$", **POD) == (-15, f"{text}\n", "")
    status, out, err = call("no-such-command", **POD, PATH="/")
    assert (status, out) == (2, "") and err.startswith("error: no-such-command: expected a command") and "\n" in err
    status, out, err = call("--help")
    assert (status, err) == (0, "") and "CCT_WORKERS" in out
    assert call("--json", **POD)[0] == 2
