#!/usr/bin/env python3
"""Compares our models with recorded outputs of the reference implementations.

    python tools/parity.py DIR [DIR ...]

Every folder below DIR with a meta.json is a case: weights.safetensors (or model.safetensors), io.npz with inputs
'in.*' and outputs 'out.*'; meta.json may point elsewhere with 'weights_from' and 'io_from'. The case's system picks
the model, whose parity.py runs it on the stored inputs. For each output the name, shape, largest absolute error and
verdict are printed. An output whose stored values are all whole numbers (alignments, durations) must be equal; any
other may differ by 1e-4 or the tolerance stored with it, whichever is larger. What cannot be checked is printed as
NOT CHECKED. Exit status 0 only if every output of every case was checked and passed.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SYSTEMS = {
    "glow_tts": "jaxtts.models.glow_tts.parity",
    "coqui_glow_tts": "jaxtts.models.glow_tts.parity",
    "coqui_tacotron": "jaxtts.models.tacotron.parity",
    "rtvc_tacotron": "jaxtts.models.tacotron.parity",
    "hifigan": "jaxtts.models.hifigan.parity",
    "hf_vits": "jaxtts.models.vits.hf_parity",
    "parallel_wavegan": "jaxtts.models.parallel_wavegan.parity",
    "tacotron2": "jaxtts.models.tacotron2.parity",
    "vits": "jaxtts.models.vits.parity",
    "clarinet": "jaxtts.models.parallel_wavenet.parity",
    "waveglow": "jaxtts.models.waveglow.parity",
    "wavenet_vocoder": "jaxtts.models.wavenet.parity",
    "wavernn": "jaxtts.models.wavernn.parity",
}
GIVEN = {"wavernn": ("fold_input",)}  # recorded as outputs, but what other outputs are made of


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    cases = sorted({meta.parent for root in args.dirs for meta in root.rglob("meta.json")})
    if not cases:
        print(f"no meta.json below {', '.join(map(str, args.dirs))}", file=sys.stderr)
        return 2
    counts = {"ok": 0, "DIFFERS": 0, "NOT CHECKED": 0}
    for case in cases:
        for name, shape, error, bound, verdict in check(case):
            counts[verdict] += 1
            print(f"  {name:32} {shape!s:20} {error:>10} {bound:>10}  {verdict}", flush=True)
    print(f"{len(cases)} cases: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    return int(counts["ok"] == 0 or counts["DIFFERS"] + counts["NOT CHECKED"] > 0)


def check(case: Path) -> list[tuple[str, tuple[int, ...], str, str, str]]:
    """Rows (name, shape, error, bound, verdict) for the outputs of one case."""
    meta = json.loads((case / "meta.json").read_text())
    print(f"{case.parent.name}/{case.name}")
    io_path = case / (meta["io_from"] if "io_from" in meta else "io.npz")
    if io_path.is_dir():
        io_path = io_path / "io.npz"
    if not io_path.exists():
        print("  no io.npz")
        return [("-", (), "", "", "NOT CHECKED")]
    if "io_from" in meta:  # what that case says of its arrays and configuration holds here
        meta = json.loads((io_path.parent / "meta.json").read_text()) | meta
    with np.load(io_path, allow_pickle=False) as file:
        arrays = dict(file)
    for name in GIVEN.get(meta.get("system", ""), ()):
        arrays |= {f"in.{name}": arrays.pop(f"out.{name}")} if f"out.{name}" in arrays else {}
    inputs = {k: v for k, v in arrays.items() if k.startswith("in.")}
    outputs = {k: v for k, v in arrays.items() if k.startswith("out.")}
    ours: dict[str, Any] = {}
    if meta.get("system") in SYSTEMS:
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        ours = importlib.import_module(SYSTEMS[meta["system"]]).parity(meta, _weights(case, meta), inputs)
    return [_row(name, want, ours.get(name), meta["arrays"].get(name, {})) for name, want in outputs.items()]


def _row(name: str, want: np.ndarray, got: Any, about: dict[str, Any]) -> tuple[str, tuple[int, ...], str, str, str]:
    if got is None:
        return name, want.shape, "", "", "NOT CHECKED"
    got = np.asarray(got)
    if got.shape != want.shape:
        return name, want.shape, f"{got.shape}", "", "DIFFERS"
    if want.dtype.kind not in "fiub":
        equal = bool(np.array_equal(got, want))
        return name, want.shape, "equal" if equal else "unequal", "equal", "ok" if equal else "DIFFERS"
    want, got = want.astype(np.float64), got.astype(np.float64)
    bound = 0.0 if np.array_equal(want, np.round(want)) else max(1e-4, about.get("suggested_atol", 0.0))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = float(np.max(np.where(same, 0.0, np.abs(got - want)), initial=0.0))
    passed = error <= bound  # False for NaN
    return name, want.shape, f"{error:.2e}", f"{bound:.1e}", "ok" if passed else "DIFFERS"


def _weights(case: Path, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    from jaxtts.weights import read_weights

    if meta.get("weights_from"):
        path = case / meta["weights_from"]
        path = path / "weights.safetensors" if path.is_dir() else path
    else:
        path = next((p for p in (case / "weights.safetensors", case / "model.safetensors") if p.exists()), None)
    return dict(read_weights(path)) if path else {}


if __name__ == "__main__":
    sys.exit(main())
