"""launch/kubernetes.yaml and the image: what they promise each other, tf_config.py and the trainer."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from cct_tf import errors
from cct_tf.settings import flags

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="module")
def objects():
    yaml = pytest.importorskip("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())}


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.37"])
def test_the_manifest_fits_the_published_schemas(objects, version):
    validate = pytest.importorskip("kubernetes_validate").validate
    for each in objects.values():
        validate(each, version, strict=True)


def test_pods_find_each_other_by_what_tf_config_makes(objects):
    service, job = objects["Service"], objects["Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert int(env["CCT_WORKERS"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert env["CCT_JOB"] == job["metadata"]["name"] == service["spec"]["selector"]["batch.kubernetes.io/job-name"]
    assert env["CCT_SERVICE"] == pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert int(env["CCT_PORT"]) == container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"]
    made = subprocess.run([sys.executable, str(LAUNCH / "tf_config.py")], env=env | {"JOB_COMPLETION_INDEX": "1"},
                          capture_output=True, text=True, check=True)
    hosts = json.loads(made.stdout)["cluster"]["worker"]
    assert hosts == ["cct-0.cct:20000", "cct-1.cct:20000"]


def test_statuses_mean_to_the_job_what_they_mean_to_us(objects):
    spec = objects["Job"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a podFailurePolicy needs
    actions = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        for status in rule.get("onExitCodes", {}).get("values", ["disrupted"]):
            actions[status] = rule["action"]
        assert rule.get("onExitCodes", {}).get("operator", "In") == "In"
    asked = {128 + number: "Ignore" for number in errors.STOP_SIGNALS}
    assert actions == {errors.WRONG_INPUT: "FailJob", 1: "FailJob", "disrupted": "Ignore"} | asked
    assert errors.OUTSIDE_FAULT not in actions and spec["backoffLimit"] >= 3 * spec["completions"]


def test_the_pod_runs_the_trainer_on_the_shared_folder(objects):
    pod = objects["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == "python -P launch/tf_config.py python -P -m cct_tf.train".split()
    run = flags.load_config([text.replace("=configs/", f"={LAUNCH.parent}/configs/") for text in container["args"]]).run
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert run.workdir.startswith(mounts["runs"] + "/")
    claim, = (each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if each["name"] == "runs")
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert objects["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_image_holds_what_the_manifest_starts():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    ignore = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert {"requirements.txt", "cct_tf", "launch", "configs"} <= copied
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((LAUNCH.parent / name).exists() for name in copied)
    assert 'ENTRYPOINT ["python", "-P", "-m", "cct_tf.train"]' in lines and "USER 1000" in lines
    supported = re.search(r">=3\.(\d+),<3\.(\d+)", (LAUNCH.parent / "pyproject.toml").read_text())
    minor = int(re.search(r"^FROM python:3\.(\d+)-slim$", "\n".join(lines), re.M)[1])
    assert int(supported[1]) <= minor < int(supported[2])


def test_the_dockerfile_passes_hadolint():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=pathlib.Path(sys.executable).parent)
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, LAUNCH / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
