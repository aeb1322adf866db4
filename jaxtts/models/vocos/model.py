"""Vocos: a vocoder that works at the frame rate and ends in an inverse STFT.

Paper: Siuzdak 2023, arXiv 2306.00814. Reference matched: gemelo-ai/vocos (`VocosBackbone`, `ISTFTHead`). Differences:

* 'same' padding throughout (T frames give T * hop samples; the reference offers it beside 'center'), and mel specs of
  this library: natural logarithm clipped at 1e-5 and Slaney filters by default, not torchaudio's.
* With `lengths`, frames behind an utterance's end are kept at zero, so a batch gives what each utterance gives alone.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.features import hann
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.audio.stft import overlap_add
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.normalization import LayerNorm

MAX_MAGNITUDE = 1e2
EPSILON = 1e-6

# Section 3.3 and configs/vocos.yaml: hinge, mean over sub-discriminators, the resolution family at a tenth.
VOCOS_GAN = GanConfig(
    discriminators=("period", "resolution"),
    weights=(1.0, 0.1),
    reduce="mean",
    objective="hinge",
    feature_weight=1.0,
)


@dataclass(frozen=True)
class Config:
    """Defaults: the paper's (section 4.1) on 24 kHz mels with 100 bins; 13.5 M parameters.

    Attributes:
        mel: what it reads; its hop is the head's hop.
        dim, intermediate_dim, num_layers: widths and number of the ConvNeXt blocks.
        n_fft: of the head's inverse STFT.
        kernel_size: of the embedding and of the depthwise convolutions, odd.
        dtype: of the networks, discriminators included; parameters, norms, spectra and losses are float32 in any case.
        remat: in training, keep of each block and discriminator its input alone and compute the rest again.
        gan: how it is trained.
    """

    mel: MelSpec = mel_spec("bigvgan_24khz_100band")
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    n_fft: int = 1024
    kernel_size: int = 7
    dtype: str = "float32"
    remat: bool = False
    gan: GanConfig = field(default=VOCOS_GAN)

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")
        if self.n_fft % 2 or (self.n_fft - self.mel.hop_length) % 2 or self.n_fft < 2 * self.mel.hop_length:
            raise ValueError(f"n_fft={self.n_fft} must be even, as hop {self.mel.hop_length}, and at least twice it")

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame's samples: the convolutions' and the inverse STFT's overlap."""
        hop = self.mel.hop_length
        return (1 + self.num_layers) * (self.kernel_size // 2) + -(-(self.n_fft - hop) // (2 * hop))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests; least squares, since under hinge a score's bias has no gradient until a margin is reached."""
        mel = MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9)
        gan = GanConfig(
            discriminators=("period", "resolution"), weights=(1.0, 0.1), reduce="mean", objective="least_squares",
            feature_weight=1.0, periods=(2, 3), period_channels=(4, 4), resolutions=((32, 8), (64, 16)),
            resolution_channels=4, stft_resolutions=((64, 16, 64), (32, 8, 32)), stft_weight=1.0,
        )  # fmt: skip
        return cls(mel=mel, dim=16, intermediate_dim=32, num_layers=2, n_fft=64, gan=gan)


class Vocos(nnx.Module):
    """Embedding, ConvNeXt blocks, inverse-STFT head (figure 2)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embed = _conv(config.mel.num_bins, config.dim, config.kernel_size, rngs=rngs)
        self.norm = LayerNorm(config.dim, eps=EPSILON)
        self.blocks = nnx.List([ConvNextBlock(config, rngs=rngs) for _ in range(config.num_layers)])
        self.final_norm = LayerNorm(config.dim, eps=EPSILON)
        self.head = Conv1d(config.dim, config.n_fft + 2, rngs=rngs)  # log magnitude | phase

    def __call__(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, M] (and frames [B]) -> wave [B, T * hop], zero behind the lengths."""
        mask = None if lengths is None else sequence_mask(lengths, mel.shape[1])  # [B, T]
        x = self.norm(self.embed(_masked(mel.astype(self.config.dtype), mask)))  # [B, T, C]
        for block in self.blocks:
            x = remat(block, self.config.remat)(x, mask)
        return self._synthesize(self.head(self.final_norm(x)).astype(jnp.float32), mask)

    def infer(self, mel: jax.Array, lengths: jax.Array | None = None, *, key: jax.Array | None = None) -> jax.Array:
        """Mel [B, T, M] -> wave [B, T * hop]. Deterministic: `key` is not used."""
        return self(mel, lengths)

    def _synthesize(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        n_fft, hop, num_frames = self.config.n_fft, self.config.mel.hop_length, x.shape[1]
        log_magnitude, phase = jnp.split(x, 2, axis=-1)  # [B, T, F] each
        magnitude = jnp.minimum(jnp.exp(log_magnitude), MAX_MAGNITUDE)
        frames = jnp.fft.irfft(jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)), n_fft)
        window = hann(n_fft)
        mask = jnp.ones((1, num_frames), bool) if mask is None else mask
        start, stop = (n_fft - hop) // 2, (n_fft - hop) // 2 + num_frames * hop
        samples = overlap_add(masked_fill(frames * window, mask), hop)[:, start:stop]  # [B, N]
        envelope = overlap_add(mask[..., None] * jnp.square(window), hop)[:, start:stop]
        return jnp.where(jnp.repeat(mask, hop, axis=1), samples / jnp.maximum(envelope, 1e-11), 0.0)


class ConvNextBlock(nnx.Module):
    """Depthwise convolution, norm, two pointwise layers around a GELU, a learned scale, residual."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        dim = config.dim
        self.depthwise = _conv(dim, dim, config.kernel_size, groups=dim, rngs=rngs)
        self.norm = LayerNorm(dim, eps=EPSILON)
        self.expand = _conv(dim, config.intermediate_dim, rngs=rngs)
        self.contract = _conv(config.intermediate_dim, dim, rngs=rngs)
        self.scale = nnx.Param(jnp.full((dim,), 1.0 / config.num_layers))

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        y = self.norm(self.depthwise(_masked(x, mask)))
        y = self.contract(jax.nn.gelu(self.expand(y), approximate=False))
        return x + y * self.scale[...].astype(x.dtype)


def _conv(in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, rngs: nnx.Rngs) -> Conv1d:
    init = nnx.initializers.truncated_normal(0.02)
    conv = Conv1d(in_channels, out_channels, kernel_size, groups=groups, kernel_init=init, rngs=rngs)
    conv.bias = nnx.Param(jnp.zeros(out_channels))
    return conv


def _masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else masked_fill(x, mask)
