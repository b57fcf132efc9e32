"""Files as PyTorch writes them, by hand: pickles of opcodes, archives, raw storages. The reader's counterpart.

Not the writer of `cct_tf`, and no PyTorch: what stands here was compared with files of PyTorch 2.13.
"""

import dataclasses
import io
import json
import struct
import zipfile

import numpy as np

STORAGES = {"float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float32": "FloatStorage",
            "float64": "DoubleStorage", "int64": "LongStorage", "int32": "IntStorage", "uint8": "ByteStorage"}
SAFE = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32"}
_MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(frozen=True)
class Ops:
    """Opcodes as they are, in a value."""

    data: bytes


@dataclasses.dataclass(frozen=True)
class Look:
    """A tensor: offset, shape and strides into the storage `key` of `size` elements."""

    key: str
    dtype: str
    size: int
    offset: int
    shape: tuple
    strides: tuple


def name(module, attribute):
    """The opcode that names something."""
    return Ops(f"c{module}\n{attribute}\n".encode())


def call(function, *arguments):
    """function(*arguments)."""
    return Ops(ops(function) + ops(tuple(arguments)) + b"R")


def ops(value):
    """Opcodes that put a value on the stack."""
    match value:
        case Ops():
            return value.data
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(ops, value)) + b"t"
        case list():
            return b"](" + b"".join(map(ops, value)) + b"e"
        case dict():
            return b"}(" + b"".join(ops(part) for item in value.items() for part in item) + b"u"
        case Look():
            kind = name("torch", STORAGES[value.dtype])
            storage = Ops(ops(("storage", kind, value.key, "cpu", value.size)) + b"Q")
            return ops(call(name("torch._utils", "_rebuild_tensor_v2"), storage, value.offset, value.shape,
                            value.strides, False, call(name("collections", "OrderedDict"))))
    raise TypeError(value)


def pickle(value):
    """A whole pickle, protocol 2."""
    return b"\x80\x02" + ops(value) + b"."


def stored(array):
    """(type, bytes) of an array; a pair of ("bfloat16", float32 array) is cut to its upper halves."""
    if isinstance(array, tuple):
        bits = np.ascontiguousarray(array[1], "<f4").view("<u4")
        return "bfloat16", (bits >> 16).astype("<u2").tobytes()
    return array.dtype.name, np.ascontiguousarray(array).tobytes()


def looks(arrays):
    """Arrays -> ({name: Look}, {key: bytes}), a storage for each."""
    tensors, storages = {}, {}
    for key, (label, array) in enumerate(arrays.items()):
        dtype, data = stored(array)
        shape = array[1].shape if isinstance(array, tuple) else array.shape
        size = int(np.prod(shape))
        strides = tuple(int(np.prod(shape[axis + 1:])) for axis in range(len(shape)))
        tensors[label] = Look(str(key), dtype, size, 0, tuple(shape), strides)
        storages[str(key)] = data
    return tensors, storages


def zip_bytes(content, storages, compression=zipfile.ZIP_STORED, order="little", more=()):
    """An archive; content: a value or a whole pickle as bytes; more: (name, bytes) pairs."""
    data = content if isinstance(content, bytes) else pickle(content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", order)
        for key, value in storages.items():
            archive.writestr(f"archive/data/{key}", value)
        archive.writestr("archive/version", "3\n")
        for each, value in more:
            archive.writestr(each, value)
    return file.getvalue()


def legacy_bytes(content, storages, order="little"):
    """The legacy format; `content` must name every storage."""
    data = content if isinstance(content, bytes) else pickle(content)
    data = data.replace(b"tQ", b"NtQ")  # here a storage's description ends with its view, None
    machine = {"protocol_version": 1001, "little_endian": order == "little", "type_sizes": {"int": 4}}
    parts = [pickle(_MAGIC), pickle(1001), pickle(machine), data, pickle(list(storages))]
    for value, size in storages.values():
        parts += [struct.pack("<Q" if order == "little" else ">Q", size), value]
    return b"".join(parts)


def legacy_of(tensors, storages):
    """{key: bytes} -> {key: (bytes, elements)}, as `legacy_bytes` needs them."""
    sizes = {look.key: look.size for look in tensors.values()}
    return {key: (data, sizes[key]) for key, data in storages.items()}


def safetensors_bytes(header, data, length=None):
    """The safetensors format; header: a dict, or text."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safe_entries(arrays):
    """Arrays -> (header, data) of safetensors."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for label, array in arrays.items():
        dtype, part = stored(array)
        shape = array[1].shape if isinstance(array, tuple) else array.shape
        header[label] = {"dtype": SAFE[dtype], "shape": list(shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return header, data


def write(path, arrays, kind):
    """A state dict as a file of a kind: "zip", "legacy" or "safetensors". Returns the path."""
    tensors, storages = looks(arrays)
    if kind == "zip":
        data = zip_bytes(tensors, storages)
    elif kind == "legacy":
        data = legacy_bytes(tensors, legacy_of(tensors, storages))
    else:
        data = safetensors_bytes(*safe_entries(arrays))
    path.write_bytes(data)
    return path
