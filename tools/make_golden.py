"""Records test fixtures from the reference implementations.

    pip install -e '.[reference]'          # torch and safetensors; a contributor's need only
    python tools/make_golden.py torch-files

The tests read what was recorded and need neither torch nor this script. Each subcommand writes one folder below
tests/golden from fixed seeds; a new one is a function `(folder) -> None` in `COMMANDS`.
"""

# pyright: reportMissingImports=false

import argparse
import collections
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"


def torch_files(folder: Path) -> None:
    """Checkpoints as PyTorch writes them, and what they hold (tests/weights)."""
    import safetensors.torch
    import torch
    from torch import nn
    from torch.nn.utils import weight_norm as old_weight_norm
    from torch.nn.utils.parametrizations import weight_norm

    torch.manual_seed(0)
    expected: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}

    def note(case: str, tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            wide = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn) else tensor
            expected[f"{case}/{name}"] = wide.detach().numpy()
            dtypes[f"{case}/{name}"] = str(tensor.dtype).removeprefix("torch.")

    def write(case: str, obj: Any, formats: tuple[str, ...] = ("zip", "legacy"), **kwargs: Any) -> None:
        for form in formats:
            path = folder / f"{case}.{form}.pt"
            torch.save(obj, path, _use_new_zipfile_serialization=form == "zip", **kwargs)

    types = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool, torch.complex64]  # fmt: skip
    tensors = {str(t).removeprefix("torch."): (torch.randn(2, 3) * 50).abs().to(t) for t in types}
    tensors |= {"scalar": torch.tensor(3.25), "empty": torch.zeros(0, 4)}
    write("types", tensors)
    note("types", tensors)
    newer = {"uint16": torch.tensor([1, 65535], dtype=torch.uint16), "float8": torch.randn(4).to(torch.float8_e4m3fn)}
    write("newer_types", newer)
    note("newer_types", newer)

    base = torch.arange(24.0).reshape(4, 6)
    views = {"base": base, "transposed": base.T, "offset": base[1:3, 2:], "strided": base[::2, ::3],
             "row": base[3], "expanded": torch.tensor([1.0, 2.0]).expand(3, 2)}  # fmt: skip
    write("views", views)
    note("views", views)

    module = _vocoder(old_weight_norm)
    optimizer = torch.optim.Adam(module.parameters()).state_dict()
    # The legacy format stores the source text of classes beside them; a word stands for it here.
    with mock.patch("torch.serialization.get_source_lines_and_file", lambda _: (["source"], 1, "model.py")):
        write("module", {"model": module, "iteration": 7, "optimizer": optimizer})
    note("module", module.state_dict())

    for case, norm in (("weight_norm", weight_norm), ("old_weight_norm", old_weight_norm)):
        torch.manual_seed(1)
        model = nn.ModuleDict({"conv": norm(nn.Conv1d(3, 4, 5)), "up": norm(nn.ConvTranspose1d(4, 2, 6)),
                               "out": norm(nn.Linear(2, 5)), "plane": norm(nn.Conv2d(1, 2, (3, 1)))})  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        write(case, {"generator": model.state_dict()}, ("zip",))
        note(case, model.state_dict())
        plain = {f"{name}.weight": getattr(model[name], "weight") for name in model}  # noqa: B009
        note(case + "_folded", plain)

    state = nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.Dropout()).state_dict()
    lightning = {
        "epoch": 3, "global_step": 1200, "pytorch-lightning_version": "2.0.0", "state_dict": state, "loops": {},
        "hyper_parameters": {"rate": 22050, "scale": np.float64(0.5), "table": np.arange(6, dtype=np.float32)[::-1],
                             "betas": (0.8, 0.99), "path": Path("corpus"), "namespace": argparse.Namespace(lr=1e-4),
                             "names": {"a", "b"}, "raw": b"\x00\xff", "counts": collections.defaultdict(int, x=1),
                             "table2": np.asfortranarray(np.arange(6).reshape(2, 3)), "big": 1 << 70,
                             "shape": torch.Size([2, 3]), "device": torch.device("cpu"), "kind": torch.float32},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}}}],
    }  # fmt: skip
    write("lightning", lightning)
    write("protocol4", lightning, ("zip",), pickle_protocol=4)
    note("lightning", state)

    big = torch.arange(5.0)
    with open(folder / "big_endian.pt", "wb") as file:
        _save_big_endian(file, big)
    note("big_endian", {"x": big})

    safetensors.torch.save_file(
        {"bf16": tensors["bfloat16"], "f16": tensors["float16"], "f32": tensors["float32"], "i64": tensors["int64"],
         "bool": tensors["bool"], "scalar": tensors["scalar"], "empty": tensors["empty"]},
        folder / "types.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    np.savez_compressed(folder / "expected.npz", **expected)  # pyright: ignore[reportArgumentType]
    (folder / "meta.json").write_text(json.dumps({"source": f"torch {torch.__version__}", "dtypes": dtypes}, indent=1))


def _vocoder(weight_norm: Any) -> Any:
    """A module of a class that only this script knows, as published vocoders pickle theirs."""
    import torch
    from torch import nn

    class Vocoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([weight_norm(nn.Conv1d(2, 2, 3)), nn.Conv1d(2, 1, 1, bias=False)])
            self.norm = nn.BatchNorm1d(2)
            self.dropout = nn.Dropout(0.1)
            self.alpha = nn.Parameter(torch.randn(2))
            self.register_buffer("kept", torch.arange(3))
            self.register_buffer("window", torch.hann_window(4), persistent=False)
            self.note = {"rate": 22050}

    Vocoder.__qualname__ = "Vocoder"
    globals()["Vocoder"] = Vocoder  # pickle wants to find the class by its name
    return Vocoder()


def _save_big_endian(file: Any, tensor: Any) -> None:
    """What torch writes on a big-endian machine: the zip with the flag and swapped storages."""
    import io
    import zipfile

    import torch

    buffer = io.BytesIO()
    torch.save({"x": tensor}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(file, "w") as copy:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            copy.writestr(zipfile.ZipInfo(info.filename), data)


COMMANDS = {"torch-files": (torch_files, "weights")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (record, subfolder) in COMMANDS.items():
        command = commands.add_parser(name, help=record.__doc__)
        command.add_argument("--out", type=Path, default=GOLDEN / subfolder, help="folder to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    COMMANDS[args.command][0](args.out)


if __name__ == "__main__":
    main()
