"""Cuts the recorded outputs of the reference front ends down to the fixtures in tests/golden/audio.

    python tests/audio/record_golden.py GOLDEN_FOLDER

GOLDEN_FOLDER holds <system>/<case>/io.npz. Where a wave is cut, only the frames that do not see the cut are kept.
"""

import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "golden" / "audio"
CUT = 4096  # samples


def main(source: Path) -> None:
    def read(case: str) -> dict[str, np.ndarray]:
        with np.load(source / case / "io.npz") as arrays:
            return dict(arrays)

    def frames(array: np.ndarray, count: int) -> np.ndarray:
        return np.swapaxes(array, -1, -2)[:1, :count]

    hifigan = read("hifigan/mel_22050")
    fixtures = {"hifigan": {"wave": hifigan["in.y"][:1, :CUT], "mel": frames(hifigan["out.mel"], 13)}}
    full = read("hifigan/mel_fmax_none")
    fixtures["hifigan_full_band"] = {
        "wave": full["in.y"], "wave_hat": full["in.y_hat"], "mel": frames(full["out.mel"], 32),
        "loss_mel": full["out.loss_mel"],
    }  # fmt: skip
    tacotron2 = read("tacotron2/mel")
    fixtures["tacotron2"] = {"wave": tacotron2["in.y"][:, :CUT], "mel": frames(tacotron2["out.mel"], 14)}
    fixtures["tacotron2"]["reconstruction"] = tacotron2["out.reconstruction"][:, : CUT - 512]
    vits = read("vits/mel")
    fixtures["vits"] = {"wave": vits["in.y"][:1, :CUT], "mel": frames(vits["out.mel"], 13)}
    fixtures["vits_linear"] = {"wave": vits["in.y"][:1, :CUT], "mel": frames(vits["out.spec"], 13)}
    ge2e = read("ge2e/resemblyzer_pretrained")
    fixtures["ge2e"] = {"wave": ge2e["in.wav1"][None, :CUT], "mel": ge2e["out.wav1.mel"][None, :24]}
    pwg = read("parallel_wavegan/discriminator_losses_pqmf")
    fixtures["multi_resolution_stft"] = {
        "wave_hat": pwg["in.x"][:, 0], "wave": pwg["in.y"][:, 0],
        "convergence": pwg["out.mr_stft_sc"], "magnitude": pwg["out.mr_stft_mag"],
    }  # fmt: skip
    mulaw = read("wavernn/mu_law")
    fixtures["mulaw"] = {key.split(".")[1]: mulaw[key] for key in ("in.x", "out.encoded", "out.decoded")}
    OUT.mkdir(parents=True, exist_ok=True)
    for name, arrays in fixtures.items():
        np.savez_compressed(OUT / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
