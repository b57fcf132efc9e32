"""NVIDIA GPUs: which of them this process sees (--device), where their driver keeps kernels, what does not work.

TensorFlow takes a part of every GPU that it can see, as soon as it lists them. So --device acts through
CUDA_VISIBLE_DEVICES, before TensorFlow is imported; this module imports it in functions only.
"""

import contextlib
import glob
import itertools
import os
import pathlib
import re
import subprocess
import sys

from cct_tf.errors import UserError
from cct_tf.machine import compile_cache

_DRIVER = "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1"  # of Linux, and of Linux on Windows
_DRIVER_OF_HOST = "/proc/driver/nvidia/version"  # seen in a container, too, that was given no GPU
_NODES = "/dev/nvidia[0-9]*"
_VISIBLE, _KERNELS = "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH"
_KERNELS_BYTES = 2**32 - 1  # of compiled kernels, the most that CUDA takes; one process may compile hundreds of MB
_BLACKWELL = 12  # major compute capability of its GeForce and RTX cards
_LIST = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"

_chosen = None  # (--device, CUDA_VISIBLE_DEVICES before it) of this process


def parse(device):
    """What --device says.

    Returns:
        ("auto", "cpu" or "gpu", tuple of the GPUs' numbers, empty for all).

    Raises:
        UserError: it says something else.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)|(gpu):([0-9]{1,4}(?:,[0-9]{1,4})*)", device)
    numbers = tuple(map(int, match[3].split(","))) if match and match[3] else ()
    if match is None or len(set(numbers)) < len(numbers):
        raise UserError("--device: expected auto, cpu, gpu, or gpu: and different numbers of GPUs with commas between "
                        f"them, such as gpu:2,3, found {device!r}")
    return match[1] or match[2], numbers


def choose(device):
    """Let this process see only the GPUs of --device; to be called before TensorFlow is imported.

    Args:
        device: text of --device. Numbers count the GPUs that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        UserError: it is wrong, there are no such GPUs, or TensorFlow is there already and sees others.
    """
    global _chosen
    before, given = _chosen or ("auto", os.environ.get(_VISIBLE))
    if device == before:
        parse(device)
        return
    wanted = _visible(device, given)
    if wanted != os.environ.get(_VISIBLE):
        if "tensorflow" in sys.modules:
            raise UserError(f"--device: expected {before}, as in this process since TensorFlow was imported, found "
                            f"{device!r}; TensorFlow can't change it: start a new process (restart the kernel of a "
                            "notebook)")
        os.environ.pop(_VISIBLE, None)
        if wanted is not None:
            os.environ[_VISIBLE] = wanted
        if given is None and parse(device)[1]:
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers as nvidia-smi shows them
    _chosen = device, given


def hide():
    """Let this process see no GPU, if TensorFlow is not imported yet: for what computes on the CPU in any case."""
    if "tensorflow" not in sys.modules:
        choose("cpu")


def current():
    """--device of this process: that of the last `choose`, or "auto"."""
    return _chosen[0] if _chosen else "auto"


def is_there():
    """Whether this process could use an NVIDIA GPU: a driver is loaded and has been handed to it."""
    return any(map(os.path.exists, _DRIVER))


def _visible(device, given):
    """What CUDA_VISIBLE_DEVICES has to be for --device: text, or None for not set. `given`: what it was before."""
    kind, numbers = parse(device)
    if kind == "auto":
        return given
    if kind == "cpu":
        return "-1" if is_there() else given
    if not is_there():
        raise UserError(f"--device: expected auto or cpu where no NVIDIA driver is found ({_DRIVER[0]}), found "
                        f"{device!r}")
    seen = listed(given)
    if seen == []:
        raise UserError(f"--device: expected auto or cpu, for {_VISIBLE}={given} hides all GPUs, found {device!r}")
    count = len(glob.glob(_NODES)) if seen is None else len(seen)  # 0 on Windows: TensorFlow counts them later
    if count and max(numbers, default=0) >= count:
        left = "GPUs of this machine" if seen is None else f"GPUs of {_VISIBLE}={given}"
        raise UserError(f"--device: expected numbers below {count}, of the {left} counted from 0, found {device!r}")
    return ",".join(str(number) if seen is None else seen[number] for number in numbers) if numbers else given


def listed(value):
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names, a list of text; None where it is not set, which means all.

    CUDA stops at the first entry that names none, such as -1.
    """
    if value is None:
        return None
    entries = (entry.strip() for entry in value.split(","))
    return list(itertools.takewhile(lambda entry: re.fullmatch(r"\d+|(GPU|MIG)-.+", entry), entries))


def first():
    """The first GPU that this process sees, as nvidia-smi takes it: text."""
    return (listed(os.environ.get(_VISIBLE)) or ["0"])[0]


def check(seen):
    """Refuse what TensorFlow can't do with the GPUs of this process.

    Args:
        seen: list of the tf.config.PhysicalDevice that TensorFlow sees.

    Raises:
        UserError: its libraries don't load; it sees fewer GPUs than --device names; they are too new for it.
    """
    if not seen and is_there() and listed(os.environ.get(_VISIBLE)) != []:
        raise UserError("--device: expected the libraries that the GPU of this machine needs, found that TensorFlow "
                        f"can't use it: {_reason()}; `CCT_CUDA=1 ./launch/local.sh`, or `pip install '.[cuda]'`, "
                        "installs them; --device=cpu computes without it")
    asked = len(parse(current())[1])
    if seen and len(seen) < asked:
        raise UserError(f"--device: expected numbers of {asked} GPUs that are there, found {current()!r}, of which "
                        f"TensorFlow sees {len(seen)}")
    for gpu in seen:
        name, capability = _details(gpu)
        if capability and capability[0] >= _BLACKWELL and max(_built_for(), default=(0, 0))[0] < _BLACKWELL:
            import tensorflow as tf
            raise UserError(f"--device: expected a GPU of compute capability below {_BLACKWELL}.0, for this TensorFlow "
                            f"({tf.__version__}) was built for none of later ones, found {capability[0]}."
                            f"{capability[1]} ({name}), where it would end with CUDA_ERROR_INVALID_PTX; --device=cpu "
                            "computes without it, --device=gpu:N on another")


def _reason():
    """Why TensorFlow sees no GPU, in its own words. It says so only at its import, so another process imports it."""
    import tensorflow as tf
    if not tf.test.is_built_with_cuda():
        return "it was built without CUDA"
    try:
        said = subprocess.run([sys.executable, "-P", "-c", _LIST], env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                              timeout=300).stderr
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    lines = re.findall(r"^[IWE]\d{4} .*?\S+\.cc:\d+\] (.*)", said, re.M)
    about = [line for line in lines if re.search("dlopen|cuInit|CUDA|cuda drivers|librar", line)
             and "Unable to register" not in line and "is optimized" not in line]
    return about[-1].split(". ")[0][:200] if about else "it does not say why"


def _details(gpu):
    """(name, (major, minor) of the compute capability, or None) of a tf.config.PhysicalDevice."""
    import tensorflow as tf
    found = tf.config.experimental.get_device_details(gpu)
    return found.get("device_name", "a GPU"), found.get("compute_capability")


def _built_for(kind=""):
    """Compute capabilities that TensorFlow was built for: list of (major, minor); kind "sm_": with machine code."""
    import tensorflow as tf
    names = tf.sysconfig.get_build_info().get("cuda_compute_capabilities") or []
    found = (re.match(rf"{kind or '[a-z]+_'}(\d+)(\d)", name) for name in names)
    return [(int(match[1]), int(match[2])) for match in found if match]


def keep_kernels(cache):
    """Have the driver keep the kernels that it compiles beside what XLA has compiled; before TensorFlow is imported.

    Its own folder, ~/.nv, is often not kept with a container, and held 256 MiB in older versions. A user's
    CUDA_CACHE_PATH and CUDA_CACHE_MAXSIZE win.

    Args:
        cache: --compile_cache; "off", which is XLA's, counts as "auto".
    """
    if not is_there() or _KERNELS in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # then the driver takes its own folder
        folder = pathlib.Path(cache).expanduser().absolute() if os.sep in cache else compile_cache.user_folder()
        compile_cache.make_private(folder / "cuda")
        os.environ[_KERNELS] = str(folder / "cuda")
        os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(_KERNELS_BYTES))


def notes():
    """What a person should know of this process's GPUs before a training starts: list of lines."""
    import tensorflow as tf
    seen = tf.config.list_physical_devices("GPU")
    if not seen and not is_there() and os.path.exists(_DRIVER_OF_HOST) and listed(os.environ.get(_VISIBLE)) != []:
        return [f"computing on the CPU: this machine has an NVIDIA driver, but {_DRIVER[0]} is missing (a container is "
                "given GPUs by docker run --gpus=all)"]
    folder = os.environ.get(_KERNELS, "")
    if os.environ.get("CUDA_CACHE_DISABLE") == "1" or not os.path.isdir(folder) or os.listdir(folder):
        return []
    found = sorted({capability for _, capability in map(_details, seen) if capability and not _has_code(capability)})
    return [f"the first start on a GPU of compute capability {major}.{minor} is slow: TensorFlow holds machine code "
            f"for others, so the driver compiles its kernels now; they are kept in {folder}" for major, minor in found]


def _has_code(capability):
    """Whether TensorFlow holds machine code for a compute capability: of the same major one and no later minor one."""
    return any(major == capability[0] and minor <= capability[1] for major, minor in _built_for("sm_"))
