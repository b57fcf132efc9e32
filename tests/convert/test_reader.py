"""The reader of PyTorch's files gives what was written, and refuses the rest in one line."""

import argparse
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from cct_tf.convert import safetensors
from cct_tf.convert.state import read_state
from cct_tf.errors import UserError
from tests import fuzz_torch_reader
from tests.convert import torch_files
from tests.convert.torch_files import Look, Ops, call, name, ops, pickle

KINDS = ("zip", "legacy", "safetensors")
MIB = 2**20


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4 - 1


def save(path, data):
    path.write_bytes(data)
    return path


def zipped(path, content, storages=None, **options):
    return save(path, torch_files.zip_bytes(content, storages or {}, **options))


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        read_state(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "expected" in message and "found" in message and "\n" not in message
    return message


def one_tensor(**changes):
    """A state dict of one tensor and its storages, 6 elements of float32."""
    look = {"key": "0", "dtype": "float32", "size": 6, "offset": 0, "shape": (2, 3), "strides": (3, 1)} | changes
    return {"a": Look(**look)}, {"0": numbers(6).tobytes()}


# What is read.


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_arrays_and_types_that_were_written(kind, tmp_path):
    wide = numbers(3, 2).astype(np.float64) / 3
    arrays = {"half": numbers(2, 3).astype(np.float16), "brain": ("bfloat16", numbers(4)), "single": numbers(2, 2, 2),
              "double": wide, "count": np.array(7), "scalar": np.array(0.5, np.float32)}
    found = read_state(torch_files.write(tmp_path / "x", arrays, kind))
    assert list(found.arrays) == list(arrays)
    assert found.dtypes == {"half": "float16", "brain": "bfloat16", "single": "float32", "double": "float64",
                            "count": "int64", "scalar": "float32"}
    for label, array in arrays.items():
        expected = array[1] if isinstance(array, tuple) else array  # quarters are exact in bfloat16
        assert found.arrays[label].dtype == expected.dtype
        np.testing.assert_array_equal(found.arrays[label], expected)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_views_share_their_storage_in_place_and_order(kind, tmp_path):
    row = numbers(12)
    tensors = {"all": Look("0", "float32", 12, 0, (12,), (1,)), "part": Look("0", "float32", 12, 5, (2, 3), (3, 1)),
               "turned": Look("0", "float32", 12, 0, (4, 3), (1, 4))}
    data = (torch_files.zip_bytes(tensors, {"0": row.tobytes()}) if kind == "zip"
            else torch_files.legacy_bytes(tensors, {"0": (row.tobytes(), 12)}))
    found = read_state(save(tmp_path / "x", data)).arrays
    np.testing.assert_array_equal(found["part"], row[5:11].reshape(2, 3))
    np.testing.assert_array_equal(found["turned"], row.reshape(3, 4).T)
    assert np.shares_memory(found["all"], found["turned"])


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_big_endian_files_are_turned(kind, tmp_path):
    tensors, _ = one_tensor()
    data = numbers(6).astype(">f4").tobytes()
    text = (torch_files.zip_bytes(tensors, {"0": data}, order="big") if kind == "zip"
            else torch_files.legacy_bytes(tensors, {"0": (data, 6)}, order="big"))
    np.testing.assert_array_equal(read_state(save(tmp_path / "x", text)).arrays["a"], numbers(2, 3))


def checkpoint(**states):
    """What a training script saves, less the states: containers and values of no interest."""
    arguments = Ops(ops(name("argparse", "Namespace")) + b")\x81" + ops({"lr": 0.1, "mean": (0.5, 0.5)}) + b"b")
    dtype = Ops(ops(call(name("numpy", "dtype"), "f8")) + ops((3, "<", None, -1)) + b"b")
    scalar = call(name("numpy.core.multiarray", "scalar"), dtype, call(name("_codecs", "encode"), "12345678", "latin1"))
    return {"epoch": 3, "args": arguments, "metric": scalar, "shape": call(name("torch", "Size"), (2, 3)),
            "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": [{"params": [0, 1]}]}, **states}


def test_state_dicts_are_found_in_checkpoints_and_lose_their_prefix(tmp_path):
    look, storages = one_tensor()
    parameter = call(name("torch._utils", "_rebuild_parameter"), look["a"], True, call(name("collections",
                                                                                            "OrderedDict")))
    metadata = Ops(ops(call(name("collections", "OrderedDict"))) + b"(" + ops("module.a") + ops(parameter) + b"u"
                   + ops({"_metadata": {"": {"version": 1}}}) + b"b")
    for key in ("state_dict", "model"):
        found = read_state(zipped(tmp_path / key, checkpoint(**{key: metadata}), storages))
        assert (found.key, found.prefix, list(found.arrays)) == (key, "module.", ["a"])
    both = zipped(tmp_path / "both", checkpoint(state_dict=look, state_dict_ema={"module._orig_mod.b": look["a"]}),
                  storages)
    assert "--state=model or --state=ema" in refusal(both)
    assert list(read_state(both, "model").arrays) == ["a"]
    assert list(read_state(both, "ema").arrays) == ["b"]
    assert "--state=ema" in refusal(tmp_path / "model", state="ema")
    assert "a=x or a=y" in refusal(both, arguments={"model": "a=x", "ema": "a=y"})


def test_what_we_write_as_safetensors_is_read_back(tmp_path):
    arrays = {"b": numbers(2, 3).T, "a": numbers(1)}
    safetensors.write(tmp_path / "x.safetensors", arrays)
    found = read_state(tmp_path / "x.safetensors").arrays
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["b"], arrays["b"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


# What is refused.


class Evil:
    """Pickled by Python itself into a call of the class's `target`."""

    target = (print, ("run",))

    def __reduce__(self):
        return self.target


def _pickles():
    """Name -> (pickle that tries to run something, what the message must name)."""
    import builtins
    import os
    import pickle as python_pickle
    import subprocess
    targets = {"os.system": (os.system, ("touch ran",), f"{os.name}.system"),
               "eval": (builtins.eval, ("open('ran', 'w')",), "eval"),
               "exec": (builtins.exec, ("open('ran', 'w')",), "exec"),
               "open": (open, ("ran", "w"), "open"),
               "Popen": (subprocess.Popen, (["touch", "ran"],), "Popen"),
               "getattr": (getattr, (argparse, "Namespace"), "getattr"),
               "partial": (__import__("functools").partial, (open, "ran", "w"), "partial"),
               "import": (__import__, ("antigravity",), "__import__")}
    cases = {}
    for label, (function, arguments, word) in targets.items():
        for protocol in (2, 4, 5):
            Evil.target = (function, arguments if label != "getattr" else ("x", "y"))
            cases[f"{label}, protocol {protocol}"] = (python_pickle.dumps({"a": Evil()}, protocol), word)
    namespace = ops(name("argparse", "Namespace")) + b")\x81"
    ordered = ops(call(name("collections", "OrderedDict")))
    system = ops(name("os", "system"))
    look = ops(one_tensor()[0]["a"])
    return cases | {
        "protocol 0": (python_pickle.dumps(Evil(), 0), "__import__"),
        "named, never called": (b"\x80\x02" + system + b".", "os.system"),
        "inst": (b"(S'touch ran'\nios\nsystem\n.", "opcode"),
        "obj": (b"\x80\x02(" + ops(name("argparse", "Namespace")) + b"o.", "OBJ"),
        "extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
        "extension registry, 16 bits": (b"\x80\x02\x83\x01\x00.", "EXT2"),
        "extension registry, 32 bits": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        "persistent id as text": (b"Pos.system\n.", "PERSID"),
        "persistent id of something else": (b"\x80\x02" + ops(("eval", "open('ran', 'w')")) + b"Q.", "storage"),
        "storage of a class of no storages": (
            b"\x80\x02" + ops(("storage", name("os", "system"), "0", "cpu", 6)) + b"Q.", "os.system"),
        "name put together on the stack": (b"\x80\x04" + ops("os") + ops("system") + b"\x93.", "os.system"),
        "name out of the memo": (b"\x80\x04" + ops("system") + b"\x94" + ops("os") + b"h\x00\x93.", "os.system"),
        "name from the memo of a name": (b"\x80\x04" + ops(name("torch", "Size")) + b"\x94h\x00\x93.", "damaged"),
        "pickle in a pickle": (b"\x80\x02" + ops(call(
            name("torch.storage", "_load_from_bytes"), python_pickle.dumps(Evil()).decode("latin1"))) + b".",
            "torch.storage._load_from_bytes"),
        "pickle's own reader": (b"\x80\x02" + ops(call(name("pickle", "loads"), "cos\nsystem\n.")) + b".",
                                "pickle.loads"),
        "array of NumPy's": (b"\x80\x02" + ops(name("numpy.core.multiarray", "_reconstruct")) + b".", "_reconstruct"),
        "code in a dict's key": (b"\x80\x02}" + system + b"Ns.", "os.system"),
        "code that is thrown away": (b"\x80\x02" + system + ops(("touch ran",)) + b"R0}.", "os.system"),
        "name with the old builtins": (b"\x80\x02" + ops(name("__builtin__", "eval")) + b".", "__builtin__.eval"),
        "attribute of an attribute": (b"\x80\x04" + ops("collections") + ops("OrderedDict.__init__.__globals__")
                                      + b"\x93.", "__globals__"),
        "object with keywords": (b"\x80\x04" + ops(name("argparse", "Namespace")) + b")}\x92.", "NEWOBJ_EX"),
        "object of a class that is no container": (
            b"\x80\x02" + ops(name("torch._utils", "_rebuild_parameter")) + b")\x81.", "_rebuild_parameter"),
        "call of a called thing": (b"\x80\x02" + namespace + b")R.", "argparse.Namespace"),
        "call of a string": (b"\x80\x02" + ops("os.system") + ops(("touch ran",)) + b"R.", "str"),
        "a known name with other arguments": (
            b"\x80\x02" + ops(call(name("torch._utils", "_rebuild_tensor_v2"), "touch ran")) + b".",
            "torch._utils._rebuild_tensor_v2"),
        "an ordered dict made of something": (
            b"\x80\x02" + ops(call(name("collections", "OrderedDict"), [["a", 1]])) + b".", "OrderedDict"),
        "setstate in a namespace": (b"\x80\x02" + namespace + ops({"__setstate__": 1}) + b"b.", "__setstate__"),
        "class in a namespace": (b"\x80\x02" + namespace + ops({"__class__": 1}) + b"b.", "__class__"),
        "setstate in an ordered dict": (b"\x80\x02" + ordered + ops({"__setstate__": 1}) + b"b.", "__setstate__"),
        "slots of an ordered dict": (b"\x80\x02" + ordered + ops((None, {"x": 1})) + b"b.", "OrderedDict"),
        "state of a tensor": (b"\x80\x02" + look + ops({"__setstate__": 1}) + b"b.", "__setstate__"),
        "state of a name": (b"\x80\x02" + ops(name("torch", "Size")) + ops({"__call__": 1}) + b"b.", "torch.Size"),
        "setstate of a function that is not called": (
            b"\x80\x02" + namespace + ops({"__setstate__": Ops(system)}) + b"b.", "os.system"),
        "module under a known name": (b"\x80\x04" + ops("torch._utils") + ops("_rebuild_tensor_v2.__globals__")
                                      + b"\x93.", "__globals__"),
    }


PICKLES = _pickles()


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_tries_to_run_code_is_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, word = PICKLES[case]
    assert word in refusal(zipped(tmp_path / "x.pth", data))
    assert word in refusal(save(tmp_path / "y.pth", torch_files.legacy_bytes(data, {})))
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "y.pth"}  # nothing was touched


@pytest.mark.parametrize("place", range(5))
def test_code_in_any_of_the_pickles_of_a_legacy_file_is_refused(place, tmp_path, monkeypatch):
    """Magic number, protocol, machine, content, keys."""
    monkeypatch.chdir(tmp_path)
    look, _ = one_tensor()
    parts = [pickle(0x1950A86A20F9469CFC6C), pickle(1001), pickle({"little_endian": True}), pickle(look), pickle(["0"])]
    parts[place] = pickle({"a": call(name("os", "system"), "touch ran")})
    assert "os.system" in refusal(save(tmp_path / "x.pth", b"".join(parts).replace(b"tQ", b"NtQ")))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_code_beside_the_pickle_of_an_archive_is_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = pickle(call(name("os", "system"), "touch ran"))
    more = [("archive/constants.pkl", evil), ("archive/code/x.py", b"open('ran', 'w')")]
    found = read_state(save(tmp_path / "x.pth", torch_files.zip_bytes(*one_tensor(), more=more)))
    np.testing.assert_array_equal(found.arrays["a"], numbers(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("changes, words", [
    ({"offset": 1}, "inside a storage of 6"),
    ({"shape": (3, 3)}, "inside a storage of 6"),
    ({"strides": (4, 1)}, "inside a storage of 6"),
    ({"shape": (7,), "strides": (0,)}, "inside a storage of 6"),  # more elements than are there
    ({"shape": (2**40, 2**40), "strides": (0, 0)}, "inside a storage of 6"),
    ({"strides": (-3, 1)}, "of at least 0"),
    ({"shape": (0, 3)}, "above 0"),
    ({"shape": (2**70, 1)}, "below 2^48"),
    ({"shape": (2, 3), "strides": (1,)}, "2 axes and 1 strides"),
    ({"shape": (1,) * 9, "strides": (1,) * 9}, "9 axes"),
    ({"dtype": "int32"}, "found int32"),
    ({"size": 7}, "expected 28 bytes, found 24"),
    ({"size": -6}, "storage's description"),
    ({"key": "1"}, "archive/data/1"),
    ({"shape": ((2,), 3)}, "above 0"),
])
def test_a_tensor_must_lie_in_its_storage(changes, words, tmp_path):
    assert words in refusal(zipped(tmp_path / "x.pth", *one_tensor(**changes)))


def _zip_with_wrong_crc():
    data = torch_files.zip_bytes(*one_tensor())
    place = data.index(numbers(6).tobytes())
    return data[:place] + b"\x01" + data[place + 1:]


def _overlapping():
    """Two storages in the directory that lie in the same bytes of the archive."""
    big = np.zeros(20_000, np.float32).tobytes()
    tensors = {label: Look(label, "float32", 20_000, 0, (20_000,), (1,)) for label in "01"}
    data = torch_files.zip_bytes(tensors, {"0": big})
    first = data.index(b"PK\x01\x02", data.index(b"archive/version"))
    entry = data.index(b"archive/data/0", first) - 46
    end = data.index(b"PK\x05\x06")
    copied = data[entry:entry + 46 + len("archive/data/0")].replace(b"archive/data/0", b"archive/data/1")
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 5, 5, end - first + len(copied))
    return data[:end] + copied + bytes(tail)


_LOOK, _BYTES = one_tensor()
_SAFE = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
FILES = {
    "empty": (b"", "found neither"),
    "text": (b"model weights", "found neither"),
    "tar": (b"x" * 257 + b"ustar" + b"\0" * 300, "before 0.2"),
    "archive without pickle": (torch_files.zip_bytes(_LOOK, _BYTES).replace(b"data.pkl", b"data.pkx"), "data.pkl"),
    "archive with two": (torch_files.zip_bytes(_LOOK, _BYTES, more=[("other/data.pkl", b"")]), "found 2"),
    "archive cut": (torch_files.zip_bytes(_LOOK, _BYTES)[:-30], "damaged"),
    "damaged storage": (_zip_with_wrong_crc(), "CRC"),
    "storage missing": (torch_files.zip_bytes(_LOOK, {}), "archive/data/0"),
    "deflated": (torch_files.zip_bytes(_LOOK, _BYTES, compression=zipfile.ZIP_DEFLATED), "uncompressed"),
    "zip bomb": (torch_files.zip_bytes(_LOOK, {"0": bytes(64 * MIB)}, compression=zipfile.ZIP_DEFLATED),
                 "uncompressed"),
    "zip bomb of overlapping entries": (_overlapping(), "at most the file's"),
    "unknown byte order": (torch_files.zip_bytes(_LOOK, _BYTES, order="middle"), "byteorder"),
    "archive with a long directory": (torch_files.zip_bytes(_LOOK, _BYTES, more=[(f"{n:0>60000}", b"") for n in
                                                                                  range(20)]), "directory"),
    "legacy cut": (torch_files.legacy_bytes(_LOOK, torch_files.legacy_of(_LOOK, _BYTES))[:-1], "file's end"),
    "legacy with more": (torch_files.legacy_bytes(_LOOK, torch_files.legacy_of(_LOOK, _BYTES)) + b"x", "file's end"),
    "legacy of another count": (torch_files.legacy_bytes(_LOOK, {"0": (_BYTES["0"], 5)}), "expected 6 elements"),
    "legacy without the list": (torch_files.legacy_bytes(_LOOK, {}), "list of exactly the storages"),
    "plain pickle": (pickle({"a": 1}), "magic"),
    "huge number": (b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"1" * 10**6 + b".", "LONG4"),
    "list of tensors": (torch_files.zip_bytes([_LOOK["a"]], _BYTES), "found a list"),
    "numbers beside tensors": (torch_files.zip_bytes(_LOOK | {"epoch": 3}, _BYTES), "'epoch'"),
    "no tensor": (torch_files.zip_bytes({}, {}), "found 0"),
    "names that are numbers": (torch_files.zip_bytes({3: _LOOK["a"]}, _BYTES), "found 3"),
    "names of tuples": (torch_files.zip_bytes({(1, 2): _LOOK["a"]}, _BYTES), "type tuple"),
    "one storage, two sizes": (torch_files.zip_bytes(_LOOK | {"b": Look("0", "float32", 5, 0, (5,), (1,))}, _BYTES),
                               "found two"),
    "view of a storage": (torch_files.zip_bytes(
        {"a": Ops(ops(("storage", name("torch", "FloatStorage"), "0", "cpu", 6, ("1", 0, 3))) + b"Q")}, _BYTES),
        "before 0.4"),
    "module": (torch_files.zip_bytes({"a": Ops(ops(("module", None, "x.py", "source")) + b"Q")}, {}), "whole module"),
    "pickle without its end": (torch_files.zip_bytes(b"\x80\x02}", {}), "damaged"),
    "pickle that pops too much": (torch_files.zip_bytes(b"\x80\x02(R.", {}), "damaged"),
    "pickle that gets what was never put": (torch_files.zip_bytes(b"\x80\x02h\x07.", {}), "damaged"),
    "safetensors: header beyond the file": (torch_files.safetensors_bytes(_SAFE, _BYTES["0"], 10**6), "header"),
    "safetensors: no JSON": (torch_files.safetensors_bytes("{a}" + " " * 9, _BYTES["0"]), "JSON"),
    "safetensors: nested without end": (torch_files.safetensors_bytes('{"a":' + "[" * 10**5, b""), "JSON"),
    "safetensors: a name twice": (torch_files.safetensors_bytes('{"a":1,"a":2}', b""), "two values"),
    "safetensors: a gap": (torch_files.safetensors_bytes(
        {"a": _SAFE["a"] | {"data_offsets": [4, 28]}}, bytes(28)), "gap"),
    "safetensors: an overlap": (torch_files.safetensors_bytes(_SAFE | {"b": _SAFE["a"]}, _BYTES["0"]), "overlap"),
    "safetensors: too short": (torch_files.safetensors_bytes(_SAFE, _BYTES["0"][:-1]), "file's end"),
    "safetensors: another size": (torch_files.safetensors_bytes(
        {"a": _SAFE["a"] | {"shape": [2, 4]}}, _BYTES["0"]), "32 bytes"),
    "safetensors: unknown type": (torch_files.safetensors_bytes(
        {"a": _SAFE["a"] | {"dtype": "F8_E4M3"}}, _BYTES["0"]), "F8_E4M3"),
    "safetensors: type we do not read": (torch_files.safetensors_bytes(
        {"a": _SAFE["a"] | {"dtype": "I32"}}, _BYTES["0"]), "found int32"),
    "safetensors: huge shape": (torch_files.safetensors_bytes(
        {"a": _SAFE["a"] | {"shape": [10**30]}}, _BYTES["0"]), "shape"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_file_is_refused_in_one_line(case, tmp_path):
    data, words = FILES[case]
    assert words in refusal(save(tmp_path / "x.pth", data))


def test_what_is_no_file_is_refused(tmp_path):
    assert "a folder" in refusal(tmp_path)
    assert "nothing" in refusal(tmp_path / "none.pth")


# Bounds: 256 MiB beside the storages.

GREEDY = {
    "dicts": b"\x80\x02" + b"}" * 3 * MIB,
    "dicts with an item each": b"\x80\x02" + b"}NNs" * (3 * MIB // 4),
    "the memo": b"\x80\x04N" + b"\x94" * 3 * MIB,
    "a memo far away": b"\x80\x02Nr\xff\xff\xff\xff" * 1000,
    "marks": b"\x80\x02" + b"(" * 3 * MIB,
    "tuples in tuples": b"\x80\x02N" + b"\x85" * 3 * MIB + b".",
    "a dict of ever larger tuples": b"\x80\x02)" + (b"q\x00h\x00\x86" * 10**5) + b".",
    "a long string": b"\x80\x02X" + struct.pack("<I", 3 * MIB) + "ab𝄞".encode() * (MIB // 2) + b".",
}


@pytest.mark.parametrize("case", GREEDY)
def test_a_greedy_pickle_is_refused_within_the_bound(case, tmp_path):
    path = zipped(tmp_path / "x.pth", GREEDY[case])
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 256 * MIB
    finally:
        tracemalloc.stop()


def test_storages_are_read_once_however_many_look_at_them(tmp_path):
    count = 2 * MIB
    tensors = {f"a{n}": Look("0", "bfloat16", count, n, (count // 2,), (1,)) for n in range(50)}
    path = zipped(tmp_path / "x.pth", tensors, {"0": bytes(2 * count)})
    tracemalloc.start()
    try:
        found = read_state(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size + 4 * MIB
    finally:
        tracemalloc.stop()
    assert len(found.arrays) == 50


def test_mutated_files_end_in_one_line_or_in_what_they_declare(tmp_path):
    counts, _, failures = fuzz_torch_reader.run(400, 1, tmp_path)
    assert failures == [] and counts["refused"] > 300 and counts["read"] > 10
