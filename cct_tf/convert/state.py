"""Reads the state dict in a PyTorch file as NumPy arrays. Needs no PyTorch and runs nothing in the file.

Memory: the file's size (three times that for bfloat16, which becomes float32) plus at most 256 MiB. Each storage is
read once, as a whole, and must be stored uncompressed; the sizes of pickles, headers and directories are bounded.
"""

import contextlib
import dataclasses
import os

from cct_tf.convert.entries import MAX_TENSORS, Refused, Tensor, shown
from cct_tf.convert.legacy_format import LegacyFormat
from cct_tf.convert.safetensors import Safetensors, looks_so
from cct_tf.convert.zip_format import ZipFormat
from cct_tf.errors import UserError

STATES = ("auto", "model", "ema")
_KEYS = {"state_dict": "model", "model": "model", "state_dict_ema": "ema", "model_ema": "ema"}
# What a user gives to name one of the two state dicts that a file may hold.
_ARGUMENTS = {"model": "--state=model", "ema": "--state=ema"}
_LONGEST_NAME = 500
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


@dataclasses.dataclass(frozen=True)
class StateDict:
    """A state dict.

    Attributes:
        path: str, the file.
        arrays: dict name -> read-only NumPy array, bfloat16 as float32.
        dtypes: dict name -> str, the type in the file.
        key: str, its key in the file's dict, or "" if it is the file's whole content.
        prefix: str, what was removed from the beginning of all names.
    """

    path: str
    arrays: dict
    dtypes: dict
    key: str
    prefix: str


def read_state(path, state="auto", arguments=_ARGUMENTS):
    """Read the state dict of a .pth file (zip or legacy format) or a .safetensors file.

    Args:
        path: the file.
        state: which one of several in a file: "model", "ema" (the moving average) or "auto" (the only one).
        arguments: dict of "model" and "ema" -> the argument by which the user asks for it, for messages.

    Returns:
        StateDict.

    Raises:
        UserError: naming the file, what was expected and what was found.
    """
    with _open(path) as file:
        try:
            form = _form(file)
            key, tensors = _choose(form.content, state, arguments)
            prefix, tensors = _without_prefix(tensors)
            arrays = {name: form.arrays(tensor) for name, tensor in tensors.items()}
        except Refused as error:
            raise UserError(f"{path}: {error}") from None
    return StateDict(str(path), arrays, {name: tensor.storage.dtype for name, tensor in tensors.items()}, key, prefix)


@contextlib.contextmanager
def _open(path):
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "another kind" if os.path.exists(path) else "nothing"
        raise UserError(f"{path}: expected a file of PyTorch's weights, found {found} there")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read, found it can't be ({error.strerror})") from None
    with file:
        yield file


def _form(file):
    """The reader of the file's format, which its first bytes tell."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK"):
        return ZipFormat(file, size)
    if looks_so(head):
        return Safetensors(file, size)
    if head.startswith(b"\x80"):
        return LegacyFormat(file, size)
    tar = " (a tar archive, as PyTorch before 0.2 wrote them)" if head[257:262] == b"ustar" else ""
    raise Refused(f"expected a .pth file in PyTorch's zip or legacy format or a .safetensors file, found neither{tar}")


def _choose(content, state, arguments):
    """(key, {name: Tensor}) of the state dict that `state` means."""
    if not isinstance(content, dict):
        raise Refused(f"expected a state dict, found a {type(content).__name__}")
    found = [key for key in _KEYS if isinstance(content.get(key), dict)]
    wanted = [key for key in found if state in ("auto", _KEYS[key])]
    if len(wanted) > 1:
        both = {_KEYS[key] for key in wanted} == {"model", "ema"}
        hint = f"; name it with {arguments['model']} or {arguments['ema']}" if both else ""
        raise Refused(f"expected one state dict, found {' and '.join(wanted)}{hint}")
    if not wanted and (found or state == "ema"):
        raise Refused(f"expected the state dict of {arguments[state]}, found "
                      f"{' and '.join(found) or 'none of that kind'}")
    key = wanted[0] if wanted else ""
    return key, _checked(content[key] if key else content)


def _checked(tensors):
    if not tensors or len(tensors) > MAX_TENSORS:
        raise Refused(f"expected 1 to {MAX_TENSORS:,} tensors, found {len(tensors):,}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or not isinstance(tensor, Tensor):
            raise Refused(f"expected a state dict, names with tensors, found {shown(name)} with a "
                          f"{type(tensor).__name__.lower()}")
        if problem := tensor.problem():
            raise Refused(f"{shown(name)}: {problem}")
    return tensors


def _without_prefix(tensors):
    """(prefix, tensors): what wrappers of a module put before every name, and the tensors without it."""
    prefix = ""
    for common in _PREFIXES * 2:  # wrappers may be nested, in any order
        if not all(name.startswith(common) for name in tensors):
            continue
        prefix += common
        tensors = {name.removeprefix(common): tensor for name, tensor in tensors.items()}
    return prefix, tensors
