"""Records cases.npz and vocoder.pt from fatchord/WaveRNN (commit 83c08fd); needs torch and a checkout.

    python tests/golden/wavernn/record.py WAVERNN

Two small models with random weights and batch statistics, in the layout of tools/parity.py: <case>/meta (JSON),
<case>/w/<name>, <case>/in.<name>, <case>/out.<name>. Its draws are replaced by given uniforms; classes are drawn as the
number of those whose cumulative probability is not above the uniform. vocoder.pt is the second one as
Real-Time-Voice-Cloning saves it, beside its optimiser. dual/* are weights, samples and logits of the version with the
dual softmax.
"""

# pyright: reportMissingImports=false

import importlib
import json
import sys
import time
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

BASE = {
    "rnn_dims": 12, "fc_dims": 10, "bits": 5, "pad": 2, "feat_dims": 6, "compute_dims": 8, "res_out_dims": 8,
    "res_blocks": 1, "sample_rate": 16000,
}  # fmt: skip
CASES = {
    "mol": BASE | {"upsample_factors": (3, 2), "hop_length": 6, "mode": "MOL"},
    "raw": BASE | {"upsample_factors": (2, 2), "hop_length": 4, "mode": "RAW"},
}
FRAMES, SPOKEN, TARGET, OVERLAP = 6, 24, 30, 8


def reference(checkout: str) -> tuple[Any, Any]:
    """Its modules fatchord_version and distribution, without the settings that they ask for."""
    np.cumproduct = np.cumprod  # as numpy called it  # pyright: ignore[reportAttributeAccessIssue]
    sys.path.insert(0, checkout)
    quiet = types.ModuleType("utils.display")
    quiet.stream = quiet.progbar = lambda *_: ""  # pyright: ignore
    quiet.time = time  # pyright: ignore
    sys.modules["utils.display"] = quiet
    settings = types.ModuleType("utils")
    settings.__path__ = [f"{checkout}/utils"]
    settings.hparams = types.SimpleNamespace(apply_preemphasis=False, mu_law=False)  # pyright: ignore
    sys.modules["utils"] = settings
    return importlib.import_module("models.fatchord_version"), importlib.import_module("utils.distribution")


def build(module: Any, config: dict) -> torch.nn.Module:
    model = module.WaveRNN(**config)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.is_floating_point():
                parameter.copy_(0.4 * torch.randn_like(parameter) + ("batch_norm" in name and name.endswith("weight")))
        for name, buffer in sorted(model.named_buffers()):
            if "running" in name:
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return model.eval()


class Uniforms:
    """Given uniforms in the order in which they are asked for, [steps, B, count]."""

    def __init__(self, steps: int, batch: int, mol: bool):
        self.mixture = 1e-5 + (1 - 2e-5) * torch.rand(steps, batch, 10)
        self.last = 1e-5 + (1 - 2e-5) * torch.rand(steps, batch)
        self.asked, self.mol = 0, mol

    def fill(self, x: torch.Tensor, low: float) -> torch.Tensor:
        if low != 1e-5:  # a layer that is built
            return torch.nn.init.zeros_(x)
        step, second = divmod(self.asked, 2)
        self.asked += 1
        return x.copy_((self.last if second else self.mixture)[step].reshape(x.shape))

    def choose(self, distribution: Any) -> torch.Tensor:
        self.asked += 1
        below = distribution.probs.cumsum(-1) <= self.last[self.asked - 1][:, None]
        return below.sum(-1).clamp(max=distribution.probs.shape[-1] - 1)

    def arrays(self, name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.mixture": self.mixture, f"{name}.logistic": self.last} if self.mol else {name: self.last}


def generate(model: Any, mel: torch.Tensor, batched: bool, uniforms: Uniforms) -> np.ndarray:
    draws = (
        mock.patch.object(torch.Tensor, "uniform_", lambda x, low=0.0, *_, **__: uniforms.fill(x, low))
        if uniforms.mol
        else mock.patch.object(torch.distributions.Categorical, "sample", lambda d: uniforms.choose(d))
    )
    with draws, mock.patch("models.fatchord_version.save_wav", lambda *_: None):
        return model.generate(mel, None, batched, TARGET, OVERLAP, False).astype(np.float32)


def dual(module: Any, steps: int = 24) -> dict[str, np.ndarray]:
    """The version with the dual softmax, step by step over 16-bit samples [2, steps + 1]."""
    model = module.WaveRNN(8)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(0.5 * torch.randn_like(parameter))
    samples = torch.randint(0, 2**16, (2, steps + 1))
    halves = torch.stack([samples // 256, samples % 256], -1) / 127.5 - 1
    hidden, logits = torch.zeros(2, 8), []
    with torch.no_grad():
        for n in range(steps):
            coarse, fine, hidden = model(halves[:, n], hidden, halves[:, n + 1, :1])
            logits.append(torch.cat([coarse, fine], -1))
    arrays = {f"w/{k}": v for k, v in model.state_dict().items()}
    arrays |= {"in.samples": samples, "out.logits": torch.stack(logits, 1)}
    return {f"dual/{k}": v.numpy() for k, v in arrays.items()}


def main() -> None:
    torch.manual_seed(0)
    module, distribution = reference(sys.argv[1])
    found: dict[str, Any] = {}
    for case, config in CASES.items():
        mol, hop, model = config["mode"] == "MOL", config["hop_length"], build(module, config)
        mels, spoken = torch.rand(2, config["feat_dims"], FRAMES + 4), torch.rand(1, config["feat_dims"], SPOKEN)
        labels = torch.randint(0, 32, (2, FRAMES * hop + 1))
        levels = 2 * labels.float() / 31 - 1
        x, y = levels[:, :-1], (levels if mol else labels)[:, 1:]
        with torch.no_grad():
            logits = model(x, mels)
            smooth, aux = model.upsample(mels)
            if mol:
                loss = distribution.discretized_mix_logistic_loss(logits, y[..., None])
            else:
                loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), y)
        steps = SPOKEN * hop
        folds = -(-(steps - OVERLAP) // (TARGET + OVERLAP))
        arrays = {f"w/{k}": v.clone() for k, v in model.state_dict().items()}
        arrays |= {"in.mels": mels, "in.gen_mels": spoken, "in.x": x, "in.y": y}
        arrays |= {"out.mels_upsampled": smooth, "out.aux": aux, "out.logits": logits, "out.loss": loss}
        for name, count, length in (("generate", 1, steps), ("generate_batched", folds, TARGET + 2 * OVERLAP)):
            uniforms = Uniforms(length, count, mol)
            arrays[f"out.{name}"] = torch.from_numpy(generate(model, spoken, count > 1, uniforms))
            arrays |= {f"in.{k}": v for k, v in uniforms.arrays(f"{name}_uniform").items()}
        found |= {f"{case}/{k}": v.detach().numpy() for k, v in arrays.items()}
        meta = config | {"generate_target": TARGET, "generate_overlap": OVERLAP, "mu_law": False}
        found[f"{case}/meta"] = np.array(json.dumps({"system": "wavernn", "config": meta}))
        if not mol:
            optimizer = torch.optim.Adam(model.eval().parameters(), lr=0.0)
            model(x, mels).sum().backward()
            optimizer.step()
            state = {"model_state": model.state_dict(), "optimizer_state": optimizer.state_dict()}
            torch.save(state, Path(__file__).with_name("vocoder.pt"))
    found |= dual(importlib.import_module("models.deepmind_version"))
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **found)


if __name__ == "__main__":
    main()
