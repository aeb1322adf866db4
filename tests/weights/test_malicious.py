"""Pickles that want to run something: nothing runs, and what comes back is inert data or a ValueError."""

import codecs
import collections
import copyreg
import importlib
import io
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from jaxtts.weights import read_weights, torch_file
from jaxtts.weights.torch_file import Global, Object, read_torch

HEAD = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


class Call:
    """Pickles as a call of `function`, and as BUILD of `state` on its result."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args, state)

    def __reduce__(self):
        return self.parts


def write(path, body: bytes, form: str):
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", body)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/data/0", bytes(16))
    else:
        path.write_bytes(HEAD + body + pickle.dumps([], 2))
    return path


@pytest.fixture(params=["zip", "legacy"])
def read(request, tmp_path):
    """body of a pickle -> what the reader makes of it."""
    return lambda body: read_torch(write(tmp_path / "evil.pt", body, request.param))


def piece(value) -> bytes:
    """The opcodes that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def storage(kind: bytes, name: str = "0", count: int = 4) -> bytes:
    """The opcodes of a reference to a storage."""
    return b"(" + piece("storage") + kind + piece(name) + piece("cpu") + piece(count) + b"tQ"


def tensor(size: tuple, stride: tuple, offset: int = 0, name: str = "0") -> bytes:
    """A pickle of a tensor over a storage of four floats."""
    of_ints = [b"(" + b"".join(map(piece, values)) + b"t" for values in (size, stride)]
    arguments = b"(" + storage(b"ctorch\nFloatStorage\n", name) + piece(offset) + b"".join(of_ints) + b"\x89Nt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


EVENTS: list[str] | None = None


def _hook(event, args):
    if EVENTS is not None and event in (
        "exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
        "socket.__new__", "pickle.find_class", "ctypes.dlopen", "marshal.loads",
    ):  # fmt: skip
        EVENTS.append(f"{event} {args[:1]}")


sys.addaudithook(_hook)


@contextmanager
def nothing_runs():
    """The interpreter itself reports imports, commands, code and pickle's own look-up of names: there must be none."""
    global EVENTS
    for codec in ("ascii", "latin1", "cp437", "unicode_escape", "raw_unicode_escape"):
        codecs.lookup(codec)  # Python's own, imported at their first use
    EVENTS = []
    try:
        yield
        assert not EVENTS
    finally:
        EVENTS = None


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_recorded_not_made(protocol, read, tmp_path):
    sentinel = tmp_path / "sentinel"
    command = f"touch {sentinel}"
    payloads = [
        Call(os.system, command),
        Call(eval, f"open({str(sentinel)!r}, 'w')"),
        Call(exec, f"open({str(sentinel)!r}, 'w')"),
        Call(subprocess.Popen, ["touch", str(sentinel)]),
        Call(open, str(sentinel), "w"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(dict, state=Call(os.system, command)),
        collections.OrderedDict(a=Call(os.system, command)),
        Call(collections.defaultdict, Call(os.system, command)),
        [Call(importlib.import_module, "this")],
    ]
    for payload in payloads:
        body = pickle.dumps({"state_dict": payload}, protocol)
        with nothing_runs():
            try:
                read(body)
            except ValueError as error:
                assert "evil.pt" in str(error)
        assert not sentinel.exists()


def test_the_record_names_what_would_have_been_called(read):
    record = read(pickle.dumps({"state_dict": Call(os.system, "touch /tmp/never")}))["state_dict"]
    assert isinstance(record, Object)
    assert record.name.endswith(".system") and record.args == ("touch /tmp/never",)


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n(S'touch {path}'\ntR.",  # GLOBAL, REDUCE
        b"(S'touch {path}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {path}'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x40touch {path:<58}\x85R.",  # STACK_GLOBAL
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85\x81.",  # NEWOBJ
        b"\x80\x04cbuiltins\neval\nX\x01\x00\x00\x001\x85}\x92.",  # NEWOBJ_EX
        b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'touch {path}'\ntR.",
        b"c..odd\n__class__.__mro__\n)R.",
        b"c\n\n)R.",
        b"\x80\x04cos.path\n__builtins__\n}\x8c\x0c__setstate__cos\nsystem\nsb.",  # BUILD on a name
        b"\x80\x02}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb.",
    ],
)
def test_hand_written_programs_run_nothing(body, read, tmp_path):
    sentinel = tmp_path / "sentinel"
    text = str(sentinel)[:50].encode()
    body = body.replace(b"{path:<58}", text.ljust(58)).replace(b"{path}", str(sentinel).encode())
    result = None
    with nothing_runs():
        try:
            result = read(body)
        except ValueError as error:
            assert "evil.pt" in str(error)
    assert not sentinel.exists()
    assert result is None or isinstance(result, Object | Global | dict)


def test_the_watch_of_these_tests_sees_what_pickle_would_do():
    with pytest.raises(AssertionError), nothing_runs():
        pickle.loads(b"cos\nsystem\n.")


def test_the_extension_registry_is_not_consulted(read):
    copyreg.add_extension("os", "system", 240)
    try:
        pickle.loads(pickle.dumps(os.system, 2))  # fills pickle's cache of extensions
        for opcode in (b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
            with pytest.raises(ValueError, match="EXT"):
                read(b"\x80\x02" + opcode + b"X\x04\x00\x00\x00true\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"Pabc\n.", "no storage"),
        (b"\x80\x02" + piece(("storage", "x", "0", "cpu", 1)) + b"Q.", "no storage"),
        (storage(b"cos\nsystem\n") + b".", "os.system"),
        (storage(b"ctorch\nQInt8Storage\n") + b".", "QInt8"),
        (storage(b"ctorch\nFloatStorage\n", count=1 << 50) + b".", "bytes"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02]K\x01.", ""),  # leaves an item behind; STOP returns the top
        (b"\x80\x02h\x05.", "damaged"),  # GET of what was never put
        (b"\x80\x020.", "damaged"),  # POP of nothing
        (b"\x80\x02t.", "damaged"),  # TUPLE without MARK
        (b"\x80\x02K\x01", "pickle exhausted"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "expected"),  # BINBYTES8 of 2**63 bytes
        (b"\x80\x02K\x01K\x02R.", "calls something"),
        (b"\x80\x02K\x01K\x02K\x03s.", "sets items"),
        (b"\x80\x02K\x01K\x02a.", "appends"),
    ],
)  # fmt: skip
def test_broken_programs_are_one_clear_error(body, reason, read):
    if reason == "":
        assert read(body) == 1
        return
    with pytest.raises(ValueError, match=r"evil\.pt: .*" + reason):
        read(body)


def test_a_memo_index_of_four_billion_allocates_nothing(read):
    assert read(b"\x80\x02]r\xff\xff\xff\xffj\xff\xff\xff\xff.") == []


def test_a_tower_of_tuples_as_dictionary_key_does_not_overflow_the_stack(read):
    (key,) = read(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.")
    assert isinstance(key, Object)


def test_cycles_and_unfolding_end(tmp_path):
    cycle: dict = {}
    cycle["again"] = cycle
    levels: dict = {"leaf": np.ones(1)}
    for _ in range(60):  # 2**60 leaves when walked
        levels = {"a": levels, "b": levels}
    deep: dict = {}
    for _ in range(200):
        deep = {"x": deep}
    for payload, reason in ((cycle, "nested deeper"), (levels, "unfolds"), (deep, "nested deeper")):
        path = write(tmp_path / "evil.pt", pickle.dumps({"model": payload}, 4), "zip")
        with pytest.raises(ValueError, match=r"evil\.pt: .*" + reason):
            read_weights(path)


def test_a_string_copied_by_every_call_runs_out_of_budget(read):
    text = piece("x" * 500_000)
    calls = b"c_codecs\nencode\nh\x00\x85R0" * 10_000  # 5 GB of bytes if made and kept
    with pytest.raises(ValueError, match="unfolds to far more"):
        read(b"\x80\x02" + text + calls + b"N.")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (4, 1), 0), ((2,), (-1,), 3), ((-1,), (1,), 0), ((1,), (1,), -1),
     ((2,), (1 << 62,), 0), ((1 << 62,), (1,), 0), ((2,), (1, 1), 0), ((1,) * 100, (1,) * 100, 0),
     ((1,), (1,), 1 << 70), ((1 << 40, 1 << 40), (0, 0), 0)],
)  # fmt: skip
def test_a_tensor_cannot_reach_outside_its_storage(size, stride, offset, tmp_path):
    path = write(tmp_path / "evil.pt", tensor(size, stride, offset), "zip")
    with pytest.raises(ValueError, match=r"evil\.pt"):
        read_torch(path)


def test_a_tensor_inside_its_storage_is_read(tmp_path):
    path = write(tmp_path / "fine.pt", tensor((2, 2), (2, 1)), "zip")
    np.testing.assert_array_equal(read_torch(path), np.zeros((2, 2)))


def test_a_storage_name_cannot_leave_the_archive(tmp_path):
    path = write(tmp_path / "evil.pt", tensor((1,), (1,), name="../../../../etc/passwd"), "zip")
    with pytest.raises(ValueError, match=r"lacks archive/data/\.\./"):
        read_torch(path)


@pytest.mark.parametrize("dtype", ["O8", "V8", "f99", "i4,i4", "S9999999999", "M8[ns]", "", "int\x00"])
def test_numpy_types_that_are_no_plain_numbers_stay_inert(dtype, read):
    made = b"cnumpy\ndtype\n(" + piece(dtype) + b"K\x00K\x01tR"
    assert isinstance(read(b"\x80\x02" + made + b"."), Object)
    scalar = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + made + b"C\x08" + bytes(8) + b"\x86R."
    assert isinstance(read(scalar), Object)


def test_random_programs_end_in_data_or_value_error():
    rng = np.random.default_rng(1)
    codes = [op.code.encode("latin1") for op in pickletools.opcodes]
    pieces = [b"cos\nsystem\n", b"X\x02\x00\x00\x00hi", b"K\x01", b"(", b")", b"}", b"]", b"ctorch\nSize\n", b"q\x00",
              b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"X\x02\x00\x00\x00f4", b"h\x00", b"C\x04abcd",
              b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy.core.multiarray\n_reconstruct\n"]  # fmt: skip
    choices = [*codes, *pieces * 4, *[b"R", b"b", b"\x81", b"t", b"\x85", b"\x86"] * 5]
    read, refused = 0, 0
    with nothing_runs():
        for _ in range(4000):
            body = b"".join(choices[i] for i in rng.integers(0, len(choices), rng.integers(2, 25))) + b"."
            try:
                torch_file._interpret(io.BytesIO(body), 10_000, torch_file._described)
                read += 1
            except torch_file._DAMAGE:
                refused += 1
    assert read > 50 and refused > 1000
