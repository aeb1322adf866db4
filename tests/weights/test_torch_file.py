"""Checkpoints that real torch wrote (tools/make_golden.py torch-files), read without it."""

import json
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxtts.weights import read_weights
from jaxtts.weights.torch_file import Global, Object, read_torch, state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"
DTYPES = json.loads((GOLDEN / "meta.json").read_text())["dtypes"]
FORMATS = ("zip", "legacy")


def expected(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as arrays:
        return {key.removeprefix(case + "/"): arrays[key] for key in arrays.files if key.startswith(case + "/")}


def check(case: str, found: dict[str, np.ndarray]) -> None:
    wanted = expected(case)
    assert sorted(found) == sorted(wanted)
    for name, array in found.items():
        assert array.dtype.name == DTYPES[f"{case}/{name}"], name
        assert array.shape == wanted[name].shape, name
        np.testing.assert_array_equal(array.astype(wanted[name].dtype), wanted[name], err_msg=name)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", ["types", "newer_types", "views", "module", "lightning"])
def test_reads_what_torch_wrote(case, form):
    check(case, read_weights(GOLDEN / f"{case}.{form}.pt"))


@pytest.mark.parametrize("case", ["weight_norm", "old_weight_norm"])
def test_reads_both_spellings_of_weight_norm_below_the_key_generator(case):
    check(case, read_weights(GOLDEN / f"{case}.zip.pt"))
    check(case, state_dict(read_torch(GOLDEN / f"{case}.zip.pt"), "generator"))


def test_swaps_the_bytes_of_a_big_endian_file():
    check("big_endian", read_weights(GOLDEN / "big_endian.pt"))


def test_values_types_and_dtypes_are_exact_for_bfloat16():
    found = read_weights(GOLDEN / "types.zip.pt")["bfloat16"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), expected("types")["bfloat16"])


@pytest.mark.parametrize("form", FORMATS)
def test_views_share_one_storage_and_cost_no_copies(form):
    views = read_torch(GOLDEN / f"views.{form}.pt")
    for name in ("transposed", "offset", "strided", "row"):
        assert np.shares_memory(views[name], views["base"]), name
    assert views["expanded"].strides[0] == 0 and not views["expanded"].flags.writeable


@pytest.mark.parametrize("form", FORMATS)
def test_a_pickled_module_becomes_an_inert_record(form):
    checkpoint = read_torch(GOLDEN / f"module.{form}.pt")
    model = checkpoint["model"]
    assert isinstance(model, Object) and model.name == "__main__.Vocoder"
    assert model.state["note"] == {"rate": 22050} and checkpoint["iteration"] == 7
    found = state_dict(checkpoint, "model")
    assert "kept" in found and "window" not in found  # torch's own state dict leaves non-persistent buffers out
    assert list(state_dict(checkpoint, "model", "_modules", "norm")) == [
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["lightning.zip.pt", "lightning.legacy.pt", "protocol4.zip.pt"])
def test_settings_beside_the_weights(name):
    checkpoint = read_torch(GOLDEN / name)
    settings = checkpoint["hyper_parameters"]
    assert settings["rate"] == 22050 and settings["betas"] == (0.8, 0.99) and settings["names"] == {"a", "b"}
    assert settings["scale"] == 0.5 and settings["raw"] == b"\x00\xff" and settings["counts"] == {"x": 1}
    assert settings["big"] == 1 << 70 and settings["shape"] == (2, 3)
    np.testing.assert_array_equal(settings["table"], np.arange(6, dtype=np.float32)[::-1])
    np.testing.assert_array_equal(settings["table2"], np.arange(6).reshape(2, 3))
    assert settings["namespace"].name == "argparse.Namespace" and settings["namespace"].state == {"lr": 1e-4}
    assert settings["path"].name.startswith("pathlib") and settings["path"].args[0] == "corpus"
    assert isinstance(settings["kind"], Global) and settings["kind"].name == "torch.float32"
    assert checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].shape == (2,)
    check("lightning", state_dict(checkpoint, "state_dict"))


def test_an_absent_key_is_named_with_those_present():
    checkpoint = read_torch(GOLDEN / "lightning.zip.pt")
    with pytest.raises(ValueError, match=r"no generator; there are: epoch, global_step, .*state_dict"):
        state_dict(checkpoint, "generator")
    with pytest.raises(ValueError, match="no tensors under loops"):
        state_dict(checkpoint, "loops")


@pytest.mark.parametrize("name", ["types.zip.pt", "types.legacy.pt", "module.legacy.pt", "views.zip.pt"])
def test_every_truncation_is_one_clear_error(name, tmp_path):
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path / name
    for length in {0, 1, 2, 10, *range(20, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=name):
            read_torch(path)


@pytest.mark.parametrize("name", ["types.zip.pt", "lightning.legacy.pt", "module.legacy.pt"])
def test_flipped_bytes_never_raise_anything_but_value_error(name, tmp_path):
    whole = (GOLDEN / name).read_bytes()
    path, rng = tmp_path / name, np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_torch(path)
        except ValueError as error:
            refused += 1
            assert name in str(error)
    assert refused > 30


def test_a_damaged_tensor_in_a_zip_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "flipped.pt"
    whole = bytearray((GOLDEN / "views.zip.pt").read_bytes())
    whole[bytes(whole).index(np.arange(24.0, dtype=np.float32).tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"flipped\.pt.*Bad CRC-32"):
        read_torch(path)


def test_files_of_other_kinds_are_refused_by_name(tmp_path):
    path = tmp_path / "page.pt"
    for content in (b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"page\.pt: not a PyTorch checkpoint"):
            read_weights(path)
    path.write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 300)
    with pytest.raises(ValueError, match="before 0.4"):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"0 files data\.pkl"):
        read_weights(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(GOLDEN / "views.zip.pt") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as copy:
        for info in source.infolist():
            copy.writestr(info.filename, source.read(info))
    with pytest.raises(ValueError, match="is compressed"):
        read_torch(path)
