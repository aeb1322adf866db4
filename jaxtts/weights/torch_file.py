"""Reading PyTorch checkpoints (`.pt`, `.pth`, `.ckpt`) without torch and without executing anything in them.

A checkpoint is a pickle, and a pickle is a program that may call any function by name. This module has its own
interpreter of that program, over the opcodes that `pickletools.genops` parses, in which no call exists: a name
becomes an inert `Global`, a call of it an inert `Object` that records name and arguments, and the few names that
stand for plain data (`_CONSTRUCTORS`: tensors, ordered dictionaries, numpy arrays, sets) are built by functions of
this file. Nothing is imported or looked up by a name from the file, the extension registry and out-of-band buffers
are refused, the memo is a dictionary (no allocation by index), and sizes are checked against the bytes at hand.

Both formats are read: the zip of torch >= 1.6 (`data.pkl`, `data/<key>`, `byteorder`) and the older chain of pickles
(magic number, protocol, system info, object, storage keys) followed by the storages. The tar files of torch < 0.4
are refused by name. Reference: `torch/serialization.py` and `torch/_utils.py` of PyTorch 2.13; differences: devices,
gradients, hooks and tensor subclasses are dropped.
"""

import io
import itertools
import math
import mmap
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from jaxtts.weights.safetensors import dtype_named

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_NODES = 300_000  # what a walk over a checkpoint visits at most: a small pickle can stand for a huge tree
_MAX_DEPTH = 100
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
_DAMAGE = (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, EOFError,
           RecursionError, RuntimeError, NotImplementedError, OSError, zipfile.BadZipFile)  # fmt: skip


@dataclass(eq=False, frozen=True, slots=True)
class Global:
    """A class or function that the file names; never looked up."""

    name: str


@dataclass(eq=False, slots=True, repr=False)
class Object:
    """What a call of an unknown name would have made: a record of it.

    Attributes:
        name: dotted name of the class or function, such as 'torch.nn.modules.conv.Conv1d'.
        args: arguments of the call.
        state: what the file would have set on the object: its attributes as a dict, as a rule.
        mapping: entries, where the class is a kind of dict.
        sequence: elements, where the class is a kind of list or set.
    """

    name: str
    args: tuple = ()
    state: Any = None
    mapping: dict = field(default_factory=dict)
    sequence: list = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Object({self.name})"


@dataclass(eq=False, slots=True, repr=False)
class _Pending(Object):
    """An object whose value is known only with its state (numpy arrays and dtypes)."""

    finish: Callable[[Any], Any] | None = None
    slots: list[int] = field(default_factory=list)  # where the memo holds it


@dataclass(eq=False, frozen=True, slots=True)
class _Storage:
    data: np.ndarray  # [bytes] uint8
    dtype: np.dtype
    swap: bool = False


def _simple(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | int | float | Global | Object)


def _key(value: Any) -> Any:
    """A dictionary key: plain ones as they are, others wrapped (hashing a deep tuple would overflow the C stack)."""
    plain = _simple(value) or (isinstance(value, tuple) and len(value) < 100 and all(map(_simple, value)))
    return value if plain else Object("key", (value,))


def _mapping(*args: Any) -> dict:
    return {_key(key): value for key, value in args[0]} if args and not isinstance(args[0], Global) else {}


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any, dtype: Any = None) -> np.ndarray:
    """A tensor as a view of its storage; offset, size and stride in elements."""
    kind = storage.dtype if dtype is None else dtype_named(dtype.name.removeprefix("torch."))
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError(f"a tensor has size {size}, stride {stride} and offset {offset}")
    room = len(storage.data) // kind.itemsize
    needed = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride)) if math.prod(size) else 0)
    if needed > room:
        raise ValueError(f"a tensor of size {size} needs {needed} elements of a storage that has {room}")
    elements = storage.data[: room * kind.itemsize].view(kind)[offset:]
    if storage.swap:
        elements = elements.byteswap()
    writeable = elements.flags.writeable and 0 not in stride
    return np.lib.stride_tricks.as_strided(elements, size, [n * kind.itemsize for n in stride], writeable=writeable)


def _tensor_v3(storage: _Storage, offset: int, size: tuple, stride: tuple, _grad: Any, _hooks: Any, dtype: Global,
               *_: Any) -> np.ndarray:  # fmt: skip
    return _tensor(storage, offset, size, stride, dtype=dtype)


def _bytes(text: str | bytes = b"", encoding: str = "latin1") -> bytes:
    if isinstance(text, bytes):
        return text
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _dtype(code: str, *_: Any) -> Any:
    if not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})", code):
        return Object("numpy.dtype", (code,))

    def finish(state: tuple) -> np.dtype:
        return np.dtype(code).newbyteorder(">" if state[1] == ">" else "<" if state[1] == "<" else "=")

    return _Pending("numpy.dtype", (code,), finish=finish)


def _ready(dtype: Any) -> np.dtype:
    if isinstance(dtype, _Pending):
        return np.dtype(dtype.args[0])
    if not isinstance(dtype, np.dtype):
        raise ValueError("a numpy array of another type than numbers or text")
    return dtype


def _array(*args: Any) -> Object:
    def finish(state: tuple) -> Any:
        _, shape, dtype, fortran, data = state
        if isinstance(dtype, Object) and not isinstance(dtype, _Pending):
            return Object("numpy.ndarray", (shape,), state=data)  # of Python objects
        return np.frombuffer(_bytes(data), _ready(dtype)).reshape(tuple(shape), order="F" if fortran else "C")

    return _Pending("numpy.ndarray", args, finish=finish)


def _scalar(dtype: Any, data: Any = None) -> Any:
    if isinstance(dtype, Object) and not isinstance(dtype, _Pending):
        return Object("numpy.scalar", (dtype, data))
    return np.frombuffer(_bytes(data), _ready(dtype))[0]


def _frombuffer(data: Any, dtype: Any, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(data, _ready(dtype)).reshape(tuple(shape), order="F" if order == "F" else "C")


def _reconstructor(cls: Global, *_: Any) -> Object:
    return Object(cls.name)


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
}
for _module in ("builtins.", "__builtin__."):
    _CONSTRUCTORS |= {
        _module + "set": lambda items=(): set(map(_key, items)),
        _module + "frozenset": lambda items=(): frozenset(map(_key, items)),
        _module + "bytes": _bytes,
        _module + "bytearray": lambda *args: bytearray(_bytes(*args)),
        _module + "complex": lambda real, imag: complex(float(real), float(imag)),
    }

_PUSH = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip


def _interpret(file: Any, budget: int, storage: Callable[..., Any]) -> Any:
    """Runs one pickle from `file` and leaves the file behind it.

    Args:
        file: with read, readline and tell, clamped to what is there (BytesIO or mmap).
        budget: elements and characters that constructors may copy in all.
        storage: what a persistent id stands for.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marks.pop()
        return items

    def call(function: Any, args: Any, kwargs: Any = None) -> Any:
        nonlocal budget
        if not isinstance(function, Global | Object) or not isinstance(args, tuple):
            raise ValueError("it calls something that is not a name")
        construct = _CONSTRUCTORS.get(function.name) if isinstance(function, Global) else None
        if function.name == "torch._tensor._rebuild_from_type_v2" and len(args) == 4:  # a subclass of Tensor
            return call(args[0], args[2])
        if construct is None or kwargs:
            return Object(function.name, (*args, kwargs) if kwargs else args)
        budget -= sum(len(arg) for arg in args if isinstance(arg, str | bytes | list | tuple))
        if budget < 0:
            raise ValueError("it unfolds to far more than it holds")
        return construct(*args)

    def set_items(target: Any, items: list[Any]) -> None:
        mapping = target.mapping if isinstance(target, Object) else target
        if not isinstance(mapping, dict):
            raise ValueError("it sets items of something that is no dictionary")
        mapping.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def append(target: Any, items: list[Any]) -> None:
        sequence = target.sequence if isinstance(target, Object) else target
        if isinstance(sequence, set):
            sequence.update(map(_key, items))
        elif isinstance(sequence, list):
            sequence.extend(items)
        else:
            raise ValueError("it appends to something that is no list")

    def build(target: Any, state: Any) -> None:
        if isinstance(target, _Pending) and target.finish is not None:
            stack[-1] = target.finish(state)
            memo.update(dict.fromkeys(target.slots, stack[-1]))
        elif isinstance(target, Object):
            both = isinstance(target.state, dict) and isinstance(state, dict)
            target.state = {**target.state, **state} if both else state
        # Attributes of plain data (a state dict's _metadata, a tensor's hooks) are dropped.

    arg: Any
    for op, arg, _position in pickletools.genops(file):
        match op.name:
            case name if name in _PUSH:
                stack.append(arg)
            case name if name in _NEW:
                stack.append(_NEW[name]())
            case "PROTO" | "FRAME":
                pass
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE" as name:
                slot = len(memo) if name == "MEMOIZE" else arg
                memo[slot] = stack[-1]
                if isinstance(stack[-1], _Pending):
                    stack[-1].slots.append(slot)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "MARK":
                marks.append(stack)
                stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    since_mark()
            case "POP_MARK":
                since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "LIST":
                items = since_mark()
                stack.append(items)
            case "DICT":
                items = since_mark()
                stack.append({})
                set_items(stack[-1], items)
            case "FROZENSET":
                items = since_mark()
                stack.append(frozenset(map(_key, items)))
            case "APPEND":
                value = stack.pop()
                append(stack[-1], [value])
            case "APPENDS" | "ADDITEMS":
                items = since_mark()
                append(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(Global(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not isinstance(name, str) or not isinstance(module, str):
                    raise ValueError("it names a class by something that is no text")
                stack.append(Global(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                args = stack.pop()
                stack.append(call(stack.pop(), args))
            case "NEWOBJ_EX":
                kwargs, args = stack.pop(), stack.pop()
                stack.append(call(stack.pop(), args, kwargs))
            case "INST":
                items = since_mark()
                stack.append(call(Global(arg.replace(" ", ".", 1)), tuple(items)))
            case "OBJ":
                items = since_mark()
                stack.append(call(items[0], tuple(items[1:])))
            case "BUILD":
                state = stack.pop()
                build(stack[-1], state)
            case "PERSID":
                stack.append(storage(arg))
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"it has the opcode {name}, which no checkpoint needs")
    raise ValueError("it has no end")


def _described(key: Any) -> tuple[np.dtype, str, int]:
    """dtype, key and number of bytes of a storage from its persistent id."""
    if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], Global):
        raise ValueError("it refers to something that is no storage")
    kind = key[1].name.rpartition(".")[2]
    if kind not in _STORAGES or not key[1].name.startswith("torch."):
        raise ValueError(f"it has a storage of type {key[1].name}; known are {', '.join(_STORAGES)}")
    dtype, name, count = dtype_named(_STORAGES[kind]), key[2], key[4]
    if not isinstance(name, str) or type(count) is not int or count < 0:
        raise ValueError("it describes a storage by something else than name and size")
    return dtype, name, count * dtype.itemsize


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"the zip holds {len(pickles)} files data.pkl, expected one")
        root = pickles[0].removesuffix("data.pkl")
        storages: dict[str, np.ndarray] = {}
        left = os.fstat(file.fileno()).st_size

        def read(name: str) -> bytes:
            nonlocal left
            if root + name not in members:
                raise ValueError(f"the zip lacks {root + name}")
            left -= members[root + name].file_size
            if left < 0:  # entries that overlap
                raise ValueError("truncated: its storages should take more bytes than the file has")
            if members[root + name].compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{root + name} is compressed, which torch never does; save it again with torch")
            return archive.read(members[root + name])

        swap = root + "byteorder" in members and read("byteorder").strip() == b"big"

        def storage(key: Any) -> _Storage:
            dtype, name, size = _described(key)
            if name not in storages:
                storages[name] = np.frombuffer(read(f"data/{name}"), np.uint8)
            if len(storages[name]) < size:
                raise ValueError(f"storage {name} should take {size} bytes and has {len(storages[name])}")
            return _Storage(storages[name], dtype, swap)

        text = read("data.pkl")
        return _interpret(io.BytesIO(text), 1_000_000 + 8 * len(text), storage)


def _read_legacy(file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    storages: dict[str, tuple[np.ndarray, np.dtype]] = {}
    left = size

    def refuse(_key: Any) -> Any:
        raise ValueError("its head refers to a storage")

    def storage(key: Any) -> Any:
        nonlocal left
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module":  # a class, with its source
            return key[1]
        dtype, name, count = _described(key)
        if name not in storages:
            left -= count
            if left < 0:
                raise ValueError("truncated: its storages should take more bytes than the file has")
            storages[name] = np.empty(count, np.uint8), dtype
        data = storages[name][0]
        if len(key) > 5 and key[5] is not None:  # (key, offset, size) of a view, in elements
            start, length = (int(n) * dtype.itemsize for n in key[5][1:])
            if not 0 <= start <= start + length <= len(data):
                raise ValueError(f"a view of storage {name} leaves it")
            data = data[start : start + length]
        return _Storage(data, dtype)

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        magic, protocol, _system = (_interpret(mapped, 10_000, refuse) for _ in range(3))
        if magic != _MAGIC or protocol != _PROTOCOL:
            raise ValueError(f"its format is {protocol!r}, expected {_PROTOCOL}")
        root = _interpret(mapped, 1_000_000 + 8 * size, storage)
        keys = _interpret(mapped, 1_000_000 + 8 * size, refuse)
        if not isinstance(keys, list) or set(map(_key, keys)) != set(storages):
            raise ValueError("its list of storages does not fit its tensors")
        for name in keys:
            data, dtype = storages[name]
            count = int.from_bytes(mapped.read(8), "little")
            content = mapped.read(len(data))
            if len(content) < len(data):
                raise ValueError(f"truncated: storage {name} has {len(content)} of {len(data)} bytes")
            if count * dtype.itemsize != len(data):
                raise ValueError(f"storage {name} should have {len(data)} bytes, {count} elements are stored")
            data[:] = np.frombuffer(content, np.uint8)
    return root


def read_torch(path: str | os.PathLike) -> Any:
    """Reads a PyTorch checkpoint without executing anything in it.

    Args:
        path: a file of `torch.save`, zip or legacy format.

    Returns:
        What was saved: dicts, lists, numbers and text as they are, tensors and numpy arrays as arrays (views of
        shared storages stay views; those of zip files are read-only), anything else as inert `Object`s.

    Raises:
        ValueError: not a checkpoint, damaged, or truncated; the message names the file.
    """
    with open(path, "rb") as file:
        head = file.read(300)
        file.seek(0)
        if head[257:262] == b"ustar":
            raise ValueError(f"{path}: a tar file of torch before 0.4; load it and save it again with a newer torch")
        if not head.startswith((b"PK", b"\x80")):
            raise ValueError(f"{path}: not a PyTorch checkpoint: neither a zip nor a pickle")
        try:
            return _read_zip(file) if head.startswith(b"PK") else _read_legacy(file)
        except _DAMAGE as error:
            reason = (
                str(error) if isinstance(error, ValueError | OSError | zipfile.BadZipFile) and str(error) else "damaged"
            )
            raise ValueError(f"{path}: not a readable PyTorch checkpoint: {reason}") from error


def _is_module(node: Any) -> bool:
    return isinstance(node, Object) and isinstance(node.state, dict) and "_parameters" in node.state


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    """Name -> child of a dict or of a pickled nn.Module; nothing for anything else."""
    if _is_module(node):
        hidden = node.state.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers", "_modules"):
            entries = node.state.get(part)
            for name, child in (entries if isinstance(entries, dict) else {}).items():
                if child is not None and not (part == "_buffers" and name in hidden):
                    yield name, child
    elif isinstance(node, Object | dict):
        yield from (node.mapping if isinstance(node, Object) else node).items()


def _leaves(root: Any) -> Iterator[tuple[str, Any]]:
    """Dotted name -> leaf in order, without recursion and with an end."""
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        name, node, depth = stack.pop()
        children = list(_children(node))
        if not children:
            if not isinstance(node, dict) and not _is_module(node):  # an empty one, such as a Dropout
                yield name, node
            continue
        if depth > _MAX_DEPTH:
            raise ValueError(f"the checkpoint is nested deeper than {_MAX_DEPTH} levels")
        stack += [(f"{name}.{key}" if name else str(key), child, depth + 1) for key, child in reversed(children)]
    raise ValueError(f"the checkpoint unfolds to more than {_MAX_NODES} entries")


def _names(obj: Any) -> str:
    return ", ".join(str(name)[:100] for name, _ in itertools.islice(_children(obj), 20)) or "no entries"


def state_dict(obj: Any, *keys: str) -> dict[str, np.ndarray]:
    """Flattens a checkpoint, or the part of it under `keys`, into named arrays.

    Args:
        obj: what `read_torch` gave.
        keys: the way down to the weights, such as 'state_dict'.

    Returns:
        Dotted name -> array from nested dicts and pickled modules (`_parameters`, `_buffers`, `_modules`; without
        the buffers that the module does not persist). Entries that are no arrays are left out.

    Raises:
        ValueError: a key is absent (the message lists those present) or nothing there is an array.
    """
    for depth, key in enumerate(keys):
        entries = dict(_children(obj))
        if isinstance(obj, Object) and isinstance(obj.state, dict):
            entries |= obj.state
        if key not in entries:
            raise ValueError(f"the checkpoint has no {'.'.join(keys[: depth + 1])}; there are: {_names(entries)}")
        obj = entries[key]
    arrays = {name: np.asarray(leaf) for name, leaf in _leaves(obj) if isinstance(leaf, np.ndarray | np.generic)}
    if not arrays:
        raise ValueError(f"the checkpoint holds no tensors{' under ' + '.'.join(keys) if keys else ''}")
    return arrays


def weights_of(obj: Any) -> dict[str, np.ndarray]:
    """Finds the weights of a checkpoint by their form, wherever its trainer put them.

    A module, or a dict that holds nothing but named arrays, is weights. Of a checkpoint with such entries one
    ('state_dict', 'model', 'generator') gives its names as they are, several ('mpd', 'msd') give them with the
    entry's name before. Optimisers (whose entries are numbered) and settings are thus left out.

    Raises:
        ValueError: no such entry.
    """

    def is_weights(node: Any) -> bool:
        named = [isinstance(name, str) for name, _ in _children(node)]
        return bool(named) and all(named) and all(isinstance(leaf, np.ndarray) for _, leaf in _leaves(node))

    while True:
        groups = {name: child for name, child in _children(obj) if isinstance(name, str) and is_weights(child)}
        if _is_module(obj) or (is_weights(obj) and len(groups) != 1):
            return state_dict(obj)
        if not groups:
            raise ValueError(f"the checkpoint holds no entry with named weights; there are: {_names(obj)}")
        if len(groups) > 1:
            return state_dict(groups)
        (obj,) = groups.values()
