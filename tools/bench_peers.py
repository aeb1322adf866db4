# type: ignore  # torch is not installed where types are checked, and its modules have few
"""The networks that `bench.py` measures ours against, in torch: same mathematics, same parameter names as their users'.

Glow-TTS as jaywalnut310/glow-tts trains it (arXiv 2005.11129), HiFi-GAN V1 with both discriminator families as
jik876/hifi-gan does (arXiv 2010.05646). Written for this comparison, in the form that torch runs well: channels first,
weight norm by torch's own parametrization. Parameters have the references' names, so that our converters read a
`state_dict()` and the comparison can be checked on equal weights.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

weight_norm = parametrizations.weight_norm
SLOPE = 0.1


class Norm(nn.Module):
    """Layer norm over channels of [B, C, T]."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return F.layer_norm(x.transpose(1, 2), x.shape[1:2], self.gamma, self.beta, 1e-4).transpose(1, 2)


class Attention(nn.Module):
    """Two heads, positions up to 4 symbols away as embeddings shared by the heads."""

    def __init__(self, channels: int = 192, heads: int = 2, window: int = 4, dropout: float = 0.1):
        super().__init__()
        self.heads, self.window, self.drop = heads, window, nn.Dropout(dropout)
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        size = channels // heads
        self.emb_rel_k, self.emb_rel_v = (
            nn.Parameter(torch.randn(1, 2 * window + 1, size) * size**-0.5) for _ in range(2)
        )

    def forward(self, x, mask):
        b, c, s = x.shape
        q, k, v = (
            f(x).view(b, self.heads, c // self.heads, s).transpose(2, 3)
            for f in (self.conv_q, self.conv_k, self.conv_v)
        )
        q = q / math.sqrt(c // self.heads)
        distance = torch.arange(s)[None] - torch.arange(s)[:, None] + self.window
        near, index = (distance >= 0) & (distance <= 2 * self.window), distance.clamp(0, 2 * self.window)
        index = index.expand(b, self.heads, s, s)
        scores = q @ k.transpose(2, 3) + (q @ self.emb_rel_k[0].T).gather(3, index) * near
        weights = self.drop(scores.masked_fill(mask.unsqueeze(2) * mask.unsqueeze(3) == 0, -1e4).softmax(-1))
        by_distance = torch.zeros(b, self.heads, s, 2 * self.window + 1).scatter_add(3, index, weights * near)
        y = weights @ v + by_distance @ self.emb_rel_v[0]
        return self.conv_o(y.transpose(2, 3).reshape(b, c, s))


class FeedForward(nn.Module):
    def __init__(self, channels: int = 192, hidden: int = 768, dropout: float = 0.1):
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv1d(channels, hidden, 3, padding=1), nn.Conv1d(hidden, channels, 3, padding=1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, mask):
        return self.conv_2(self.drop(self.conv_1(x * mask).relu()) * mask) * mask


class Transformer(nn.Module):
    def __init__(self, channels: int = 192, layers: int = 6, dropout: float = 0.1):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.attn_layers = nn.ModuleList(Attention(channels) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(Norm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FeedForward(channels) for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(Norm(channels) for _ in range(layers))

    def forward(self, x, mask):
        x = x * mask
        for attend, norm_1, ffn, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2
        ):
            x = norm_1(x + self.drop(attend(x * mask, mask)))
            x = norm_2(x + self.drop(ffn(x, mask)))
        return x * mask


class Prenet(nn.Module):
    def __init__(self, channels: int = 192):
        super().__init__()
        self.conv_layers = nn.ModuleList(nn.Conv1d(channels, channels, 5, padding=2) for _ in range(3))
        self.norm_layers = nn.ModuleList(Norm(channels) for _ in range(3))
        self.proj = nn.Conv1d(channels, channels, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, mask):
        y = x
        for conv, norm in zip(self.conv_layers, self.norm_layers):
            y = self.drop(norm(conv(y * mask)).relu())
        return (x + self.proj(y)) * mask


class Durations(nn.Module):
    def __init__(self, channels: int = 192, hidden: int = 256):
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv1d(channels, hidden, 3, padding=1), nn.Conv1d(hidden, hidden, 3, padding=1)
        self.norm_1, self.norm_2, self.proj = Norm(hidden), Norm(hidden), nn.Conv1d(hidden, 1, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x, mask):
        x = self.drop(self.norm_1(self.conv_1(x * mask).relu()))
        x = self.drop(self.norm_2(self.conv_2(x * mask).relu()))
        return self.proj(x * mask) * mask


class TextEncoder(nn.Module):
    def __init__(self, symbols: int, channels: int = 192, mels: int = 80):
        super().__init__()
        self.emb = nn.Embedding(symbols, channels)
        self.pre, self.encoder = Prenet(channels), Transformer(channels)
        self.proj_m, self.proj_w = nn.Conv1d(channels, mels, 1), Durations(channels)
        nn.init.normal_(self.emb.weight, 0.0, channels**-0.5)

    def forward(self, text, mask):
        x = (self.emb(text) * math.sqrt(self.emb.weight.shape[1])).transpose(1, 2)
        x = self.encoder(self.pre(x, mask), mask)
        return self.proj_m(x) * mask, self.proj_w(x.detach(), mask)


class ActNorm(nn.Module):
    def __init__(self, channels: int = 160):
        super().__init__()
        self.logs, self.bias = nn.Parameter(torch.zeros(1, channels, 1)), nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x, mask, frames):
        return (self.bias + self.logs.exp() * x) * mask, self.logs.sum() * frames


class Mix(nn.Module):
    """The 1x1 convolution over groups of 4 channels, 2 from each half."""

    def __init__(self, splits: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(splits, splits))[0])

    def forward(self, x, mask, frames):
        b, c, t = x.shape
        n = len(self.weight)
        x = x.view(b, 2, c // n, n // 2, t).permute(0, 1, 3, 2, 4).reshape(b, n, c // n, t)
        x = F.conv2d(x, self.weight[:, :, None, None])
        x = x.view(b, 2, n // 2, c // n, t).permute(0, 1, 3, 2, 4).reshape(b, c, t)
        return x * mask, torch.linalg.slogdet(self.weight)[1] * (c / n) * frames


class WaveNet(nn.Module):
    def __init__(self, channels: int = 192, kernel: int = 5, layers: int = 4, dropout: float = 0.05):
        super().__init__()
        self.channels, self.drop = channels, nn.Dropout(dropout)
        self.in_layers = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, 2 * channels, kernel, padding=kernel // 2)) for _ in range(layers)
        )
        widths = [2 * channels] * (layers - 1) + [channels]
        self.res_skip_layers = nn.ModuleList(weight_norm(nn.Conv1d(channels, w, 1)) for w in widths)

    def forward(self, x, mask):
        output = torch.zeros_like(x)
        for conv, res_skip in zip(self.in_layers, self.res_skip_layers):
            value, gate = self.drop(conv(x)).chunk(2, 1)
            y = res_skip(torch.tanh(value) * torch.sigmoid(gate))
            if y.shape[1] > self.channels:
                residual, y = y.chunk(2, 1)
                x = (x + residual) * mask
            output = output + y
        return output * mask


class Coupling(nn.Module):
    def __init__(self, channels: int = 160, hidden: int = 192):
        super().__init__()
        self.start, self.wn = weight_norm(nn.Conv1d(channels // 2, hidden, 1)), WaveNet(hidden)
        self.end = nn.Conv1d(hidden, channels, 1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x, mask, frames):
        x_0, x_1 = x.chunk(2, 1)
        shift, logs = self.end(self.wn(self.start(x_0) * mask, mask)).chunk(2, 1)
        return torch.cat([x_0, (shift + logs.exp() * x_1) * mask], 1), (logs * mask).sum((1, 2))


class Flow(nn.Module):
    def __init__(self, blocks: int = 12):
        super().__init__()
        self.flows = nn.ModuleList(layer for _ in range(blocks) for layer in (ActNorm(), Mix(), Coupling()))

    def forward(self, x, mask):
        b, c, t = x.shape
        x = x.view(b, c, t // 2, 2).permute(0, 3, 1, 2).reshape(b, 2 * c, t // 2)
        mask = mask[:, :, 1::2]
        x, frames = x * mask, mask.sum((1, 2))
        log_det = torch.zeros(b)
        for layer in self.flows:
            x, more = layer(x, mask, frames)
            log_det = log_det + more
        x = x.view(b, 2, c, t // 2).permute(0, 2, 3, 1).reshape(b, c, t)
        return x, log_det


class GlowTTS(nn.Module):
    """The paper's model; `search(log_p [B, S, T], mask) -> path` finds the alignment."""

    def __init__(self, search: Callable, symbols: int = 148):
        super().__init__()
        self.search, self.encoder, self.decoder = search, TextEncoder(symbols), Flow()

    def forward(self, text, text_lengths, mel, mel_lengths):
        """text [B, S], mel [B, M, T], lengths [B] -> the loss."""
        x_mask = (torch.arange(text.shape[1]) < text_lengths[:, None]).float()[:, None]
        z_mask = (torch.arange(mel.shape[2]) < mel_lengths[:, None]).float()[:, None]
        mean, log_w = self.encoder(text, x_mask)
        z, log_det = self.decoder(mel, z_mask)
        with torch.no_grad():
            log_p = mean.transpose(1, 2) @ z - 0.5 * (z**2).sum(1, keepdim=True)
            log_p = log_p - 0.5 * (mean**2).sum(1)[..., None]
            path = self.search(log_p, x_mask.transpose(1, 2) * z_mask)
        z_mean = mean @ path
        target = torch.log(1e-8 + path.sum(2))[:, None] * x_mask
        values = mel_lengths.sum() * mel.shape[1]
        mle = (0.5 * ((z - z_mean) ** 2).sum() - log_det.sum()) / values + 0.5 * math.log(2 * math.pi)
        return mle + ((log_w - target) ** 2).sum() / text_lengths.sum()


def glow_tts_step(model: GlowTTS, batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """One training step: forward, search, backward, clipping and Adam."""
    data, run = glow_tts_data(batch), fastest(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, (0.9, 0.98), 1e-9)

    def step():
        optimizer.zero_grad()
        with mixed():
            loss = run(*data)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 5.0)
        optimizer.step()
        wait()

    return step


def glow_tts_data(batch: dict[str, np.ndarray]) -> list[torch.Tensor]:
    mel = batch["mel"].transpose(0, 2, 1)
    return [tensor(x) for x in (batch["text"], batch["text_lengths"], mel, batch["mel_lengths"])]


def loss_of(model: GlowTTS, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """The loss without dropout."""
    model.eval()
    with torch.no_grad():
        return model(*glow_tts_data(batch))


def scramble(model: nn.Module) -> None:
    """Moves every parameter a little, so that layers that start at zero take part in a comparison."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


class ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, wrap: Callable[[nn.Module], nn.Module]):
        super().__init__()

        def conv(d):
            return wrap(nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2))

        self.convs1 = nn.ModuleList(conv(d) for d in (1, 3, 5))
        self.convs2 = nn.ModuleList(conv(1) for _ in range(3))

    def forward(self, x):
        for dilated, plain in zip(self.convs1, self.convs2):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class Generator(nn.Module):
    """HiFi-GAN V1; without `training_form` the weight norm is folded, as for speaking."""

    def __init__(self, training_form: bool = False):
        super().__init__()
        wrap = weight_norm if training_form else lambda module: module
        widths = [512, 256, 128, 64, 32]
        self.conv_pre = wrap(nn.Conv1d(80, 512, 7, padding=3))
        self.ups = nn.ModuleList(
            wrap(nn.ConvTranspose1d(a, b, k, r, padding=(k - r) // 2))
            for a, b, k, r in zip(widths, widths[1:], (16, 16, 4, 4), (8, 8, 2, 2))
        )
        self.resblocks = nn.ModuleList(ResBlock(c, k, wrap) for c in widths[1:] for k in (3, 7, 11))
        self.conv_post = wrap(nn.Conv1d(32, 1, 7, padding=3))

    def forward(self, x):
        """[B, 80, T] -> [B, 1, 256 * T]."""
        x = self.conv_pre(x)
        for n, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            x = sum(block(x) for block in self.resblocks[3 * n : 3 * n + 3]) / 3
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def maps(x, convs, last):
    found = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        found.append(x)
    return [*found, last(x)]


class Period(nn.Module):
    def __init__(self, period: int):
        super().__init__()
        self.period, widths = period, [1, 32, 128, 512, 1024, 1024]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3 if n < 4 else 1, 1), padding=(2, 0)))
            for n, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.conv_post = weight_norm(nn.Conv2d(1024, 1, (3, 1), padding=(1, 0)))

    def forward(self, x):
        x = F.pad(x, (0, -x.shape[2] % self.period), "reflect")
        return maps(x.view(x.shape[0], 1, -1, self.period), self.convs, self.conv_post)


class Scale(nn.Module):
    def __init__(self, norm: Callable[[nn.Module], nn.Module]):
        super().__init__()
        widths = [1, 128, 128, 256, 512, 1024, 1024, 1024]
        shapes = zip(widths, widths[1:], (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1), (1, 4, 16, 16, 16, 16, 1))
        self.convs = nn.ModuleList(norm(nn.Conv1d(a, b, k, s, groups=g, padding=k // 2)) for a, b, k, s, g in shapes)
        self.conv_post = norm(nn.Conv1d(1024, 1, 3, padding=1))

    def forward(self, x):
        return maps(x, self.convs, self.conv_post)


class Discriminators(nn.Module):
    """Both families: five periods and three scales."""

    def __init__(self):
        super().__init__()
        self.mpd, self.msd = nn.Module(), nn.Module()
        self.mpd.discriminators = nn.ModuleList(Period(p) for p in (2, 3, 5, 7, 11))
        self.msd.discriminators = nn.ModuleList(Scale(spectral_norm if s == 0 else weight_norm) for s in range(3))

    def forward(self, wave):
        """[B, 1, N] -> feature maps of each sub-discriminator, the score map last."""
        found = [discriminator(wave) for discriminator in self.mpd.discriminators]
        for discriminator in self.msd.discriminators:
            found.append(discriminator(wave))
            wave = F.avg_pool1d(wave, 4, 2, padding=2)
        return found


class Mel(nn.Module):
    """Log mel spectrogram of [B, N] -> [B, M, T] with given filters [F, M]."""

    def __init__(self, filters: np.ndarray, n_fft: int = 1024, hop: int = 256):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("filters", tensor(np.asarray(filters, np.float32).T))
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, wave):
        pad = (self.n_fft - self.hop) // 2
        wave = F.pad(wave[:, None], (pad, pad), "reflect")[:, 0]
        spectrum = torch.view_as_real(
            torch.stft(wave, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        )
        return torch.log((self.filters @ torch.sqrt(spectrum.pow(2).sum(-1) + 1e-9)).clamp(min=1e-5))


def hifigan_step(
    generator: Generator, discriminators: Discriminators, wave: np.ndarray, mel_in: Mel, mel_loss: Mel
) -> Callable[[], None]:
    """One training step: the discriminators on recorded and generated waves, then the generator through them."""
    real = tensor(wave)[:, None]
    optimizers = [
        torch.optim.AdamW(net.parameters(), 2e-4, (0.8, 0.99), weight_decay=0.01) for net in (generator, discriminators)
    ]
    generate, judge = fastest(generator), fastest(discriminators)

    def step():
        mel = mel_in(real[:, 0])
        with mixed():
            fake = generate(mel)
            pairs = zip(judge(real), judge(fake.detach()))
            loss = torch.stack([((1 - r[-1]) ** 2).mean() + (f[-1] ** 2).mean() for r, f in pairs]).sum()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

        loss = 45 * F.l1_loss(mel_loss(fake[:, 0].float()), mel_loss(real[:, 0]))
        with mixed():
            with torch.no_grad():
                recorded = judge(real)
            for r, f in zip(recorded, judge(fake)):
                loss = loss + ((1 - f[-1]) ** 2).mean() + 2 * sum((a - b).abs().mean() for a, b in zip(r, f))
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        wait()

    return step


def outputs_of(generator: Generator, discriminators: Discriminators, wave: np.ndarray, mel: Mel) -> dict:
    """What both say without training: 'mel' [B, T, M], 'wave' [B, N], 'scores' of the recorded wave, summed."""
    discriminators.eval()
    with torch.no_grad():
        frames = mel(tensor(wave))
        judged = [float(maps[-1].sum()) for maps in discriminators(tensor(wave)[:, None])]
        found = {"mel": frames.transpose(1, 2).numpy(), "wave": generator(frames)[:, 0].numpy(), "scores": judged}
    discriminators.train()
    return found


def tensor(x: np.ndarray) -> torch.Tensor:
    """On the default device."""
    return torch.as_tensor(np.ascontiguousarray(x)).to(torch.get_default_device())


def on_gpu() -> bool:
    return torch.get_default_device().type == "cuda"


def fastest(module: nn.Module) -> nn.Module:
    """As its users run it: eager on CPU, compiled on a GPU."""
    return torch.compile(module) if on_gpu() else module


def mixed() -> torch.autocast:
    """bfloat16 on a GPU."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=on_gpu())


def wait() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def count(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in module.parameters())


def state(module: nn.Module) -> dict[str, np.ndarray]:
    """The module's state dict as arrays, for our converters."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}
