"""Mutate small files of weights and read them: `python tests/fuzz_torch_reader.py --files=10000 --seed=1`.

Each reading must end in one line of a UserError, or in arrays whose names, types and shapes are those that an
independent reading of the same bytes declares (Python's own unpickler with stubs, or the header in JSON); within ten
seconds, and within the bound of `cct_tf.convert.state` (three times the file and 256 MiB). Anything else is a failure:
the file is kept, and the status is 1.
"""

import argparse
import collections
import io
import json
import pathlib
import pickle
import random
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cct_tf.convert.state import read_state  # noqa: E402
from cct_tf.errors import UserError  # noqa: E402
from tests.convert import torch_files  # noqa: E402
from tests.convert.torch_files import Look, Ops, call, name, ops  # noqa: E402

SECONDS = 10
BOUND = 256 * 2**20
_DTYPES = {"float16": "float16", "bfloat16": "float32", "float32": "float32", "float64": "float64", "int64": "int64"}


def seeds():
    """Small valid files, list of bytes, in all three formats."""
    numbers = np.arange(12, dtype=np.float32)
    arrays = {"fc.weight": numbers.reshape(3, 4), "fc.bias": ("bfloat16", numbers[:3]), "n": np.array(5),
              "half": numbers[:4].astype(np.float16), "double": numbers[:2].astype(np.float64)}
    tensors, storages = torch_files.looks(arrays)
    tensors["turned"] = Look("0", "float32", 12, 0, (4, 3), (1, 4))
    tensors["part"] = Look("0", "float32", 12, 2, (2, 2), (4, 1))
    metadata = Ops(ops(call(name("collections", "OrderedDict"))) + b"(" + b"".join(
        ops("module." + key) + ops(value) for key, value in tensors.items()) + b"u" + ops({"_metadata": {}}) + b"b")
    namespace = Ops(ops(name("argparse", "Namespace")) + b")\x81" + ops({"lr": 0.1, "name": "x"}) + b"b")
    inside = {"epoch": 3, "args": namespace, "state_dict": metadata}
    framed = b"\x80\x04\x95" + struct.pack("<Q", len(ops(inside)) + 1) + ops(inside) + b"."
    legacy = torch_files.legacy_of(tensors, storages)
    return [torch_files.zip_bytes(tensors, storages), torch_files.zip_bytes(inside, storages),
            torch_files.zip_bytes(framed, storages), torch_files.legacy_bytes(tensors, legacy),
            torch_files.legacy_bytes(inside, legacy), torch_files.safetensors_bytes(*torch_files.safe_entries(arrays))]


def _cut(data, rng, _):
    return data[:rng.randrange(len(data))]


def _flip(data, rng, _):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _splice(data, rng, others):
    other = rng.choice(others)
    start, place = rng.randrange(len(other)), rng.randrange(len(data))
    piece = other[start:start + rng.choice((1, 4, 16, 64, 256))]
    return data[:place] + piece + data[place + rng.choice((0, len(piece))):]


def _drop(data, rng, _):
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.choice((1, 2, 8, 64)):]


def _number(data, rng, _):
    place = rng.randrange(len(data))
    piece = rng.choice((b"\xff" * 8, b"\xff" * 4, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\0\1", b"\x7f", b"\x80"))
    return data[:place] + piece + data[place + len(piece):]


_MUTATIONS = (_cut, _flip, _flip, _splice, _splice, _drop, _number)


def mutate(data, rng, others):
    """A file mutated once or more. Half of the archives are mutated inside, under right checksums, half of the headers
    under a right length."""

    def changed(part):
        for _ in range(rng.choice((1, 1, 2, 4))):
            part = rng.choice(_MUTATIONS)(part, rng, others) if part else part
        return part

    if rng.random() < 0.5 and data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        entry = rng.choice(["archive/data.pkl"] * 8 + list(parts))
        parts[entry] = changed(parts[entry])
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in parts.items():
                archive.writestr(key, value)
        return file.getvalue()
    if rng.random() < 0.5 and data[8:9] == b"{":
        length = struct.unpack("<Q", data[:8])[0]
        header = changed(data[8:8 + length])
        return struct.pack("<Q", len(header)) + header + data[8 + length:]
    return changed(data)


class _Stubs(pickle._Unpickler):
    """Python's unpickler, for what the reader has accepted: names become functions of ours that only take notes.

    The one in Python: that in C takes 16 GiB for a memo of one entry at place 2^31, which a flipped bit can ask for.
    """

    def find_class(self, module, attribute):
        if attribute in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return lambda storage, offset, shape, strides, *more: ("tensor", storage, tuple(shape))
        if attribute == "_rebuild_parameter":
            return lambda tensor, *more: tensor
        if attribute == "Size":
            return lambda sizes: sizes
        if (module, attribute) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if attribute.endswith("Storage"):
            return attribute
        return type(attribute, (), {"__init__": lambda self, *arguments: None})

    def persistent_load(self, described):
        return described[1]


def declared(data):
    """{name: (type of the array, shape)} of the bytes of an accepted file."""
    types = {storage: kind for kind, storage in torch_files.STORAGES.items()}
    if data[8:9] == b"{" and not data.startswith(b"PK"):
        header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
        header.pop("__metadata__", None)
        kinds = {short: kind for kind, short in torch_files.SAFE.items()}
        found = {key: (kinds[value["dtype"]], tuple(value["shape"])) for key, value in header.items()}
    else:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                key, = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
                content = _Stubs(io.BytesIO(archive.read(key))).load()
        else:
            file = io.BytesIO(data)
            content = [_Stubs(file).load() for _ in range(4)][3]
        content = next((content[key] for key in ("state_dict", "model", "state_dict_ema", "model_ema")
                        if isinstance(content.get(key), dict)), content)
        found = {key: (types[value[1]], value[2]) for key, value in content.items()}
    for prefix in ("module.", "_orig_mod.") * 2:
        if all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return {key: (_DTYPES[kind], shape) for key, (kind, shape) in found.items()}


def _late(*_):
    raise TimeoutError(f"no end after {SECONDS} s")


def judge(path, data):
    """"refused" or "read"; raises what must not happen."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found, outcome = read_state(path), "read"
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error), str(error)
        outcome = "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken = tracemalloc.get_traced_memory()[1] - before
    assert taken <= 3 * len(data) + BOUND, f"{taken:,} bytes taken for a file of {len(data):,}"
    if outcome == "read":
        arrays = {key: (array.dtype.name, array.shape) for key, array in found.arrays.items()}
        assert arrays == declared(data), f"{arrays} instead of {declared(data)}"
        for array in found.arrays.values():
            array.sum()  # touches every element
    return outcome


def run(files, seed, folder):
    """Judge `files` mutated files. Returns (counts of outcomes, largest number of bytes taken, failures as text)."""
    rng, others = random.Random(seed), seeds()
    counts, failures, path = collections.Counter(), [], folder / "mutated.pth"
    previous = signal.signal(signal.SIGALRM, _late)
    tracemalloc.start()
    peak = 0
    try:
        for data in others:
            assert judge(path, data) == "read"
        for number in range(files):
            data = mutate(rng.choice(others), rng, others)
            try:
                with np.errstate(all="ignore"):
                    counts[judge(path, data)] += 1
            except Exception as error:
                kept = folder / f"failure_{seed}_{number}"
                kept.write_bytes(data)
                failures.append(f"{kept}: {type(error).__name__}: {error}")
            peak = max(peak, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
        signal.signal(signal.SIGALRM, previous)
    return counts, peak, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    counts, peak, failures = run(options.files, options.seed, pathlib.Path(tempfile.mkdtemp(prefix="fuzz_")))
    print("\n".join(failures[:20]))
    print(f"{options.files:,} files: {counts['refused']:,} refused, {counts['read']:,} read, {len(failures)} failures; "
          f"at most {peak / 2**20:.1f} MiB taken; {time.perf_counter() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
