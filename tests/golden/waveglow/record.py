"""Records cases.npz from NVIDIA/waveglow (commit 8afb643); needs torch, librosa and two checkouts.

    python tests/golden/waveglow/record.py WAVEGLOW TACOTRON2

Two small models with random weights of every kind, in the layout of tools/parity.py: <case>/meta (JSON),
<case>/w/<name>, <case>/in.<name>, <case>/out.<name>; and the denoiser, with the STFT of NVIDIA/tacotron2.
"""

# pyright: reportMissingImports=false

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import librosa.util
import numpy as np
import torch

pad_center = librosa.util.pad_center
librosa.util.pad_center = lambda data, size: pad_center(data, size=size)  # as in the release that the STFT was made for
sys.path[:0] = sys.argv[1:]
glow, stft = importlib.import_module("glow"), importlib.import_module("stft")

WAVENET = {"n_layers": 2, "n_channels": 4, "kernel_size": 3}
CASES = {
    "early": {"n_mel_channels": 3, "n_flows": 4, "n_group": 8, "n_early_every": 2, "n_early_size": 2},
    "plain": {"n_mel_channels": 2, "n_flows": 3, "n_group": 4, "n_early_every": 3, "n_early_size": 2},
}
FRAMES = 3


def build(config: dict) -> torch.nn.Module:
    model = glow.WaveGlow(**config, WN_config=WAVENET)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "convinv" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.endswith("weight_g"):
                parameter.copy_(0.7 + 0.3 * torch.rand_like(parameter))
            else:
                parameter.copy_((0.1 if "upsample" in name else 0.3) * torch.randn_like(parameter))
    return model.eval()


def main() -> None:
    torch.manual_seed(0)
    found: dict[str, np.ndarray] = {}
    for case, config in CASES.items():
        model = build(config)
        mel = torch.randn(2, config["n_mel_channels"], FRAMES)
        audio = 0.3 * torch.randn(2, FRAMES * 256)
        z, log_s, log_det = model((mel, audio))
        loss = glow.WaveGlowLoss(0.8)((z, log_s, [x.clone() for x in log_det]))  # it adds them up in place
        noise = torch.randn_like(z)
        left = config["n_group"] - model.n_remaining_channels
        draws = [noise[:, left:], *(noise[:, c : c + 2] for c in reversed(range(0, left, 2)))]
        tensor = lambda *_, draws=draws: SimpleNamespace(normal_=lambda: draws.pop(0))  # noqa: E731
        with torch.no_grad(), mock.patch("torch.cuda.FloatTensor", tensor):
            infer = model.infer(mel, sigma=0.6)
        arrays = {f"w/{k}": v for k, v in model.state_dict().items()}
        arrays |= {"in.mel": mel, "in.audio": audio, "in.infer_z": noise}
        arrays |= {"out.z": z, "out.loss": loss, "out.infer_audio_sigma06": infer}
        arrays |= {f"out.log_s.{k}": x for k, x in enumerate(log_s)}
        arrays |= {f"out.log_det_W.{k}": x for k, x in enumerate(log_det)}
        found |= {f"{case}/{k}": v.detach().numpy() for k, v in arrays.items()}
        config = config | {"WN_config": WAVENET}
        found[f"{case}/meta"] = np.array(json.dumps({"system": "waveglow", "config": config}))

    transform = stft.STFT(1024, 256, 1024)
    hum, wave = 0.02 * torch.randn(1, 88 * 256), 0.1 * torch.randn(1, 12 * 256)
    bias = transform.transform(hum)[0][:, :, :1]
    magnitude, phase = transform.transform(wave)
    cleaned = transform.inverse((magnitude - 0.5 * bias).clamp(min=0), phase)[:, 0]
    arrays = {"hum": hum[:, :2048], "wave": wave, "bias": bias[:, :, 0], "cleaned": cleaned}
    found |= {f"denoiser/{k}": v.numpy() for k, v in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **found)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
