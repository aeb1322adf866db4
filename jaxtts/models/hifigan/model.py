"""HiFi-GAN's generator: transposed convolutions, each followed by residual blocks of several receptive fields.

Paper: Kong et al. 2020, arXiv 2010.05646. Reference matched: jik876/hifi-gan `models.py`, to the number: the residual
blocks of a stage are averaged, and the last leaky ReLU has slope 0.01. Differences: with `lengths`, samples behind an
utterance's end are kept at zero in every layer, so a batch gives what each utterance gives alone; the reference's
N(0, 0.01) initialisation, which weight norm undoes there, is the plain uniform one here.
"""

import math
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.nn.conv import Conv1d, ConvTranspose1d
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.masking import masked_fill, sequence_mask

SLOPE = 0.1
FINAL_SLOPE = 0.01
FAMILIES = ("period", "scale", "resolution", "dilated")


@dataclass(frozen=True)
class GanConfig:
    """How a vocoder is trained: its discriminators and the weights of its losses. Defaults: HiFi-GAN's.

    Attributes:
        discriminators: families out of 'period', 'scale', 'resolution', 'dilated'.
        weights: weight of each family's adversarial and feature losses.
        reduce: 'sum' (HiFi-GAN) or 'mean' (Vocos) over the sub-discriminators of a family.
        objective: 'least_squares' or 'hinge'.
        feature_weight, mel_weight: weights of feature matching and of the mel L1 loss.
        stft_weight: weight of the multi-resolution STFT loss (0: not computed).
        stft_resolutions: its (n_fft, hop, window).
        pretrain_steps: steps with the spectral losses alone, before the discriminators start.
        periods, period_channels: of the multi-period discriminator.
        num_scales: of the multi-scale discriminator: the wave itself, pooled by 2, by 4, ...
        scale_channels, scale_groups, scale_kernel_sizes, scale_strides: of each of its layers.
        scale_spectral_norm: spectral norm in place of weight norm on the first scale.
        resolutions, resolution_channels: (n_fft, hop) and width of the multi-resolution discriminator.
        dilated_layers, dilated_channels: of Parallel WaveGAN's discriminator.
    """

    discriminators: tuple[str, ...] = ("period", "scale")
    weights: tuple[float, ...] = (1.0, 1.0)
    reduce: str = "sum"
    objective: str = "least_squares"
    feature_weight: float = 2.0
    mel_weight: float = 45.0
    stft_weight: float = 0.0
    stft_resolutions: tuple[tuple[int, int, int], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    pretrain_steps: int = 0
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    num_scales: int = 3
    scale_channels: tuple[int, ...] = (128, 128, 256, 512, 1024, 1024, 1024)
    scale_groups: tuple[int, ...] = (1, 4, 16, 16, 16, 16, 1)
    scale_kernel_sizes: tuple[int, ...] = (15, 41, 41, 41, 41, 41, 5)
    scale_strides: tuple[int, ...] = (1, 2, 2, 4, 4, 1, 1)
    scale_spectral_norm: bool = True
    resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (2048, 512), (512, 128))
    resolution_channels: int = 64
    dilated_layers: int = 10
    dilated_channels: int = 64

    def __post_init__(self):
        unknown = [name for name in self.discriminators if name not in FAMILIES]
        if unknown or not self.discriminators:
            raise ValueError(f"gan.discriminators={self.discriminators}: use one or more of {', '.join(FAMILIES)}")
        if len(self.weights) != len(self.discriminators):
            raise ValueError(f"gan.weights={self.weights}: give one weight for each of {self.discriminators}")
        if self.reduce not in ("sum", "mean"):
            raise ValueError(f"gan.reduce={self.reduce!r}: use 'sum' or 'mean'")
        if self.objective not in ("least_squares", "hinge"):
            raise ValueError(f"gan.objective={self.objective!r}: use 'least_squares' or 'hinge'")
        lengths = {len(self.scale_channels), len(self.scale_groups), len(self.scale_kernel_sizes)}
        if lengths != {len(self.scale_strides)}:
            raise ValueError("gan.scale_channels, scale_groups, scale_kernel_sizes and scale_strides differ in length")

    @classmethod
    def vits(cls) -> "GanConfig":
        """VITS's (arXiv 2106.06103): the periods and MelGAN's discriminator of the plain wave, all weight-normed."""
        return cls(
            num_scales=1,
            scale_channels=(16, 64, 256, 1024, 1024, 1024),
            scale_groups=(1, 4, 16, 64, 256, 1),
            scale_kernel_sizes=(15, 41, 41, 41, 41, 5),
            scale_strides=(1, 4, 4, 4, 4, 1),
            scale_spectral_norm=False,
        )

    def narrow(self, divisor: int) -> "GanConfig":
        """The same discriminators with every width divided, for training on little hardware."""
        scales = tuple(max(1, c // divisor) for c in self.scale_channels)
        return replace(
            self,
            period_channels=tuple(max(1, c // divisor) for c in self.period_channels),
            scale_channels=scales,
            scale_groups=tuple(math.gcd(g, i, o) for g, i, o in zip(self.scale_groups, (1, *scales), scales)),
            resolution_channels=max(1, self.resolution_channels // divisor),
            dilated_channels=max(1, self.dilated_channels // divisor),
        )


@dataclass(frozen=True)
class Config:
    """Table 5 of the paper; defaults: V1.

    Attributes:
        mel: what it reads; the product of `upsample_rates` is its hop.
        resblock: 1 (pairs of a dilated and a plain convolution) or 2 (dilated ones).
        upsample_rates, upsample_kernel_sizes: of the transposed convolutions, one per stage.
        upsample_channels: channels before the first stage; each stage halves them.
        resblock_kernel_sizes, resblock_dilations: of the residual blocks, the same at every stage.
        weight_norm: False for inference with folded kernels (`nn.functional.fold_weight_norm`).
        dtype: of the networks, discriminators included; parameters, spectra and losses are float32 in any case.
        remat: in training, keep of each residual block and discriminator its input alone and compute the rest again.
        gan: how it is trained.
    """

    mel: MelSpec = mel_spec("hifigan")
    resblock: int = 1
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_channels: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    weight_norm: bool = True
    dtype: str = "float32"
    remat: bool = False
    gan: GanConfig = field(default=GanConfig())

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.resblock not in (1, 2):
            raise ValueError(f"resblock={self.resblock!r} must be 1 or 2")
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise ValueError("upsample_rates and upsample_kernel_sizes must have the same length")
        if any((k - r) % 2 or k < r for r, k in zip(self.upsample_rates, self.upsample_kernel_sizes)):
            raise ValueError(
                f"upsample_kernel_sizes={self.upsample_kernel_sizes} must exceed upsample_rates={self.upsample_rates} "
                "by even numbers"
            )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilations):
            raise ValueError("resblock_kernel_sizes and resblock_dilations must have the same length")
        if self.upsample_channels % 2 ** len(self.upsample_rates):
            raise ValueError(f"upsample_channels={self.upsample_channels} must halve at each of the stages")
        if self.hop_length != self.mel.hop_length:
            raise ValueError(f"upsample_rates={self.upsample_rates} must multiply to the hop {self.mel.hop_length}")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        hop = 1
        for rate in self.upsample_rates:
            hop *= rate
        return hop

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame's samples, found by going back from them layer by layer."""
        pairs = zip(self.resblock_kernel_sizes, self.resblock_dilations)
        plain = 1 if self.resblock == 1 else 0  # dilation of the convolution that follows each dilated one
        block = max((k // 2) * sum(d + plain for d in dilations) for k, dilations in pairs)
        first, last = -3, self.hop_length + 2  # samples before conv_post
        for rate, width in reversed([*zip(self.upsample_rates, self.upsample_kernel_sizes)]):
            pad = (width - rate) // 2
            first, last = -((width - 1 - pad - first + block) // rate), (last + block + pad) // rate
        return max(3 - first, last + 3)  # conv_pre

    @classmethod
    def v1(cls) -> "Config":
        """13.9 M parameters, the best quality."""
        return cls()

    @classmethod
    def v2(cls) -> "Config":
        """V1 with a quarter of the channels, 0.93 M parameters."""
        return cls(upsample_channels=128)

    @classmethod
    def v3(cls) -> "Config":
        """Fewer and simpler blocks, 1.46 M parameters."""
        return cls(
            resblock=2,
            upsample_rates=(8, 8, 4),
            upsample_kernel_sizes=(16, 16, 8),
            upsample_channels=256,
            resblock_kernel_sizes=(3, 5, 7),
            resblock_dilations=((1, 2), (2, 6), (3, 12)),
        )

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        gan = GanConfig(
            periods=(2, 3), period_channels=(4, 4), num_scales=2, scale_channels=(4, 4, 4),
            scale_groups=(1, 2, 1), scale_kernel_sizes=(15, 41, 5), scale_strides=(1, 4, 1),
            stft_resolutions=((64, 16, 64), (32, 8, 32)),
        )  # fmt: skip
        return cls(
            mel=MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9),
            upsample_rates=(4, 4),
            upsample_kernel_sizes=(8, 8),
            upsample_channels=16,
            resblock_kernel_sizes=(3, 5),
            resblock_dilations=((1, 3), (1, 3)),
            gan=gan,
        )

    def folded(self) -> "Config":
        """The same without weight norm."""
        return replace(self, weight_norm=False)


class Generator(nnx.Module):
    """Mel -> wave (section 2.2).

    Args:
        in_channels: of what it reads; default: the mel's bins.
        cond_channels: of a conditioning vector that is added, projected, to the first layer's output; 0 for none.
        plain_ends: no weight norm on the first and the last layer, no bias on the last (VITS).
    """

    def __init__(
        self,
        config: Config,
        *,
        in_channels: int | None = None,
        cond_channels: int = 0,
        plain_ends: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config = config
        channels = [config.upsample_channels // 2**n for n in range(len(config.upsample_rates) + 1)]
        norm = config.weight_norm
        ends = norm and not plain_ends
        self.conv_pre = Conv1d(in_channels or config.mel.num_bins, channels[0], 7, weight_norm=ends, rngs=rngs)
        if cond_channels:
            self.cond = Conv1d(cond_channels, channels[0], rngs=rngs)
        self.ups = nnx.List(
            [
                ConvTranspose1d(i, o, k, rate, padding=(k - rate) // 2, weight_norm=norm, rngs=rngs)
                for i, o, k, rate in zip(channels, channels[1:], config.upsample_kernel_sizes, config.upsample_rates)
            ]
        )
        block = ResBlock1 if config.resblock == 1 else ResBlock2
        self.resblocks = nnx.List(
            [
                block(c, k, dilations, norm, rngs=rngs)
                for c in channels[1:]
                for k, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilations)
            ]
        )
        self.conv_post = Conv1d(channels[-1], 1, 7, weight_norm=ends, bias=not plain_ends, rngs=rngs)

    def __call__(self, mel: jax.Array, lengths: jax.Array | None = None, cond: jax.Array | None = None) -> jax.Array:
        """[B, T, M] (frames [B], cond [B, 1, G]) -> wave [B, T * hop] in [-1, 1], zero behind the lengths."""
        return self.stages(mel, lengths, cond)["wave"]

    def stages(
        self, mel: jax.Array, lengths: jax.Array | None = None, cond: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Every stage by name: 'conv_pre', 'ups.N', 'resblocks.N' (each [B, T', C]) and 'wave' [B, T * hop]."""
        config, found = self.config, {}
        mask = None if lengths is None else sequence_mask(lengths, mel.shape[1])  # [B, T]
        x = self.conv_pre(_masked(mel.astype(config.dtype), mask))
        x = found["conv_pre"] = x if cond is None else x + self.cond(cond.astype(x.dtype))
        count = len(config.resblock_kernel_sizes)
        for n, (up, rate) in enumerate(zip(self.ups, config.upsample_rates)):
            x = found[f"ups.{n}"] = up(_masked(jax.nn.leaky_relu(x, SLOPE), mask))  # [B, T * rate, C / 2]
            mask = None if mask is None else jnp.repeat(mask, rate, axis=1)
            blocks = range(n * count, (n + 1) * count)
            found |= {f"resblocks.{b}": remat(self.resblocks[b], config.remat)(x, mask) for b in blocks}
            x = sum(found[f"resblocks.{b}"] for b in blocks) / count
        x = self.conv_post(_masked(jax.nn.leaky_relu(x, FINAL_SLOPE), mask))
        wave = jnp.tanh(x.astype(jnp.float32))
        return found | {"wave": _masked(wave, mask)[..., 0]}

    def infer(self, mel: jax.Array, lengths: jax.Array | None = None, *, key: jax.Array | None = None) -> jax.Array:
        """Mel [B, T, M] -> wave [B, T * hop]. Deterministic: `key` is not used."""
        return self(mel, lengths)


class ResBlock1(nnx.Module):
    """Pairs of a dilated and a plain convolution, each pair with its residual."""

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...], weight_norm: bool, *, rngs: nnx.Rngs):
        def conv(dilation: int) -> Conv1d:
            return Conv1d(channels, channels, width, dilation=dilation, weight_norm=weight_norm, rngs=rngs)

        self.convs1 = nnx.List([conv(d) for d in dilations])
        self.convs2 = nnx.List([conv(1) for _ in dilations])

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        for dilated, plain in zip(self.convs1, self.convs2):
            y = dilated(_masked(jax.nn.leaky_relu(x, SLOPE), mask))
            x = x + plain(_masked(jax.nn.leaky_relu(y, SLOPE), mask))
        return x


class ResBlock2(nnx.Module):
    """Dilated convolutions, each with its residual."""

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...], weight_norm: bool, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [Conv1d(channels, channels, width, dilation=d, weight_norm=weight_norm, rngs=rngs) for d in dilations]
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        for conv in self.convs:
            x = x + conv(_masked(jax.nn.leaky_relu(x, SLOPE), mask))
        return x


def _masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else masked_fill(x, mask)
