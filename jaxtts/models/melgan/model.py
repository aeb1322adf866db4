"""MelGAN: transposed convolutions, each followed by dilated residual blocks; multi-band MelGAN makes four sub-bands so.

Papers: Kumar et al. 2019, arXiv 1910.06711; Yu et al. 2020, arXiv 2005.05106. Reference matched: kan-bayashi/
ParallelWaveGAN `models/melgan.py` (`MelGANGenerator`), in whose release the multi-band wave is put together by `PQMF`
after the model, here within it. Differences: with `lengths` each layer mirrors at an utterance's own end, so a batch
gives what each utterance gives alone; an utterance shorter than a layer's reach is mirrored again and again, where the
reference refuses; the reference's N(0, 0.02) initialisation, which weight norm undoes there, is the plain uniform one.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.pqmf import Pqmf, synthesis
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.nn.conv import Conv1d, ConvTranspose1d
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.generation import heard
from jaxtts.nn.masking import masked_fill, sequence_mask

SLOPE = 0.2

# The reference's melgan.v3.long: adversarial and feature losses at 4 and 4 * 25 (a mean over six maps), STFT loss at 1.
MELGAN_GAN = replace(
    GanConfig.vits(), discriminators=("scale",), weights=(1.0,), reduce="mean", num_scales=3, feature_weight=25 / 6,
    mel_weight=0.0, stft_weight=0.25, pretrain_steps=100_000,
)  # fmt: skip
# Its multi_band_melgan.v2: adversarial loss at 2.5, the STFT losses of the wave and of its sub-bands at a half each.
MULTIBAND_GAN = replace(
    MELGAN_GAN, feature_weight=0.0, stft_weight=0.2, pretrain_steps=200_000, scale_channels=(16, 64, 256, 512, 512),
    scale_groups=(1, 4, 16, 64, 1), scale_kernel_sizes=(15, 41, 41, 41, 5), scale_strides=(1, 4, 4, 4, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The reference's `melgan.v1` and `melgan.v3` by default, which are the paper's.

    Attributes:
        mel: what it reads; the product of `upsample_rates` and `num_bands` is its hop.
        gan: how it is trained.
        upsample_rates: of the transposed convolutions, one per stage, whose kernels are twice as long.
        upsample_channels: channels before the first stage; each stage halves them.
        kernel_size: of the first and the last convolution, odd.
        block_kernel_size: of the residual blocks' dilated convolutions, odd; block n is dilated by its n-th power.
        num_blocks: residual blocks per stage.
        num_bands: 1, or 4 sub-bands that `audio.pqmf` puts together.
        subband_weight, subband_resolutions: of the sub-bands' STFT loss, as `gan.stft_weight` and
            `gan.stft_resolutions` of the wave's; only with sub-bands.
        weight_norm: False for folded weights.
        dtype: of the networks, discriminators included; parameters, spectra and losses are float32 in any case.
        remat: in training, keep of each residual block and discriminator its input alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("hifigan")
    gan: GanConfig = MELGAN_GAN
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_channels: int = 512
    kernel_size: int = 7
    block_kernel_size: int = 3
    num_blocks: int = 3
    num_bands: int = 1
    subband_weight: float = 0.2
    subband_resolutions: tuple[tuple[int, int, int], ...] = ((384, 30, 150), (683, 60, 300), (171, 10, 60))
    weight_norm: bool = True
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        for name in ("kernel_size", "block_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name}={getattr(self, name)} must be odd")
        if self.num_bands not in (1, 4):
            raise ValueError(f"num_bands={self.num_bands}: use 1 or 4, which the filter bank is designed for")
        if self.upsample_channels % 2 ** len(self.upsample_rates):
            raise ValueError(f"upsample_channels={self.upsample_channels} must halve at each of the stages")
        if math.prod(self.upsample_rates) * self.num_bands != self.mel.hop_length:
            raise ValueError(
                f"upsample_rates={self.upsample_rates} and num_bands={self.num_bands} must multiply to the hop "
                f"{self.mel.hop_length}"
            )

    @property
    def bank(self) -> Pqmf | None:
        """What puts the sub-bands together."""
        return Pqmf(self.num_bands) if self.num_bands > 1 else None

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of a stage's residual blocks."""
        return tuple(self.block_kernel_size**n for n in range(self.num_blocks))

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame's samples, found by going back from them layer by layer."""
        first, last = 0, self.mel.hop_length - 1
        if self.bank:
            first, last = -(self.bank.reach // self.num_bands), (last + self.bank.reach) // self.num_bands
        first, last = first - self.kernel_size // 2, last + self.kernel_size // 2
        blocks = self.block_kernel_size // 2 * sum(self.dilations)
        for rate in reversed(self.upsample_rates):
            pad = (rate + 1) // 2
            first, last = -((2 * rate - 1 - pad - first + blocks) // rate), (last + blocks + pad) // rate
        return max(-first, last) + self.kernel_size // 2

    @classmethod
    def multiband(cls) -> "Config":
        """The reference's `multi_band_melgan.v2`."""
        return cls(gan=MULTIBAND_GAN, upsample_rates=(8, 4, 2), upsample_channels=384, num_blocks=4, num_bands=4)

    @classmethod
    def tiny(cls) -> "Config":
        """For tests: with sub-bands."""
        gan = replace(
            MULTIBAND_GAN, num_scales=2, feature_weight=1.0, stft_weight=1.0, pretrain_steps=0,
            stft_resolutions=((64, 16, 64), (32, 8, 32)), scale_channels=(4, 4, 4), scale_groups=(1, 2, 1),
            scale_kernel_sizes=(15, 9, 5), scale_strides=(1, 4, 1),
        )  # fmt: skip
        return cls(
            mel=MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9), gan=gan, upsample_rates=(2, 2),
            upsample_channels=32, num_blocks=2, num_bands=4, subband_weight=1.0,
            subband_resolutions=((16, 4, 16), (33, 8, 30)),
        )  # fmt: skip


class Model(nnx.Module):
    """The generator."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        channels = [config.upsample_channels // 2**n for n in range(len(config.upsample_rates) + 1)]
        norm, width = config.weight_norm, config.kernel_size
        self.conv_pre = Conv1d(config.mel.num_bins, channels[0], width, padding="valid", weight_norm=norm, rngs=rngs)
        self.ups = nnx.List(
            [
                ConvTranspose1d(
                    i, o, 2 * rate, rate, padding=(rate + 1) // 2, output_padding=rate % 2, weight_norm=norm, rngs=rngs
                )
                for i, o, rate in zip(channels, channels[1:], config.upsample_rates)
            ]
        )
        self.blocks = nnx.List(
            [
                ResidualBlock(c, config.block_kernel_size, dilation, norm, rngs=rngs)
                for c in channels[1:]
                for dilation in config.dilations
            ]
        )
        self.conv_post = Conv1d(channels[-1], config.num_bands, width, padding="valid", weight_norm=norm, rngs=rngs)

    def __call__(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, M] (and frames [B]) -> wave [B, T * hop], zero behind the lengths."""
        bands = self.subbands(mel, lengths)
        wave = synthesis(bands, self.config.bank) if self.config.bank else bands[..., 0]
        if lengths is None:
            return wave
        return jnp.where(sequence_mask(lengths * self.config.mel.hop_length, wave.shape[1]), wave, 0.0)

    def subbands(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, M] (and frames [B]) -> [B, T * hop / K, K] in [-1, 1], zero behind the lengths; K = 1: the wave."""
        config, reach, count = self.config, self.config.kernel_size // 2, self.config.num_blocks
        x = self.conv_pre(mirrored(mel.astype(config.dtype), reach, lengths))  # [B, T, C]
        for n, (up, rate) in enumerate(zip(self.ups, config.upsample_rates)):
            x = up(_masked(jax.nn.leaky_relu(x, SLOPE), lengths))  # [B, T * rate, C / 2]
            lengths = None if lengths is None else lengths * rate
            for block in self.blocks[n * count : (n + 1) * count]:
                x = remat(block, config.remat)(x, lengths)
        x = self.conv_post(mirrored(jax.nn.leaky_relu(x, SLOPE), reach, lengths))
        return _masked(jnp.tanh(x.astype(jnp.float32)), lengths)

    def infer(self, mel: jax.Array, lengths: jax.Array | None = None, *, key: jax.Array | None = None) -> jax.Array:
        """Mel [B, T, M] -> wave [B, T * hop] in [-1, 1]. Deterministic: `key` is not used."""
        return heard(self(mel, lengths), None)


class ResidualBlock(nnx.Module):
    """A dilated and a pointwise convolution beside a pointwise skip."""

    def __init__(self, channels: int, width: int, dilation: int, weight_norm: bool, *, rngs: nnx.Rngs):
        self.reach = width // 2 * dilation
        self.dilated = Conv1d(
            channels, channels, width, dilation=dilation, padding="valid", weight_norm=weight_norm, rngs=rngs
        )
        self.pointwise = Conv1d(channels, channels, weight_norm=weight_norm, rngs=rngs)
        self.skip = Conv1d(channels, channels, weight_norm=weight_norm, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        y = self.dilated(mirrored(jax.nn.leaky_relu(x, SLOPE), self.reach, lengths))
        return self.skip(x) + self.pointwise(jax.nn.leaky_relu(y, SLOPE))


def mirrored(x: jax.Array, reach: int, lengths: jax.Array | None) -> jax.Array:
    """x [B, T, C] continued by its mirror image on both sides -> [B, T + 2 * reach, C].

    With `lengths` [B] each item's image starts at its own end; what lies behind that image means nothing.
    """
    if lengths is None:
        return jnp.pad(x, ((0, 0), (reach, reach), (0, 0)), mode="reflect")
    period = jnp.maximum(2 * (lengths - 1), 1)[:, None]

    def image(place: jax.Array) -> jax.Array:
        place = place % period  # [B, reach]
        return jnp.take_along_axis(x, jnp.minimum(place, period - place)[..., None], axis=1)

    before, behind = image(jnp.arange(-reach, 0)), image(lengths[:, None] + jnp.arange(reach))
    padded = jnp.concatenate([before, x, jnp.zeros_like(behind)], axis=1)
    return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))(padded, behind, lengths + reach)


def _masked(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    return x if lengths is None else masked_fill(x, sequence_mask(lengths, x.shape[1]))
