"""Which GPUs a process sees, and what stands in its way. Faked: the tests see no GPU."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from cct_tf import convert_torch, inspect_data, preview
from cct_tf.errors import UserError
from cct_tf.export import __main__ as export
from cct_tf.machine import gpus, runtime
from cct_tf.settings import config

CUDA = {"is_cuda_build": True, "cuda_compute_capabilities": ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a driver and four GPUs, in a process that has not imported TensorFlow; a function to change it."""
    (tmp_path / "nvidiactl").touch()
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": os.environ["PATH"]}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(gpus, "_DRIVER", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(gpus, "_NODES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(gpus, "_DRIVER_OF_HOST", str(tmp_path / "none"))
    monkeypatch.setattr(gpus, "_chosen", None)
    monkeypatch.setattr(gpus.sys, "modules", {name: module for name, module in sys.modules.items()
                                              if name != "tensorflow"})
    return environment


def fake_tensorflow(monkeypatch, *capabilities, built_for=CUDA):
    """TensorFlow sees GPUs of these compute capabilities."""
    seen = [f"gpu {index}" for index in range(len(capabilities))]
    details = {gpu: {"compute_capability": each, "device_name": "NVIDIA X"}
               for gpu, each in zip(seen, capabilities, strict=True)}
    monkeypatch.setattr(gpus.sys, "modules", sys.modules | {"tensorflow": tf})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: seen)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: built_for)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: built_for["is_cuda_build"])
    return seen


@pytest.mark.parametrize(("device", "given", "seen"), [
    ("auto", None, None), ("auto", "2", "2"), ("cpu", None, "-1"), ("cpu", "2,3", "-1"), ("gpu", None, None),
    ("gpu", "2,3", "2,3"), ("gpu:2,3", None, "2,3"), ("gpu:3,0", None, "3,0"), ("gpu:1", "5,GPU-ab,7", "GPU-ab"),
    ("gpu:1,0", " 5, 7", "7,5"), ("gpu:0", "MIG-x", "MIG-x"), ("auto", "-1", "-1"), ("cpu", "", "-1")])
def test_only_the_gpus_of_the_flag_are_visible(machine, device, given, seen):
    if given is not None:
        machine["CUDA_VISIBLE_DEVICES"] = given
    gpus.choose(device)
    assert machine.get("CUDA_VISIBLE_DEVICES") == seen
    # Where nothing else chooses, the numbers are nvidia-smi's and not those of CUDA, whose first GPU is the fastest.
    assert machine.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if given is None and ":" in device else None)
    gpus.choose(device)
    assert machine.get("CUDA_VISIBLE_DEVICES") == seen and gpus.current() == device


@pytest.mark.parametrize(("device", "given", "line"), [
    ("gpu:4", None, "expected numbers below 4, of the GPUs of this machine counted from 0, found 'gpu:4'"),
    ("gpu:0,2", "5,7", "expected numbers below 2, of the GPUs of CUDA_VISIBLE_DEVICES=5,7 counted from 0, found "
     "'gpu:0,2'"),
    ("gpu", "", "expected auto or cpu, for CUDA_VISIBLE_DEVICES= hides all GPUs, found 'gpu'"),
    ("gpu:0", "-1", "expected auto or cpu, for CUDA_VISIBLE_DEVICES=-1 hides all GPUs, found 'gpu:0'"),
    ("gpu", "NoDevFiles", "expected auto or cpu, for CUDA_VISIBLE_DEVICES=NoDevFiles hides all GPUs"),  # Slurm's
    ("tpu", None, "expected auto, cpu, gpu, or gpu: and different numbers .* found 'tpu'"),
    ("gpu:1,01", None, "expected .* different numbers"), ("cpu:1", None, "expected auto, cpu"),
    ("gpu:-1", None, "expected auto, cpu"), ("gpu:1,", None, "expected auto, cpu"),
    ("GPU", None, "expected auto, cpu")])
def test_a_gpu_that_is_not_there_is_refused_before_tensorflow(machine, device, given, line):
    if given is not None:
        machine["CUDA_VISIBLE_DEVICES"] = given
    with pytest.raises(UserError, match=f"^--device: {line}"):
        gpus.choose(device)
    assert machine.get("CUDA_VISIBLE_DEVICES") == given


def test_without_a_driver_the_cpu_is_all_there_is(machine, monkeypatch):
    monkeypatch.setattr(gpus, "_DRIVER", ("/none/nvidiactl",))
    gpus.choose("cpu")
    assert "CUDA_VISIBLE_DEVICES" not in machine
    with pytest.raises(UserError, match="--device: expected auto or cpu where no NVIDIA driver is found .* 'gpu:0'"):
        gpus.choose("gpu:0")
    monkeypatch.setattr(gpus.sys, "modules", sys.modules | {"tensorflow": tf})
    gpus.choose("auto")  # the same thing there, in a process that has computed too


def test_a_process_that_has_imported_tensorflow_keeps_its_gpus(machine, monkeypatch):
    gpus.choose("gpu:1")
    monkeypatch.setattr(gpus.sys, "modules", sys.modules | {"tensorflow": tf})
    gpus.choose("gpu:1")
    gpus.hide()
    with pytest.raises(UserError, match="--device: expected gpu:1, as in this process .* found 'cpu'.* a new process"):
        gpus.choose("cpu")
    assert machine["CUDA_VISIBLE_DEVICES"] == "1" and gpus.current() == "gpu:1" and gpus.first() == "1"


@pytest.mark.parametrize(("command", "given"), [
    (preview, {"rows": 7, "draws": 999}), (inspect_data, {"dataset": "npz"}), (convert_torch, {}),
    (export, {"workdir": "/"})])
def test_commands_that_compute_on_the_cpu_hide_all_gpus_at_once(machine, monkeypatch, command, given):
    monkeypatch.setattr(runtime, "start_tensorflow", None)
    with pytest.raises(UserError):  # of something else, later
        command.main(given)
    assert machine["CUDA_VISIBLE_DEVICES"] == "-1"


def test_memory_grows_with_what_is_needed_but_on_a_divided_gpu(machine, monkeypatch):
    """Faked up to the strategy, which wants real GPUs."""
    grown = []
    seen = fake_tensorflow(monkeypatch, (8, 0))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grows: grown.append((gpu, grows)))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names, cross_device_ops: names)
    monkeypatch.setattr(runtime, "_divide_gpu", lambda gpu, count: None)
    assert runtime.make_devices(2).divided and grown == []
    assert runtime.make_devices(1).kind == "GPU" and grown == [(seen[0], True)]


def test_libraries_that_do_not_load_are_an_error_with_tensorflows_reason(machine, monkeypatch):
    fake_tensorflow(monkeypatch)
    said = ("I0000 00:00:17958.94  5400 port.cc:153] oneDNN custom operations are on.\n"
            "E0000 00:00:17958.95  5400 cuda_dnn.cc:8] Unable to register cuDNN factory: CUDA\n"
            "W0000 00:00:17958.96  5400 gpu_device.cc:2431] Cannot dlopen some GPU libraries. Please make sure ...\n"
            "Skipping registering GPU devices...\n")
    asked = []

    def run(command, env, **_):
        asked.append(env["TF_CPP_MIN_LOG_LEVEL"])
        return subprocess.CompletedProcess(command, 0, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError) as raised:
        runtime.local_devices()
    line = str(raised.value)
    assert line.startswith("--device: expected the libraries that the GPU of this machine needs") and asked == ["0"]
    assert ": Cannot dlopen some GPU libraries; `CCT_CUDA=1 ./launch/local.sh`" in line and "\n" not in line
    assert "pip install '.[cuda]'" in line and "--device=cpu" in line
    for hidden in ("", "-1"):
        machine["CUDA_VISIBLE_DEVICES"] = hidden
        assert runtime.local_devices() == ("CPU", 1)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    del machine["CUDA_VISIBLE_DEVICES"]
    with pytest.raises(UserError, match="can't use it: it was built without CUDA; "):
        runtime.local_devices()


def test_tensorflows_reason_is_found_in_what_it_says(machine):
    """Of a real start: machines without a driver have a reason too."""
    machine["PYTHONPATH"] = os.pathsep.join(sys.path)
    machine["CUDA_VISIBLE_DEVICES"] = "-1"
    reason = gpus._reason()
    assert reason != "it does not say why" and "\n" not in reason and "cu" in reason.lower()


def test_fewer_gpus_than_the_flag_names_are_refused(machine, monkeypatch):
    gpus.choose("gpu:1,2")
    fake_tensorflow(monkeypatch, (8, 0))
    with pytest.raises(UserError, match="--device: expected .* 2 GPUs .* 'gpu:1,2', of which TensorFlow sees 1"):
        runtime.local_devices()


@pytest.mark.parametrize(("capability", "is_refused"), [((9, 0), False), ((10, 0), False), ((12, 0), True)])
def test_blackwell_is_one_line_instead_of_invalid_ptx(machine, monkeypatch, capability, is_refused):
    fake_tensorflow(monkeypatch, (8, 0), capability)
    if not is_refused:
        assert runtime.local_devices() == ("GPU", 2)
        return
    with pytest.raises(UserError, match=r"--device: expected .* below 12.0, .* found 12.0 \(NVIDIA X\), .*INVALID_PTX"):
        runtime.local_devices()
    fake_tensorflow(monkeypatch, capability, built_for=CUDA | {"cuda_compute_capabilities": ["sm_90", "sm_120"]})
    assert runtime.local_devices() == ("GPU", 1)  # another build than the wheel


def test_the_wheel_says_what_it_was_built_for():
    assert gpus._built_for() and all(major < 20 and minor < 10 for major, minor in gpus._built_for())


def test_kernels_are_kept_beside_compiled_programs(machine, tmp_path):
    gpus.keep_kernels("off")
    assert machine["CUDA_CACHE_PATH"] == str(tmp_path / "cache/cct_tf/cuda")
    assert machine["CUDA_CACHE_MAXSIZE"] == str(2**32 - 1)
    assert (tmp_path / "cache/cct_tf/cuda").stat().st_mode & 0o777 == 0o700
    gpus.keep_kernels(str(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()  # chosen before
    del machine["CUDA_CACHE_PATH"]
    machine["CUDA_CACHE_MAXSIZE"] = "7"
    gpus.keep_kernels(str(tmp_path / "mine"))
    assert (machine["CUDA_CACHE_PATH"], machine["CUDA_CACHE_MAXSIZE"]) == (str(tmp_path / "mine/cuda"), "7")


def test_a_folder_that_others_write_to_keeps_no_kernels(machine, tmp_path):
    (tmp_path / "cache/cct_tf/cuda").mkdir(parents=True)
    (tmp_path / "cache/cct_tf/cuda").chmod(0o777)
    gpus.keep_kernels("auto")
    assert "CUDA_CACHE_PATH" not in machine


def test_the_kernels_folder_is_chosen_before_tensorflow_starts(machine, monkeypatch):
    monkeypatch.setattr(runtime, "quiet_stderr", lambda: pytest.fail("not before the import"))
    called = []
    monkeypatch.setattr(gpus, "keep_kernels", lambda cache: called.append((cache, "tensorflow" in sys.modules)))
    with pytest.raises(pytest.fail.Exception):
        runtime.start_tensorflow("off")
    assert called == [("off", False)]


@pytest.mark.parametrize(("capability", "is_slow"), [((9, 0), True), ((10, 3), True), ((8, 6), False), ((8, 9), False)])
def test_the_first_start_says_why_it_is_slow(machine, monkeypatch, capability, is_slow):
    gpus.keep_kernels("auto")
    fake_tensorflow(monkeypatch, capability, capability)
    shown = ".".join(map(str, capability))
    expected = [f"the first start on a GPU of compute capability {shown} is slow: TensorFlow holds machine code for "
                f"others, so the driver compiles its kernels now; they are kept in {machine['CUDA_CACHE_PATH']}"]
    assert gpus.notes() == expected * is_slow
    with open(os.path.join(machine["CUDA_CACHE_PATH"], "index"), "w"):
        assert gpus.notes() == []


def test_a_container_without_its_gpu_says_so(machine, monkeypatch, tmp_path):
    fake_tensorflow(monkeypatch)
    monkeypatch.setattr(gpus, "_DRIVER", ("/dev/none",))
    assert gpus.notes() == []
    (tmp_path / "none").touch()
    line, = gpus.notes()
    assert line.startswith("computing on the CPU: this machine has an NVIDIA driver, but /dev/none is missing")


def test_the_config_takes_devices_and_refuses_others():
    assert config.from_dict({"device": "gpu:2,3"}).run.device == "gpu:2,3"
    with pytest.raises(UserError, match="^--device: "):
        config.from_dict({"device": "gpu:x"})
