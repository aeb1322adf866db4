"""Records cases.npz from jaywalnut310/vits (commit 2e561ba); needs torch and a checkout of it.

    python tests/golden/vits/record.py CHECKOUT

Small models with random weights of every kind, in the layout of tools/parity.py: <case>/meta (JSON), <case>/w/<name>,
<case>/in.<name>, <case>/out.<name>. The checkout's alignment search wants compiling, so a plain one stands in for it;
what is drawn is recorded.
"""

# pyright: reportMissingImports=false

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch


def maximum_path(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Equation 8 of arXiv 2005.11129 cell by cell; scores, mask [B, T, S]."""
    path = torch.zeros_like(scores)
    for b in range(len(scores)):
        frames, symbols = int(mask[b, :, 0].sum()), int(mask[b, 0].sum())
        best = torch.full((frames, symbols), -torch.inf)
        for t in range(frames):
            for s in range(min(t + 1, symbols)):
                before = [best[t - 1, s]] + ([best[t - 1, s - 1]] if s else []) if t else [torch.zeros(())]
                best[t, s] = scores[b, t, s] + max(before)
        s = symbols - 1
        for t in reversed(range(frames)):
            path[b, t, s] = 1
            if s and t and (s == t or best[t - 1, s - 1] > best[t - 1, s]):
                s -= 1
    return path


for name in ("scipy", "monotonic_align"):
    sys.modules[name] = ModuleType(name)
vars(sys.modules["monotonic_align"])["maximum_path"] = maximum_path
sys.path.insert(0, sys.argv[1])
import losses  # noqa: E402
import models  # noqa: E402

BASE = {
    "n_vocab": 12, "spec_channels": 9, "segment_size": 4, "inter_channels": 4, "hidden_channels": 8,
    "filter_channels": 12, "n_heads": 2, "n_layers": 1, "kernel_size": 3, "p_dropout": 0.1, "resblock": "2",
    "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 2], [2, 3]], "upsample_rates": [4, 2],
    "upsample_initial_channel": 8, "upsample_kernel_sizes": [8, 4],
}  # fmt: skip
CASES = {
    "stochastic": BASE | {"n_speakers": 0, "gin_channels": 0, "use_sdp": True},
    "plain": BASE | {"n_speakers": 3, "gin_channels": 5, "use_sdp": False},
}
INFER = {"noise_scale": 0.6, "length_scale": 1.1, "noise_scale_w": 0.7}


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            scale = {"bias": 0.1, "weight_g": 0.4, "gamma": 0.2}.get(name.rpartition(".")[2], 0.25)
            start = 0.6 if name.endswith(("weight_g", "gamma")) else 0.0
            parameter.copy_(torch.randn_like(parameter) * scale + start)
    return module.eval()


class Draws:
    """Stands in for the reference's random draws and keeps them."""

    def __init__(self, generator: torch.Generator):
        self.generator, self.kept = generator, []

    def _draw(self, make, *shape):
        shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        self.kept.append(make(shape, generator=self.generator))
        return self.kept[-1]

    def __enter__(self):
        normal, uniform = torch.randn, torch.rand
        self.patches = [
            mock.patch("torch.randn", lambda *shape, **_: self._draw(normal, *shape)),
            mock.patch("torch.randn_like", lambda x, **_: self._draw(normal, *x.shape)),
            mock.patch("torch.rand", lambda *shape, **_: self._draw(uniform, *shape)),
        ]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


def outputs(model: models.SynthesizerTrn, config: dict, x: dict, draws) -> Iterator[tuple[str, torch.Tensor]]:
    """Fills in `x` what was drawn, and gives what came out."""
    speaker = x.get("sid")
    arguments = (x["x"], x["x_lengths"], x["y"], x["y_lengths"])
    with draws() as drawn:
        wave, loss, attention, starts, _, y_mask, (z, z_p, m_p, logs_p, m_q, logs_q) = model(*arguments, sid=speaker)
    kept = iter(drawn.kept)
    x["noise.enc_q"] = next(kept)
    if config["use_sdp"]:
        x["noise.sdp_e_q"] = next(kept)
    x["noise.slice_u"] = next(kept)
    hidden, m, logs, x_mask = model.enc_p(x["x"], x["x_lengths"])
    cond = None if speaker is None else model.emb_g(speaker)[..., None]
    yield from {
        "enc_p.h": hidden, "enc_p.m": m, "enc_p.logs": logs, "enc_q.z": z, "enc_q.m": m_q, "enc_q.logs": logs_q,
        "flow.z_p": z_p, "flow.reverse_of_z": model.flow(z, y_mask, g=cond, reverse=True), "train.audio": wave,
        "train.l_length": loss, "train.attn": attention, "train.ids_slice": starts, "train.m_p_expanded": m_p,
        "train.logs_p_expanded": logs_p, "train.loss_kl": losses.kl_loss(z_p, logs_q, m_p, logs_p, y_mask),
    }.items()  # fmt: skip
    if config["use_sdp"]:
        with draws() as drawn:
            yield "sdp.nll", model.dp(hidden, x_mask, attention.sum(2), g=cond)
            yield "sdp.logw_reverse", model.dp(hidden, x_mask, g=cond, reverse=True, noise_scale=0.9)
        x["noise.sdp_nll"], x["noise.sdp_reverse"] = drawn.kept
    else:
        yield "dp.logw", model.dp(hidden, x_mask, g=cond)
    with draws() as drawn:
        wave, attention, mask, (z, z_p, _, _) = model.infer(x["x"], x["x_lengths"], sid=speaker, **INFER)
    x["noise.infer_z"] = drawn.kept[-1]
    if config["use_sdp"]:
        x["noise.infer_sdp"] = drawn.kept[0]
    named = {"audio": wave, "attn": attention, "y_mask": mask, "z": z, "z_p": z_p}
    yield from {f"infer.{name}": value for name, value in named.items()}.items()
    silent = INFER | {"noise_scale": 0, "noise_scale_w": 0}
    wave, attention, *_ = model.infer(x["x"], x["x_lengths"], sid=speaker, **silent)
    yield from {"infer0.audio": wave, "infer0.attn": attention}.items()
    if speaker is not None:
        with draws() as drawn:
            wave, _, (_, _, z_hat) = model.voice_conversion(x["y"], x["y_lengths"], speaker, x["sid_tgt"])
        (x["noise.vc"],) = drawn.kept
        yield from {"vc.z_hat": z_hat, "vc.audio": wave}.items()


def main() -> None:
    torch.manual_seed(0)
    found: dict[str, np.ndarray] = {}
    generator = torch.Generator().manual_seed(1)
    for case, config in CASES.items():
        model = models.SynthesizerTrn(**config)
        if not config["use_sdp"]:
            model.dp = models.DurationPredictor(8, 8, 3, 0.5, gin_channels=5)  # 256 wide otherwise
        randomize(model)
        x = {
            "x": torch.randint(1, 12, (2, 6)), "x_lengths": torch.tensor([6, 4]),
            "y": torch.rand(2, 9, 15), "y_lengths": torch.tensor([15, 11]),
        }  # fmt: skip
        if config["n_speakers"]:
            model.dp.proj.weight.data *= 0.3
            x |= {"sid": torch.tensor([0, 2]), "sid_tgt": torch.tensor([1, 1])}
        with torch.no_grad():
            out = dict(outputs(model, config, x, lambda: Draws(generator)))
        meta = {"system": "vits", "config": config | {f"infer_{name}": value for name, value in INFER.items()}}
        found[f"{case}/meta"] = np.array(json.dumps(meta))
        arrays = {f"w/{k}": v for k, v in model.state_dict().items()}
        arrays |= {f"in.{k}": v for k, v in x.items()} | {f"out.{k}": v for k, v in out.items()}
        found |= {f"{case}/{k}": v.detach().numpy() for k, v in arrays.items()}
    np.savez_compressed(Path(__file__).parent / "cases.npz", **found)


if __name__ == "__main__":
    main()
