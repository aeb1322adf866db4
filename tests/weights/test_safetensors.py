"""Files of the package `safetensors`, our own, and damaged ones."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxtts.weights import read_weights
from jaxtts.weights.native import load_native, save_native
from jaxtts.weights.safetensors import read_metadata, read_safetensors, replacing, save_safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"


def test_reads_what_the_reference_package_wrote():
    found = read_weights(GOLDEN / "types.safetensors")
    names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "i64": "int64", "bool": "bool",
             "scalar": "scalar", "empty": "empty"}  # fmt: skip
    assert sorted(found) == sorted(names)
    with np.load(GOLDEN / "expected.npz") as arrays:
        for name, ours in names.items():
            wanted = arrays[f"types/{ours}"]
            assert found[name].shape == wanted.shape
            np.testing.assert_array_equal(found[name].astype(wanted.dtype), wanted, err_msg=name)
    assert found["bf16"].dtype == ml_dtypes.bfloat16 and found["i64"].dtype == np.int64
    assert read_metadata(GOLDEN / "types.safetensors") == {"format": "pt"}


def test_round_trip_of_every_type_order_and_shape(tmp_path):
    base = np.arange(12).reshape(3, 4)
    arrays = {name: base.astype(name) for name in
              ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
               "uint64", "bool", "complex64")}  # fmt: skip
    arrays |= {"bfloat16": base.astype(ml_dtypes.bfloat16), "float8": base.astype(ml_dtypes.float8_e4m3fn)}
    arrays |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3)), "transposed": base.T, "every other": base[:, ::2],
               "big endian": base.astype(">f4"), "ünicode": np.ones(1)}  # fmt: skip
    save_safetensors(tmp_path / "x.safetensors", arrays, {"note": "hear"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].flags.aligned, name
    assert read_metadata(tmp_path / "x.safetensors") == {"note": "hear"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"a": np.ones(3)})
    with pytest.raises(ValueError, match="'a' has dtype <U1"):
        save_safetensors(path, {"a": np.array(["x"])})

    with pytest.raises(OSError, match="disk full"), replacing(path) as file:
        file.write(b"half of it")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    np.testing.assert_array_equal(read_safetensors(path)["a"], np.ones(3))


def test_every_truncation_is_one_clear_error(tmp_path):
    whole = (GOLDEN / "types.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            read_weights(path)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "takes 8 bytes, its offsets span 4"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "truncated"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "starts at byte 4"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "belong to no tensor"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "ends at 8"),  # overlap
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "offsets span -8"),
        ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, "has shape"),
        ({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}}, "'F4'"),
        ({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, "type"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "incomplete"),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "incomplete"),
        ({"a": 5}, "incomplete"),
        ([1, 2], "not an object"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(entries, reason, tmp_path):
    text = json.dumps(entries).encode()
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"lie\.safetensors: .*" + reason):
        read_safetensors(path)


@pytest.mark.parametrize("header", [b"{", b"[" * 100_000, b"\xff\xfe{}", b"null"])
def test_a_header_that_is_no_json_object_is_refused(header, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"bad\.safetensors: not a safetensors file"):
        read_safetensors(path)


def test_a_model_folder_round_trips_and_says_what_it_lacks(tmp_path):
    folder = tmp_path / "voices" / "rms"
    params = {"convs.0.kernel": np.arange(6, dtype=np.float16).reshape(1, 2, 3), "convs.0.bias": np.ones(3, np.float32)}
    save_native(folder, params, {"model": "glow_tts", "symbols": ["a", "é"]})
    found, config = load_native(folder)
    assert config == {"model": "glow_tts", "symbols": ["a", "é"]} and sorted(found) == sorted(params)
    for name in params:
        assert found[name].dtype == params[name].dtype
        np.testing.assert_array_equal(found[name], params[name])
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]

    with pytest.raises(TypeError):
        save_native(folder, params, {"model": object()})  # refused before anything is touched
    assert load_native(folder)[1] == config

    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: holds list"):
        load_native(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        load_native(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_native(folder)
