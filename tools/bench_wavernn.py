# type: ignore  # torch is not installed where types are checked, and its modules have few
"""The rows of bench.py about WaveRNN (mixture of logistics, 4.2 M parameters): one stream, and an utterance in folds;
and, without a peer, the paper's own of 896 units.

The peer is written for this comparison: what `generate` of fatchord/WaveRNN computes, in torch, one sample after the
other without its display. Its parameters have the reference's names, so that our converter reads them, and both must
make the same wave of the same uniforms before anything is timed. Both draw their own in what is timed.
"""

import functools
from typing import Any

import numpy as np

FRAMES = 8  # of one stream: 2,200 samples
FOLDED_FRAMES = 53  # 17 segments of 1,000 samples
FOLD = 800, 100


def synthesis(rounds: int) -> list[dict[str, Any]]:
    """Mel to wave, float32."""
    import bench
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxtts.models.wavernn import Config, Model
    from jaxtts.models.wavernn.convert import convert
    from jaxtts.nn.functional import merge, merged, rngs_for_shapes, split, structure
    from jaxtts.nn.generation import Fold

    config = Config()
    torch, net = bench.optional("torch"), None
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    if torch:
        net = peer_network(config)
        params = convert({name: x.numpy() for name, x in net.state_dict().items()}, config)
    else:
        params = merged(*split(Model(config, rngs=nnx.Rngs(0)))[1:])
    params = jax.device_put(params)
    seeds, rows = jnp.array([1], jnp.uint32), []
    for name, frames, fold in (("one stream", FRAMES, None), ("folded", FOLDED_FRAMES, Fold(*FOLD))):
        mel = np.random.default_rng(0).uniform(size=(1, frames, 80)).astype(np.float32)
        seconds, peer = frames * config.mel.hop_length / config.mel.sample_rate, None
        if net:
            check(net, graph, params, mel[:, :FRAMES], fold)
            peer = functools.partial(net.generate, torch.from_numpy(mel).swapaxes(1, 2), fold)
        infer = jax.jit(lambda params, mel, fold=fold: merge(graph, params).infer(mel, seeds=seeds, fold=fold))

        def ours(infer=infer, mel=mel):
            return jax.block_until_ready(infer(params, mel))

        row = f"wavernn, {name}, peer torch"
        rows.append(bench.compare(row, "CPU s per s of audio", 1 / seconds, rounds, ours=ours, peer=peer))
    return [*rows, *(dual(streams, rounds) for streams in (1, 32))]


def dual(streams: int, rounds: int) -> dict[str, Any]:
    """The dual softmax of 896 units, told nothing: CPU time a sample of one stream."""
    import bench
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxtts.models.wavernn_dual import Config, Model
    from jaxtts.nn.functional import merge, split

    config = Config.unconditional()
    graph, params, rest = split(Model(config, rngs=nnx.Rngs(0)))
    params, seeds = jax.device_put(params), jnp.arange(streams, dtype=jnp.uint32)
    mel = np.zeros((streams, FRAMES, config.mel.num_bins), np.float32)  # of which it knows the length alone
    infer = jax.jit(lambda params: merge(graph, params, rest).infer(mel, seeds=seeds))

    def ours():
        return jax.block_until_ready(infer(params))

    samples = streams * FRAMES * config.mel.hop_length
    name = f"wavernn_dual, 896 units, {streams} stream{'s' * (streams > 1)}, peer none"
    return bench.compare(name, "CPU us per sample", 1e6 / samples, rounds, ours=ours)


def check(net: Any, graph: Any, params: Any, mel: np.ndarray, fold: Any) -> None:
    """Both make the same wave of the same uniforms."""
    import bench
    import jax
    import jax.numpy as jnp
    import torch

    from jaxtts.nn.functional import merge

    samples = mel.shape[1] * 275
    shape = (fold.target + 2 * fold.overlap, fold.count(samples), 11) if fold else (samples, 1, 11)
    uniforms = np.random.default_rng(1).uniform(1e-5, 1 - 1e-5, shape).astype(np.float32)

    @jax.jit
    def made(params, uniforms):
        model = merge(graph, params)
        cond = model.condition(mel)
        draw = lambda place: uniforms[jnp.minimum(place, len(uniforms) - 1)]  # noqa: E731
        return model.generate(fold.split(cond) if fold else cond, draw)

    ours = made(params, uniforms)
    theirs = net.segments(torch.from_numpy(mel).swapaxes(1, 2), fold, torch.from_numpy(uniforms))
    bench.require_same(theirs.numpy(), ours)


def peer_network(config: Any) -> Any:
    """The torch module, with random weights."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    c = config

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv1d(width, width, 1, bias=False) for _ in range(2))
            self.batch_norm1, self.batch_norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

        def forward(self, x):
            return x + self.batch_norm2(self.conv2(torch.relu(self.batch_norm1(self.conv1(x)))))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv1d(c.mel.num_bins, c.resnet_channels, 2 * c.pad + 1, bias=False)
            self.batch_norm = nn.BatchNorm1d(c.resnet_channels)
            self.layers = nn.ModuleList(Block(c.resnet_channels) for _ in range(c.resnet_blocks))
            self.conv_out = nn.Conv1d(c.resnet_channels, c.aux_channels, 1)

        def forward(self, x):
            x = torch.relu(self.batch_norm(self.conv_in(x)))
            for block in self.layers:
                x = block(x)
            return self.conv_out(x)

    class Repeat(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return x.repeat_interleave(self.scale, -1)

    class Upsample(nn.Module):
        def __init__(self):
            super().__init__()
            self.resnet, layers = ResNet(), []
            for scale in c.upsample_factors:
                layers += [Repeat(scale), nn.Conv2d(1, 1, (1, 2 * scale + 1), padding=(0, scale), bias=False)]
            self.up_layers = nn.Sequential(*layers)

        def forward(self, mel):
            hop, edge = c.mel.hop_length, c.pad * c.mel.hop_length
            smooth = self.up_layers(mel[:, None])[:, 0, :, edge:-edge]
            return torch.cat([smooth, self.resnet(mel).repeat_interleave(hop, -1)], 1).transpose(1, 2)

    class WaveRNN(nn.Module):
        def __init__(self):
            super().__init__()
            part, width = c.aux_channels // 4, c.gru_dim
            self.upsample = Upsample()
            self.I = nn.Linear(c.mel.num_bins + part + 1, width)
            self.rnn1 = nn.GRU(width, width, batch_first=True)
            self.rnn2 = nn.GRU(width + part, width, batch_first=True)
            self.fc1, self.fc2 = nn.Linear(width + part, c.fc_dim), nn.Linear(c.fc_dim + part, c.fc_dim)
            self.fc3 = nn.Linear(c.fc_dim, c.output.width)

        def cell(self, rnn):
            cell = nn.GRUCell(rnn.input_size, rnn.hidden_size)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(cell, name).data = getattr(rnn, f"{name}_l0").data
            return cell

        def draw(self, logits, uniforms):
            choice, mean, log_scale = logits.chunk(3, 1)
            if uniforms is None:
                uniforms = torch.empty(len(logits), choice.shape[1] + 1).uniform_(1e-5, 1 - 1e-5)
            chosen = (choice - torch.log(-torch.log(uniforms[:, :-1]))).argmax(1)
            mask, u = F.one_hot(chosen, choice.shape[1]), uniforms[:, -1]
            spread = torch.exp((log_scale * mask).sum(1).clamp(min=c.output.log_scale_min))
            x = (mean * mask).sum(1) + spread * (torch.log(u) - torch.log(1.0 - u))
            return x.clamp(-1.0, 1.0)

        @torch.no_grad()
        def segments(self, mel, fold, uniforms=None):
            told = self.upsample(F.pad(mel, (c.pad, c.pad)))
            if fold:
                step, length = fold.target + fold.overlap, fold.target + 2 * fold.overlap
                count = fold.count(told.shape[1])
                told = F.pad(told, (0, 0, 0, count * step + fold.overlap - told.shape[1]))
                told = torch.stack([told[0, i * step : i * step + length] for i in range(count)])
            first, second = self.cell(self.rnn1), self.cell(self.rnn2)
            h1 = h2 = torch.zeros(len(told), c.gru_dim)
            sample, made = torch.zeros(len(told), 1), []
            mels, *aux = told.split([c.mel.num_bins] + 4 * [c.aux_channels // 4], 2)
            for i in range(told.shape[1]):
                a1, a2, a3, a4 = (a[:, i] for a in aux)
                x = self.I(torch.cat([sample, mels[:, i], a1], 1))
                h1 = first(x, h1)
                x = x + h1
                h2 = second(torch.cat([x, a2], 1), h2)
                x = x + h2
                x = torch.relu(self.fc1(torch.cat([x, a3], 1)))
                x = torch.relu(self.fc2(torch.cat([x, a4], 1)))
                value = self.draw(self.fc3(x), None if uniforms is None else uniforms[i])
                made.append(value)
                sample = value[:, None]
            return torch.stack(made, 1)

        def generate(self, mel, fold):
            waves, length = self.segments(mel, fold), mel.shape[2] * c.mel.hop_length
            if not fold:
                return waves[0]
            step, silent = fold.target + fold.overlap, fold.overlap // 2
            t = torch.linspace(-1, 1, fold.overlap - silent)
            waves[:, :silent] = 0
            waves[:, silent : fold.overlap] *= torch.sqrt(0.5 * (1 + t))
            waves[:, -len(t) :] *= torch.sqrt(0.5 * (1 - t))
            out = torch.zeros(len(waves) * step + fold.overlap)
            for i, wave in enumerate(waves):
                out[i * step : i * step + len(wave)] += wave
            return out[:length]

    torch.manual_seed(0)
    return WaveRNN().eval()
