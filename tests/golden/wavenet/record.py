"""Puts recorded cases of WaveNet and its kin into one file for the tests.

    python tests/golden/wavenet/record.py FOLDER

FOLDER holds cases as tools/parity.py takes them, with weights, inputs and outputs of the references at small sizes:
wavenet_vocoder (r9y9), clarinet (ksw0306), parallel_wavegan (kan-bayashi). Arrays of a case are CASE/meta (of its
meta.json), CASE/weights.NAME, CASE/in.NAME and CASE/out.NAME.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from jaxtts.weights import read_weights

CASES = (
    "wavenet_vocoder/mol_local",
    "wavenet_vocoder/gaussian_local",
    "wavenet_vocoder/mulaw_local_global",
    "clarinet/teacher_student",
    "parallel_wavegan/generator",
)


def main() -> None:
    """Reads the cases, writes cases.npz beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    arrays: dict[str, np.ndarray] = {}
    for case in CASES:
        meta = json.loads((folder / case / "meta.json").read_text())
        kept = {name: meta[name] for name in ("system", "source", "config", "arrays")}
        arrays[f"{case}/meta"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
        weights = read_weights(folder / case / "weights.safetensors")
        arrays |= {f"{case}/weights.{name}": np.asarray(x) for name, x in weights.items()}
        with np.load(folder / case / "io.npz") as file:
            arrays |= {f"{case}/{name}": x for name, x in file.items()}
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
