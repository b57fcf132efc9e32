"""Reads the pickles in PyTorch's files as data: a pickle machine of our own, which can't call anything.

`pickle.Unpickler` with a table of allowed names would still call those names, with arguments from the file, and its
memo has no bound. Here `pickletools` splits the bytes into opcodes, and each opcode makes plain values or inert
descriptions (`Tensor`, `Storage`, `Opaque`). A name outside the table is refused as soon as it occurs, called or not.
"""

import pickletools

from cct_tf.convert.entries import Refused, Storage, Tensor, shown

MAX_BYTES = 4 * 2**20  # of the pickles of a file; those of a training run of CCT-14 take 0.3 MB
MAX_OPCODES = 250_000  # those of CCT-14 have 30,000

_STORAGES = {"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
             "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
             "ComplexFloat": "complex64", "ComplexDouble": "complex128"}
_OPAQUE = ("argparse Namespace", "torch device", "numpy dtype", "numpy.core.multiarray scalar",
           "numpy._core.multiarray scalar", "_codecs encode",
           *(f"torch {name}" for name in (*_STORAGES.values(), "half", "float", "double", "long")))
_KINDS = ({f"torch {name}Storage": "storage" for name in _STORAGES} | dict.fromkeys(_OPAQUE, "opaque")
          | {"torch.storage UntypedStorage": "storage", "torch UntypedStorage": "storage",
             "collections OrderedDict": "dict", "torch Size": "size", "torch._utils _rebuild_tensor": "tensor",
             "torch._utils _rebuild_tensor_v2": "tensor", "torch._utils _rebuild_parameter": "parameter"})
_PLAIN = (str, int, float, bool, bytes, type(None))  # types of dict keys: hashing nested tuples could take for ever
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
              "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_DAMAGED = "expected a whole pickle, found a damaged one"


class _Name:
    """A name of the table `_KINDS`, on the stack."""

    def __init__(self, name):
        self.name, self.kind = name, _KINDS[name]


class Opaque:
    """Stands for an object whose content is not read, such as an argparse.Namespace."""

    def __init__(self, name):
        self.name = name


class _OrderedDict(dict):
    """A collections.OrderedDict."""


def read(file):
    """The next pickle of a file.

    Args:
        file: io.BytesIO, read up to the pickle's end.

    Returns:
        (value, storages): the pickled value, made of plain values, lists, tuples, dicts, `Tensor`, `Storage` and
        `Opaque`, which may refer to one another in circles; and a dict key -> `Storage` of all its storages.

    Raises:
        Refused: a name or opcode outside the tables, a damaged pickle, or one that exceeds the bounds.
    """
    machine = _Machine()
    opcodes, size = pickletools.genops(file), file.getbuffer().nbytes
    for _ in range(MAX_OPCODES):
        try:
            opcode, argument, _ = next(opcodes)
        except (ValueError, OverflowError) as error:
            raise Refused(f"{_DAMAGED} ({shown(str(error))})") from None
        if opcode.name == "STOP":
            return machine.pop(), machine.storages
        if opcode.name == "FRAME" and argument > size - file.tell() or opcode.name == "PROTO" and argument > 5:
            raise Refused(_DAMAGED)
        machine.do(opcode.name, argument)
    raise Refused(f"expected a pickle of at most {MAX_OPCODES:,} opcodes, found more")


class _Machine:
    def __init__(self):
        self.stack, self.marks, self.memo, self.storages = [], [], {}, {}

    def do(self, name, argument):
        """One opcode."""
        if name in _ARGUMENTS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise Refused(_DAMAGED)
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.stack.append(self.pop())
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"expected the opcodes of a state dict, found the opcode {name}")

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused(_DAMAGED)
        return self.stack.pop()

    def take(self):
        """Pop everything above the last mark, a list, and the mark."""
        if not self.marks:
            raise Refused(_DAMAGED)
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def mark(self, _):
        self.marks.append(len(self.stack))

    def new_list(self, _):
        self.stack.append([])

    def new_dict(self, _):
        self.stack.append({})

    def tuple(self, count):
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def marked_tuple(self, _):
        self.stack.append(tuple(self.take()))

    def append(self, items):
        target = self._top(list, "a list")
        target.extend(items)

    def set_items(self, items):
        target = self._top(dict, "a dict")
        if len(items) % 2:
            raise Refused(_DAMAGED)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _PLAIN:
                raise Refused(f"expected plain keys, found a key of type {_kind(key)}")
            target[key] = value

    def _top(self, kind, text):
        value = self.pop()
        self.stack.append(value)
        if not isinstance(value, kind):
            raise Refused(f"expected {text} to add to, found {_kind(value)}")
        return value

    def name(self, argument):
        if argument not in _KINDS:
            raise Refused(f"expected tensors and plain containers, found {shown(argument.replace(' ', '.'))}, which is "
                          "neither; nothing in the file was run")
        self.stack.append(_Name(argument))

    def stacked_name(self, _):
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused(_DAMAGED)
        self.name(f"{module} {name}")

    def storage(self, _):
        match self.pop():
            case ("storage", _Name(kind="storage") as name, str(key), str(), int(size), *view) if 0 <= size < 2**48:
                pass
            case ("module", *_):
                raise Refused("expected a state dict, found a whole module with its code")
            case _:
                raise Refused("expected a storage's description, found another")
        if view not in ([], [None]):
            raise Refused("expected whole storages, found a view of one, as PyTorch before 0.4 wrote them")
        dtype = _STORAGES.get(name.name.removeprefix("torch ").removesuffix("Storage"), "uint8")
        found = self.storages.setdefault(key, Storage(key, dtype, size))
        if (found.dtype, found.size) != (dtype, size):
            raise Refused(f"expected one description of storage {shown(key)}, found two")
        self.stack.append(found)

    def call(self, _):
        """REDUCE: instead of the call, an inert value; only for names of the table."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise Refused(f"expected a name and arguments, found a call of {_kind(name)}")
        match name.kind, arguments:
            case "opaque", _:
                self.stack.append(Opaque(name.name))
            case "dict", ():
                self.stack.append(_OrderedDict())
            case "size", (tuple() as sizes,):
                self.stack.append(sizes)
            case "tensor", (Storage() as storage, int(offset), tuple() as shape, tuple() as strides, *_):
                self.stack.append(Tensor(storage, offset, shape, strides))
            case "parameter", (Tensor() as tensor, *_):
                self.stack.append(tensor)
            case _:
                raise Refused(f"expected {name.name.replace(' ', '.')} with the arguments PyTorch writes, found others")

    def new_object(self, _):
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or name.kind != "opaque" or arguments != ():
            raise Refused(f"expected no object but argparse.Namespace, found one of {_kind(name)}")
        self.stack.append(Opaque(name.name))

    def build(self, _):
        """BUILD: drop the state of an object if it is of the usual kind; refuse any other."""
        state, target = self.pop(), self.pop()
        if isinstance(target, _OrderedDict):
            usual = type(state) is dict and set(state) <= {"_metadata"}
        elif isinstance(target, Opaque) and target.name == "argparse Namespace":
            usual = type(state) is dict and all(type(key) is str and not key.startswith("__") for key in state)
        else:
            usual = isinstance(target, Opaque) and target.name == "numpy dtype" and type(state) is tuple
        if not usual:
            keys = f" with {shown(next(iter(state)))}" if isinstance(state, dict) and state else ""
            raise Refused(f"expected no state of an object, found one{keys} for {_kind(target)}")
        self.stack.append(target)


def _kind(value):
    """The type of a value for a message, without its content."""
    if isinstance(value, _Name | Opaque):
        return value.name.replace(" ", ".")
    return type(value).__name__.lstrip("_")


_ACTIONS = {
    "MARK": _Machine.mark, "EMPTY_LIST": _Machine.new_list, "EMPTY_DICT": _Machine.new_dict,
    "TUPLE": _Machine.marked_tuple, "TUPLE1": lambda machine, _: machine.tuple(1),
    "TUPLE2": lambda machine, _: machine.tuple(2), "TUPLE3": lambda machine, _: machine.tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.take()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take()),
    "GLOBAL": _Machine.name, "STACK_GLOBAL": _Machine.stacked_name, "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call, "NEWOBJ": _Machine.new_object, "BUILD": _Machine.build,
}
