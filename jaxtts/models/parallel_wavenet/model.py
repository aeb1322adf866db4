"""Parallel WaveNet: inverse autoregressive flows that a WaveNet teaches (arXiv 1711.10433, 1807.07281 sec. 3.3).

`Config()` has the paper's flows and logistic noise, `Config.clarinet()` those of ksw0306/ClariNet@df31b4c
`wavenet_iaf.py` with Gaussian noise. The student hears what the teacher's upsampling makes of the mel and keeps a copy
of it. The first sample, which no flow can move, is silent behind each of them, as ClariNet has it. Deliberate
differences: channels last; the paper's student without skips is one whose skips are its layers' only way out.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.audio.spec import MelSpec
from jaxtts.models.wavenet.model import Config as TeacherConfig
from jaxtts.models.wavenet.model import Network, Upsample
from jaxtts.nn.flow import InverseAutoregressive
from jaxtts.nn.functional import check_dtype
from jaxtts.nn.generation import heard


@dataclass(frozen=True)
class Config:
    """The paper's student: flows of 10, 10, 10 and 30 layers of 64 channels.

    Attributes:
        teacher: whose mel, upsampling, gain and pre-emphasis are the student's too.
        noise: 'logistic' (Parallel WaveNet) or 'gaussian' (ClariNet), as the teacher's output is.
        flow_layers: of each flow; dilations go up to 2**(stack_layers - 1) and begin again.
        channels, gate_channels, skip_channels, kernel_size, first_kernel_size, cond_bias: of the flows' networks, see
            `models.wavenet.Config`.
        draws: of each sample in a step of the distillation ('logistic').
        power_weight, stft_weight, contrast_weight: of the terms beside the divergence; the paper does not print the
            first and has not the second (the loss of Parallel WaveGAN, arXiv 1910.11480).
        sigma_infer: temperature of the noise in `infer`.
        weight_norm: False for folded weights.
        dtype: of the networks in training.
        remat: in training, keep of each layer of the flows its input alone and compute the rest again.
    """

    teacher: TeacherConfig = TeacherConfig()
    noise: str = "logistic"
    flow_layers: tuple[int, ...] = (10, 10, 10, 30)
    stack_layers: int = 10
    channels: int = 64
    gate_channels: int = 64
    skip_channels: int = 64
    kernel_size: int = 3
    first_kernel_size: int = 1
    scale_skips: bool = False
    cond_bias: bool = False
    draws: int = 4
    power_weight: float = 1.0
    stft_weight: float = 0.0
    contrast_weight: float = 0.0
    sigma_infer: float = 1.0
    weight_norm: bool = True
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.noise not in ("logistic", "gaussian"):
            raise ValueError(f"noise={self.noise!r}: use 'logistic' or 'gaussian'")
        if self.teacher.output.kind != self.noise:
            raise ValueError(
                f"noise={self.noise!r} cannot be taught by a teacher of kind {self.teacher.output.kind!r}: "
                f"give teacher.output.kind={self.noise!r}"
            )
        if not self.teacher.conditional or self.teacher.num_speakers > 1:
            raise ValueError("the teacher must be told a mel and have one speaker")
        if any(n % min(n, self.stack_layers) for n in self.flow_layers):
            raise ValueError(f"flow_layers={self.flow_layers} must be multiples of stack_layers={self.stack_layers}")

    @property
    def mel(self) -> MelSpec:
        """What it reads."""
        return self.teacher.mel

    @property
    def samples_seen(self) -> int:
        """Receptive field: samples of the noise that a sample is made of, itself included."""
        return 1 + sum(self.shape(layers).samples_seen for layers in self.flow_layers)

    @property
    def receptive_field(self) -> int:
        """Frames on each side that tell a frame's samples."""
        k = self.teacher.preemphasis
        tail = int(np.ceil(np.log(1e-5) / np.log(k))) if k else 0  # of what undoes the pre-emphasis
        return -(-(self.samples_seen + tail) // self.mel.hop_length) + self.teacher.receptive_field

    def shape(self, layers: int) -> TeacherConfig:
        """The network of one flow as that of a WaveNet."""
        return replace(
            self.teacher,
            num_layers=layers,
            num_stacks=max(1, layers // self.stack_layers),
            **{
                name: getattr(self, name)
                for name in (
                    "channels", "gate_channels", "skip_channels", "kernel_size", "first_kernel_size", "scale_skips",
                    "cond_bias", "weight_norm", "remat",
                )
            },
        )  # fmt: skip

    @classmethod
    def clarinet(cls, **changes: Any) -> "Config":
        """The student of ksw0306/ClariNet: six flows of 10 layers."""
        values: dict[str, Any] = dict(
            teacher=TeacherConfig.clarinet(), noise="gaussian", flow_layers=(10,) * 6, gate_channels=256,
            first_kernel_size=32, cond_bias=True,
        )  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        return cls(
            teacher=TeacherConfig.tiny(), flow_layers=(2, 4), stack_layers=2, channels=8, gate_channels=12,
            skip_channels=10,
        )  # fmt: skip


class Sampled(NamedTuple):
    """A wave and the distribution of each of its samples after the noise before it.

    Attributes:
        wave: [B, N], the first sample zero; mean, log_scale: [B, N - 1], of the others.
    """

    wave: jax.Array
    mean: jax.Array
    log_scale: jax.Array


class Model(nnx.Module):
    """The teacher's upsampling and the flows."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        bins = config.mel.num_bins
        self.upsample = Upsample(config.teacher, rngs=rngs)
        networks = [Network(1, 2, config.shape(n), cond_channels=bins, rngs=rngs) for n in config.flow_layers]
        self.flows = nnx.List([InverseAutoregressive(Reader(network, config.dtype)) for network in networks])

    def __call__(self, mel: jax.Array, noise: jax.Array, lengths: jax.Array | None = None) -> Sampled:
        """mel [B, T, M], standard normal [B, T, hop], frames [B] -> wave and its distribution [B, T * hop]."""
        return self.made(self.latent(noise.reshape(noise.shape[0], -1)), self.condition(mel, lengths))

    def made(self, z: jax.Array, cond: jax.Array) -> Sampled:
        """Noise [B, N], conditioning [B, N, M] -> wave; mean and log scale compose (section 3.2, eq. 6)."""
        x, mean, log_scale = z[..., None], jnp.zeros_like(z)[..., None], jnp.zeros_like(z)[..., None]
        for flow in self.flows:
            shift, log = flow.affine(x, cond)
            x = (shift + jnp.exp(log) * x).at[:, 0].set(0.0)
            mean, log_scale = shift + jnp.exp(log) * mean, log_scale + log
        return Sampled(x[..., 0], mean[:, 1:, 0], log_scale[:, 1:, 0])

    def condition(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """See `models.wavenet.Model.condition`."""
        return self.upsample(mel, lengths)

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
        batch, frames, _ = mel.shape
        sigma = jnp.reshape(jnp.asarray(self.config.sigma_infer if sigma is None else sigma), (-1, 1))
        noise = jnp.zeros((batch, frames, self.config.mel.hop_length)) if noise is None else noise
        z = sigma * self.latent(noise.reshape(batch, -1))
        wave = self.config.teacher.restored(self.made(z, self.condition(mel, lengths)).wave)
        return heard(wave, None if lengths is None else lengths * self.config.mel.hop_length)

    def latent(self, normal: jax.Array) -> jax.Array:
        """Standard normal -> the flows' noise, of the same place in its distribution."""
        if self.config.noise == "gaussian":
            return normal
        log_ndtr = jax.scipy.special.log_ndtr
        return log_ndtr(normal) - log_ndtr(-normal)


class Reader(nnx.Module):
    """A network as a flow calls it: samples [B, N, 1] in, shift and log scale [B, N, 2] out."""

    def __init__(self, network: Network, dtype: str):
        self.network, self.dtype = network, dtype

    def __call__(self, x: jax.Array, cond: jax.Array) -> jax.Array:
        """x [B, N, 1], cond [B, N, M] -> [B, N, 2]."""
        return self.network(self.network.read(x[..., 0]).astype(self.dtype), cond.astype(self.dtype))
