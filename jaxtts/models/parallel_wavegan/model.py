"""Parallel WaveGAN: a WaveNet that is not causal turns noise into a wave, told the mel (arXiv 1910.11480).

Matches kan-bayashi/ParallelWaveGAN `models/parallel_wavegan.py` (`ParallelWaveGANGenerator`, `ConvInUpsampleNetwork`).
Deliberate differences: channels last; the last layer has no residual output, which leads nowhere; frames around the
utterance are its first and last, which the reference asks its caller for; with `lengths`, what lies behind an
utterance's end changes nothing.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.wavenet.model import Network, Upsample
from jaxtts.nn.functional import check_dtype
from jaxtts.nn.generation import heard
from jaxtts.nn.masking import sequence_mask


@dataclass(frozen=True)
class Config:
    """The reference's `parallel_wavegan.v1` by default: 30 layers of 64 channels.

    Attributes:
        mel: what it reads.
        gan: how it is trained.
        num_layers, num_stacks, channels, gate_channels, skip_channels, kernel_size, upsample_scales, upsample_bins,
            upsample_slope, context: see `models.wavenet.Config`.
        sigma_infer: temperature of the noise in `infer`.
        weight_norm: False for folded weights.
        norm_context: the convolution over frames has weight norm, where the others have.
        dtype: of the layers in training.
        remat: in training, keep of each layer its input and the discriminators' maps alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("hifigan")
    gan: GanConfig = GanConfig(
        discriminators=("dilated",), weights=(1.0,), feature_weight=0.0, mel_weight=0.0, stft_weight=0.25,
        pretrain_steps=100_000,
    )  # fmt: skip
    num_layers: int = 30
    num_stacks: int = 3
    channels: int = 64
    gate_channels: int = 128
    skip_channels: int = 64
    kernel_size: int = 3
    upsample_scales: tuple[int, ...] = (4, 4, 4, 4)
    upsample_bins: int = 1
    upsample_slope: float | None = None
    context: int | None = 2
    sigma_infer: float = 1.0
    weight_norm: bool = True
    norm_context: bool = True
    dtype: str = "float32"
    remat: bool = False

    first_kernel_size = 1  # of the network, and no choice here
    scale_skips = True
    cond_bias = False
    upsample = "stretch"

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.num_layers % self.num_stacks:
            raise ValueError(f"num_layers={self.num_layers} must be a multiple of num_stacks={self.num_stacks}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")
        if np.prod(self.upsample_scales) != self.mel.hop_length:
            raise ValueError(f"upsample_scales={self.upsample_scales} must multiply to the hop {self.mel.hop_length}")

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame's samples."""
        per_stack = 2 ** (self.num_layers // self.num_stacks) - 1
        samples = self.kernel_size // 2 * per_stack * self.num_stacks
        smoothed = sum(1 / np.prod(self.upsample_scales[:i]) for i in range(len(self.upsample_scales)))
        return -(-samples // self.mel.hop_length) + (self.context or 0) + int(np.ceil(smoothed))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        mel = MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9)
        gan = GanConfig(
            discriminators=("dilated",), weights=(1.0,), feature_weight=0.0, mel_weight=0.0, stft_weight=1.0,
            stft_resolutions=((64, 16, 64), (32, 8, 32)), dilated_layers=4, dilated_channels=4,
        )  # fmt: skip
        return cls(
            mel=mel, gan=gan, num_layers=4, num_stacks=2, channels=8, gate_channels=12, skip_channels=10,
            upsample_scales=(4, 4), context=1,
        )  # fmt: skip


class Model(nnx.Module):
    """The generator."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.upsample = Upsample(config, rngs=rngs)
        self.network = Network(1, 1, config, cond_channels=config.mel.num_bins, causal=False, rngs=rngs)

    def __call__(self, mel: jax.Array, noise: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """mel [B, T, M], standard normal [B, T, hop], frames [B] -> wave [B, T * hop]."""
        z = noise.reshape(noise.shape[0], -1)
        mask = None if lengths is None else sequence_mask(lengths * self.config.mel.hop_length, z.shape[1])
        return self.made(z, self.upsample(mel, lengths), mask)

    def made(self, z: jax.Array, cond: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Noise [B, N], what each sample is told [B, N, M], mask [B, N] -> wave [B, N]."""
        dtype = self.config.dtype
        x = self.network.read(z).astype(dtype)
        return self.network(x, cond.astype(dtype), mask=mask)[..., 0]

    def infer(
        self,
        mel: jax.Array,
        lengths: jax.Array | None = None,
        *,
        noise: jax.Array | None = None,
        sigma: float | jax.Array | None = None,
    ) -> jax.Array:
        """Mel -> wave.

        Args:
            mel: [B, T, M]; lengths: frames [B].
            noise: standard normal [B, T, hop]; None: zeros.
            sigma: temperature, a scalar or [B]; None: `Config.sigma_infer`.

        Returns:
            [B, T * hop] in [-1, 1], zero behind the lengths.
        """
        hop = self.config.mel.hop_length
        sigma = jnp.reshape(jnp.asarray(self.config.sigma_infer if sigma is None else sigma), (-1, 1, 1))
        noise = jnp.zeros((*mel.shape[:2], hop)) if noise is None else sigma * noise
        return heard(self(mel, noise, lengths), None if lengths is None else lengths * hop)
