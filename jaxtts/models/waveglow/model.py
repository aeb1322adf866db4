"""WaveGlow: a flow from noise to the wave, conditioned on a mel spectrogram (arXiv 1811.00002).

Matches NVIDIA/waveglow@8afb643 `glow.py` (not the older `glow_old.py`, whose couplings split channels otherwise).
Deliberate differences: channels last, so the conditioning of a group of samples lies sample by sample, not bin by bin;
log|det| in place of log(det), which becomes NaN when a mixing matrix turns over; with `lengths`, what lies behind an
utterance's end is kept at zero in every layer, so a batch gives what each utterance gives alone. As in the reference,
but not in the paper, the skip connections are as wide as the residual ones.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.nn.conv import ConvTranspose1d
from jaxtts.nn.flow import AffineCoupling, GroupedInvertibleConv
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.masking import masked_fill, sequence_mask


@dataclass(frozen=True)
class Config:
    """The published model by default (config.json of the reference): 87.9 M parameters.

    Attributes:
        mel: what it reads.
        num_squeeze: samples that the flow sees as one group, of as many channels.
        num_flows: steps of channel mixing and affine coupling.
        early_every, early_size: after each `early_every` steps `early_size` channels leave for the latent.
        channels, num_layers, kernel_size: of the WaveNet in each coupling; its layer i has dilation 2**i.
        upsample_kernel_size: samples that a mel frame reaches through the transposed convolution.
        upsample_channels: of each sample's conditioning; None: as many as the mel has bins.
        sigma: standard deviation of the latent in training (paper: sqrt(0.5)).
        dither: standard deviation of the noise that a wave is given in training (the reference: none).
        sigma_infer: that of the noise that `infer` turns into sound (reference: 0.666).
        weight_norm: False once the gains are folded into the kernels.
        inverse_only: the mixing matrices are stored inverted (`functional.store_inverse`); such a model only speaks.
        dtype: of the networks; the flow's variables and the likelihood are float32 in any case.
        remat: in training, keep of each step its input alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("waveglow")
    num_squeeze: int = 8
    num_flows: int = 12
    early_every: int = 4
    early_size: int = 2
    channels: int = 256
    num_layers: int = 8
    kernel_size: int = 3
    upsample_kernel_size: int = 1024
    upsample_channels: int | None = None
    sigma: float = 1.0
    dither: float = 0.0
    sigma_infer: float = 0.6
    weight_norm: bool = True
    inverse_only: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        hop = self.mel.hop_length
        if self.num_squeeze < 2 or hop % self.num_squeeze:
            raise ValueError(f"num_squeeze={self.num_squeeze} must be at least 2 and divide the hop {hop}")
        if self.upsample_kernel_size < hop:
            raise ValueError(f"upsample_kernel_size={self.upsample_kernel_size} must not be below the hop {hop}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")
        if self.early_every < 1 or any(c < 2 or c % 2 for c in self.widths):
            raise ValueError(
                f"early_every={self.early_every} and early_size={self.early_size} must leave an even number of the "
                f"num_squeeze={self.num_squeeze} channels to each of num_flows={self.num_flows} steps"
            )
        if self.sigma <= 0:
            raise ValueError(f"sigma={self.sigma} must be above 0")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each step sees."""
        return tuple(self.num_squeeze - self.early_size * (k // self.early_every) for k in range(self.num_flows))

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame's samples."""
        groups = self.num_flows * (self.kernel_size // 2) * (2**self.num_layers - 1)
        hop = self.mel.hop_length
        return -(-groups * self.num_squeeze // hop) + -(-self.upsample_kernel_size // hop) - 1

    @classmethod
    def large(cls, **changes: Any) -> "Config":
        """The paper's width of 512 channels: 268 M parameters."""
        values: dict[str, Any] = {"channels": 512} | changes
        return cls(**values)

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        mel = MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9)
        return cls(
            mel=mel, num_flows=4, early_every=2, channels=8, num_layers=2, upsample_kernel_size=32, upsample_channels=2
        )


class Output(NamedTuple):
    """The training forward pass.

    Attributes:
        z: latent [B, N / num_squeeze, num_squeeze], channels that left early first; zero behind the lengths.
        log_scale: sum of the couplings' log scales [B].
        log_det: that of the mixing matrices' log-determinants over all groups [B].
    """

    z: jax.Array
    log_scale: jax.Array
    log_det: jax.Array


class Model(nnx.Module):
    """Upsampling of the mel and the steps of the flow (figure 1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        bins, hop = config.mel.num_bins, config.mel.hop_length
        width = config.upsample_channels or bins
        self.upsample = ConvTranspose1d(bins, width, config.upsample_kernel_size, hop, rngs=rngs)
        self.flows = nnx.List([Step(config, channels, rngs=rngs) for channels in config.widths])

    def __call__(self, mel: jax.Array, wave: jax.Array, lengths: jax.Array | None = None) -> Output:
        """Wave to latent.

        Args:
            mel: [B, T, M]; wave: [B, N], N a multiple of num_squeeze; T * hop may exceed N.
            lengths: frames [B]; None: all is real.
        """
        x = wave.astype(jnp.float32).reshape(wave.shape[0], -1, self.config.num_squeeze)  # [B, G, C]
        cond, mask = self.condition(mel, lengths, x.shape[1])
        x, early = masked_fill(x, mask), []
        log_scale = log_det = jnp.zeros((x.shape[0],))
        for flow in self.flows:
            left, x = jnp.split(x, [x.shape[-1] - flow.channels], axis=-1)
            early.append(left)
            x, scale, det = remat(flow.forward, self.config.remat)(x, mask, cond)
            log_scale, log_det = log_scale + scale, log_det + det
        return Output(jnp.concatenate([*early, x], axis=-1), log_scale, log_det)

    def inverse(self, z: jax.Array, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Latent [B, G, num_squeeze], mel [B, T, M] (and frames [B]) -> wave [B, G * num_squeeze], zero behind them."""
        cond, mask = self.condition(mel, lengths, z.shape[1])
        z = masked_fill(z, mask)
        x = z[..., z.shape[-1] :]
        for flow in reversed(self.flows):
            known = z.shape[-1] - x.shape[-1]
            x = jnp.concatenate([z[..., known - (flow.channels - x.shape[-1]) : known], x], axis=-1)
            x = flow.inverse(x, mask, cond)
        return x.reshape(x.shape[0], -1)

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
            noise: standard normal [B, T, hop]; None: zeros, which give the sound that a denoiser takes away.
            sigma: temperature, a scalar or [B]; None: `Config.sigma_infer`.

        Returns:
            [B, T * hop], zero behind the lengths.
        """
        batch, frames, _ = mel.shape
        sigma = jnp.reshape(jnp.asarray(self.config.sigma_infer if sigma is None else sigma), (-1, 1, 1))
        noise = jnp.zeros((batch, frames, self.config.mel.hop_length)) if noise is None else noise
        return self.inverse(sigma * noise.reshape(batch, -1, self.config.num_squeeze), mel, lengths)

    def condition(self, mel: jax.Array, lengths: jax.Array | None, groups: int) -> tuple[jax.Array, jax.Array]:
        """mel [B, T, M] -> what each group of samples hears of it [B, G, num_squeeze * U], mask [B or 1, G]."""
        squeeze = self.config.num_squeeze
        mask = jnp.ones((1, groups), bool)
        if lengths is not None:
            mel = masked_fill(mel, sequence_mask(lengths, mel.shape[1]))
            mask = sequence_mask(lengths * (self.config.mel.hop_length // squeeze), groups)
        cond = self.upsample(mel.astype(self.config.dtype))[:, : groups * squeeze]  # [B, N, U]
        return cond.reshape(cond.shape[0], groups, -1), mask


class Step(nnx.Module):
    """Channel mixing, affine coupling."""

    def __init__(self, config: Config, channels: int, *, rngs: nnx.Rngs):
        self.channels = channels
        self.mix = GroupedInvertibleConv(channels, channels, inverse_only=config.inverse_only, rngs=rngs)
        self.coupling = AffineCoupling(
            channels,
            config.channels,
            config.kernel_size,
            config.num_layers,
            dilation=2,
            cond_channels=config.num_squeeze * (config.upsample_channels or config.mel.num_bins),
            weight_norm=config.weight_norm,
            dtype=config.dtype,
            rngs=rngs,
        )

    def forward(self, x: jax.Array, mask: jax.Array, cond: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, G, C] -> [B, G, C], log scale and log-determinant [B or 1]."""
        x, log_det = self.mix.forward(x, mask)
        x, log_scale = self.coupling.forward(x, mask, cond)
        return x, log_scale, log_det

    def inverse(self, z: jax.Array, mask: jax.Array, cond: jax.Array) -> jax.Array:
        """The inverse of `forward`."""
        return self.mix.inverse(self.coupling.inverse(z, mask, cond), mask)
