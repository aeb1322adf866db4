"""Puts recorded cases of kan-bayashi/ParallelWaveGAN into one file for the tests.

    python tests/golden/melgan/record.py FOLDER

FOLDER holds cases as tools/parity.py takes them: MelGAN's generator with four bands; the PQMF, with the discriminator
and the losses of Parallel WaveGAN. Arrays of a case are CASE/meta (of its meta.json), CASE/weights.NAME, CASE/in.NAME
and CASE/out.NAME.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from jaxtts.weights import read_weights

CASES = ("melgan_generator", "discriminator_losses_pqmf")


def main() -> None:
    """Reads the cases, writes cases.npz beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    arrays: dict[str, np.ndarray] = {}
    for case in CASES:
        meta = json.loads((folder / case / "meta.json").read_text())
        kept = {name: meta[name] for name in ("system", "source", "config", "arrays")}
        kept["parameters"] = meta["weights"]["parameters"]
        arrays[f"{case}/meta"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
        weights = read_weights(folder / case / "weights.safetensors")
        arrays |= {f"{case}/weights.{name}": np.asarray(x) for name, x in weights.items()}
        with np.load(folder / case / "io.npz") as file:
            arrays |= {f"{case}/{name}": x for name, x in file.items()}
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
