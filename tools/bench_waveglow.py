# type: ignore  # torch is not installed where types are checked, and its modules have few
"""The row of bench.py about WaveGlow with 256 channels (87.9 M parameters): 2 s of audio.

The peer is written for this comparison: what NVIDIA/waveglow computes in inference (arXiv 1811.00002), in torch, with
weight norm removed and the matrices inverted ahead. Its parameters have the reference's names, so that our converter
reads them, and both must make the same wave of the same noise before anything is timed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

FRAMES = 172  # 2.0 s
EARLY = 2  # channels that leave after every 4 steps


def synthesis(rounds: int) -> list[dict[str, Any]]:
    """Mel and noise to wave, float32."""
    import bench
    import jax
    from flax import nnx

    from jaxtts.models.waveglow import Config, Model
    from jaxtts.models.waveglow.convert import convert
    from jaxtts.nn.functional import merge, rngs_for_shapes, split, store_inverse, structure

    rng = np.random.default_rng(0)
    mel = rng.standard_normal((1, FRAMES, 80), np.float32) - 5
    noise = rng.standard_normal((1, FRAMES, 256), np.float32)
    trained, config = Config(weight_norm=False), Config(weight_norm=False, inverse_only=True)
    torch, peer = bench.optional("torch"), None
    if torch:
        net = peer_network()
        params = convert({name: x.numpy() for name, x in net.state_dict().items()}, trained)
        peer = _caller(net, mel, config.sigma_infer * noise)
    else:
        params = split(Model(trained, rngs=nnx.Rngs(0)))[1]
    params = jax.device_put(store_inverse(params))
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    generate = jax.jit(lambda params, mel, noise: merge(graph, params).infer(mel, noise=noise))

    def ours():
        return jax.block_until_ready(generate(params, mel, noise))

    if peer:
        bench.require_same(peer(), ours())
    seconds = FRAMES * config.mel.hop_length / config.mel.sample_rate
    return [bench.compare("waveglow, peer torch", "CPU s per s of audio", 1 / seconds, rounds, ours=ours, peer=peer)]


def _caller(net: Any, mel: np.ndarray, noise: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    spectrogram = torch.from_numpy(mel.swapaxes(1, 2).copy())
    z = torch.from_numpy(noise.reshape(1, -1, 8).swapaxes(1, 2).copy())

    def call():
        with torch.inference_mode():
            return net(spectrogram, z).numpy()

    return call


def peer_network(channels: int = 256, layers: int = 8, flows: int = 12, group: int = 8, bins: int = 80) -> Any:
    """The torch module, with random weights."""
    import torch
    from torch import nn

    class WaveNet(nn.Module):
        def __init__(self, half):
            super().__init__()
            self.start = nn.Conv1d(half, channels, 1)
            self.end = nn.Conv1d(channels, 2 * half, 1)
            self.cond_layer = nn.Conv1d(bins * group, 2 * channels * layers, 1)
            self.in_layers = nn.ModuleList(
                nn.Conv1d(channels, 2 * channels, 3, padding=2**i, dilation=2**i) for i in range(layers)
            )
            widths = [2 * channels] * (layers - 1) + [channels]
            self.res_skip_layers = nn.ModuleList(nn.Conv1d(channels, width, 1) for width in widths)

        def forward(self, x, mel):
            x, skip = self.start(x), 0
            conds = self.cond_layer(mel).split(2 * channels, 1)
            for gate, mix, cond in zip(self.in_layers, self.res_skip_layers, conds):
                value, switch = (gate(x) + cond).chunk(2, 1)
                y = mix(torch.tanh(value) * torch.sigmoid(switch))
                if y.shape[1] > channels:
                    residual, y = y.chunk(2, 1)
                    x = x + residual
                skip = skip + y
            return self.end(skip).chunk(2, 1)

    class WaveGlow(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [group - EARLY * (k // 4) for k in range(flows)]
            self.upsample = nn.ConvTranspose1d(bins, bins, 1024, 256)
            self.WN = nn.ModuleList(WaveNet(c // 2) for c in widths)
            self.convinv = nn.ModuleList(nn.ModuleDict({"conv": nn.Conv1d(c, c, 1, bias=False)}) for c in widths)
            with torch.no_grad():
                for step, network in zip(self.convinv, self.WN):
                    nn.init.orthogonal_(step["conv"].weight[..., 0])
                    network.end.weight.mul_(0.1)
            self.inverses = [step["conv"].weight.detach()[..., 0].inverse()[..., None] for step in self.convinv]

        def forward(self, mel, z):
            mel = self.upsample(mel)[..., : mel.shape[2] * 256]
            mel = mel.unflatten(2, (-1, group)).transpose(2, 3).flatten(1, 2)  # [B, M * group, G]
            x = z[:, z.shape[1] :]
            for network, inverse in zip(reversed(self.WN), reversed(self.inverses)):
                known, width = z.shape[1] - x.shape[1], inverse.shape[0]
                x = torch.cat([z[:, known - (width - x.shape[1]) : known], x], 1)
                first, second = x.chunk(2, 1)
                shift, log_scale = network(first, mel)
                x = nn.functional.conv1d(torch.cat([first, (second - shift) * torch.exp(-log_scale)], 1), inverse)
            return x.transpose(1, 2).flatten(1)

    torch.manual_seed(0)
    return WaveGlow().eval()
