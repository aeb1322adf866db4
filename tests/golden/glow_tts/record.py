"""Records cases.npz from jaywalnut310/glow-tts (commit 13e9976); needs torch, monotonic-alignment-search, a checkout.

    python tests/golden/glow_tts/record.py CHECKOUT COQUI_CASE

Small models with random weights of every kind, in the layout of tools/parity.py: <case>/meta (JSON), <case>/w/<name>,
<case>/in.<name>, <case>/out.<name>. COQUI_CASE is a folder with meta.json, weights.safetensors and io.npz, recorded
with coqui-tts 0.28.0; it is taken over as it is.
"""

# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monotonic_alignment_search
import numpy as np
import torch
from safetensors.numpy import load_file

# What the models do not need of what their modules import.
stubs: dict[str, Any] = {
    "librosa": SimpleNamespace(),
    "librosa.filters": SimpleNamespace(mel=None),
    "scipy": SimpleNamespace(),
    "stft": SimpleNamespace(STFT=None),
    "audio_processing": SimpleNamespace(dynamic_range_compression=None, dynamic_range_decompression=None),
    "monotonic_align": monotonic_alignment_search,
}
sys.modules.update(stubs)
sys.path.insert(0, sys.argv[1])
import commons  # noqa: E402
import models  # noqa: E402

SINGLE = {"n_vocab": 11, "hidden_channels": 8, "filter_channels": 10, "filter_channels_dp": 6, "out_channels": 6,
          "kernel_size": 3, "n_heads": 2, "n_layers_enc": 1, "p_dropout": 0.1, "n_blocks_dec": 1, "kernel_size_dec": 3,
          "dilation_rate": 1, "n_block_layers": 2, "p_dropout_dec": 0.05, "n_split": 4, "n_sqz": 2, "window_size": 4,
          "mean_only": True, "hidden_channels_enc": 8, "hidden_channels_dec": 8, "prenet": True}  # fmt: skip
MULTI = SINGLE | {"n_speakers": 3, "gin_channels": 5, "mean_only": False, "prenet": False, "sigmoid_scale": True,
                  "dilation_rate": 2, "n_heads": 1, "hidden_channels_enc": 6, "hidden_channels_dec": 10,
                  "window_size": 2, "n_layers_enc": 2, "n_blocks_dec": 2}  # fmt: skip


def build(config: dict) -> models.FlowGenerator:
    model = models.FlowGenerator(**config)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 2 and ".flows." in name:  # the mixing matrices stay well conditioned
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.endswith(("gamma", "weight_g")):
                parameter.copy_(0.7 + 0.3 * torch.rand_like(parameter))
            else:
                parameter.copy_(0.3 * torch.randn_like(parameter))
        model.encoder.proj_w.proj.bias.fill_(0.8)  # a few frames for each symbol
    return model.eval()


def main() -> None:
    torch.manual_seed(0)
    found: dict[str, np.ndarray] = {}

    def record(case: str, meta: dict, weights: dict, inputs: dict, outputs: dict) -> None:
        found[f"{case}/meta"] = np.array(json.dumps({"system": "glow_tts"} | meta))
        arrays = {f"w/{k}": v for k, v in weights.items()}
        arrays |= {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": v for k, v in outputs.items()}
        found.update({f"{case}/{k}": v.detach().numpy() for k, v in arrays.items()})

    for name, config in (("single", SINGLE), ("multi", MULTI)):
        model = build(config)
        speaker = {"g": torch.tensor([2, 0])} if "n_speakers" in config else {}
        x, x_lengths = torch.randint(1, 11, (2, 9)), torch.tensor([9, 6])
        y, y_lengths = torch.randn(2, 6, 25), torch.tensor([25, 19])
        y.requires_grad_()
        (z, z_m, z_logs, logdet, z_mask), (x_m, x_logs, x_mask), (attn, logw, logw_) = model(
            x, x_lengths, y, y_lengths, **speaker
        )
        l_mle = commons.mle_loss(z, z_m, z_logs, logdet, z_mask)
        l_length = commons.duration_loss(logw, logw_, x_lengths)
        (l_mle + l_length).backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        outputs = {"z": z, "z_m": z_m, "z_logs": z_logs, "logdet": logdet, "z_mask": z_mask, "x_m": x_m,
                   "x_logs": x_logs, "attn": attn, "logw": logw, "logw_": logw_, "l_mle": l_mle,
                   "l_length": l_length, "grad_norm": torch.stack([g.norm() for g in grads.values()]),
                   "grad_y": y.grad}  # fmt: skip
        inputs = {"x": x, "x_lengths": x_lengths, "y": y, "y_lengths": y_lengths} | speaker
        record(f"{name}_train", {"config": config, "grad_keys": list(grads)}, model.state_dict(), inputs, outputs)

        scales = {"noise_scale": 0.667, "length_scale": 1.3}
        torch.manual_seed(1)
        (y, z_m, z_logs, _, z_mask), _, (attn, logw, _) = model(x, x_lengths, gen=True, **scales, **speaker)
        torch.manual_seed(1)
        noise = torch.randn_like(z_m)  # the only draw of the pass above
        frames = torch.exp(logw) * 1.3
        assert (frames - frames.round()).abs().min() > 1e-3, "a duration lies on the edge: take another seed"
        inputs = {"x": x, "x_lengths": x_lengths, "noise": noise} | speaker
        outputs = {"y_noisen": y, "z_m": z_m, "z_logs": z_logs, "z_mask": z_mask, "attn": attn, "logw": logw}
        record(f"{name}_generate", {"config": config | scales}, model.state_dict(), inputs, outputs)

    decoder = build(SINGLE).decoder
    weights = {f"decoder.{k}": v.clone() for k, v in decoder.state_dict().items()}
    for flow in decoder.flows[::3]:
        flow.set_ddi(True)
    y, y_lengths = 2 * torch.randn(2, 6, 21) - 1, torch.tensor([21, 12])
    z, logdet = decoder(y, commons.sequence_mask(y_lengths, 21)[:, None].float())
    outputs = {f"flows.0.{k}": getattr(decoder.flows[0], k) for k in ("logs", "bias")}
    record("actnorm_init", {"config": SINGLE}, weights, {"y": y, "y_lengths": y_lengths},
           {"z": z, "logdet": logdet} | outputs)  # fmt: skip

    x_lengths, y_lengths = torch.tensor([7, 5, 1, 7]), torch.tensor([20, 13, 4, 7])
    mask = commons.sequence_mask(x_lengths, 7)[:, :, None] * commons.sequence_mask(y_lengths, 20)[:, None].float()
    for name, value in (("search", torch.randn(4, 7, 20)), ("search_ties", torch.randint(-2, 1, (4, 7, 20)).float())):
        path = monotonic_alignment_search.maximum_path(value, mask)
        record(name, {"config": {}}, {}, {"value": value, "x_lengths": x_lengths, "y_lengths": y_lengths},
               {"path": path})  # fmt: skip

    coqui = Path(sys.argv[2])
    found["coqui/meta"] = np.array((coqui / "meta.json").read_text())
    found |= {f"coqui/w/{k}": v for k, v in load_file(coqui / "weights.safetensors").items()}
    found |= {f"coqui/{k}": v for k, v in np.load(coqui / "io.npz").items()}
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **found)


if __name__ == "__main__":
    main()
