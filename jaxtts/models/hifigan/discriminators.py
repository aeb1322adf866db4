"""Discriminators of waves: multi-period, multi-scale (HiFi-GAN), multi-resolution (UnivNet, Vocos), dilated (PWGAN).

Papers: HiFi-GAN, arXiv 2010.05646, sections 2.3 and B; UnivNet, arXiv 2106.07889; Vocos, arXiv 2306.00814. References
matched: jik876/hifi-gan for the first two, gemelo-ai/vocos for the third. Differences:

* A period discriminator's (k, 1) convolutions run as 1-D ones with the period folded into the batch, so its feature
  maps are [B * p, T / p, C].
* The spectral norm's singular vectors move in `power_iteration`, once a step; the reference moves them at each of the
  four calls of a step.
* The resolution discriminator's magnitudes carry an epsilon, so that the gradient of silence is finite; its spectrogram
  has a Hann window, the reference's has none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import stft
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import Tree, remat, weight_normed

Maps = list[jax.Array]  # feature maps of one sub-discriminator, the score map, float32, last
SLOPE = 0.1
EPSILON = 1e-12


class Discriminators(nnx.Module):
    """All families of a `GanConfig`.

    Args:
        dtype: of the feature maps.
        remat: keep each sub-discriminator's wave and feature maps alone for the way back.
    """

    def __init__(self, config: GanConfig, *, dtype: str = "float32", remat: bool = False, rngs: nnx.Rngs):
        self.families = config.discriminators
        how: dict[str, Any] = {"dtype": dtype, "remat": remat, "rngs": rngs}
        if "period" in self.families:
            self.period = MultiPeriodDiscriminator(config.periods, config.period_channels, **how)
        if "scale" in self.families:
            self.scale = MultiScaleDiscriminator(config, **how)
        if "resolution" in self.families:
            self.resolution = MultiResolutionDiscriminator(config.resolutions, config.resolution_channels, **how)
        if "dilated" in self.families:
            self.dilated = DilatedDiscriminator(config.dilated_layers, config.dilated_channels, **how)

    def __call__(self, wave: jax.Array) -> dict[str, list[Maps]]:
        """[B, N] -> family -> sub-discriminator -> feature maps [rows, ..., C], the score map last."""
        return {family: getattr(self, family)(wave) for family in self.families}


class DilatedDiscriminator(nnx.Module):
    """Parallel WaveGAN's (arXiv 1910.11480 section 3.2): convolutions over samples, dilated by 1, 1, 2, 3, ..., 1."""

    def __init__(self, num_layers: int, channels: int, *, dtype: str = "float32", remat: bool = False, rngs: nnx.Rngs):
        self.dtype, self.remat = dtype, remat
        dilations = [max(1, i) for i in range(num_layers - 1)]
        inputs = (1, *[channels] * (num_layers - 2))
        self.convs = nnx.List(
            [Conv1d(i, channels, 3, dilation=d, weight_norm=True, rngs=rngs) for i, d in zip(inputs, dilations)]
        )
        self.conv_post = Conv1d(channels, 1, 3, weight_norm=True, rngs=rngs)

    def __call__(self, wave: jax.Array) -> list[Maps]:
        """[B, N] -> its feature maps [B, N, C]."""
        x = wave[..., None].astype(self.dtype)
        return [remat(lambda x: _maps(x, self.convs, self.conv_post, 0.2), self.remat)(x)]


class MultiPeriodDiscriminator(nnx.Module):
    """MPD: one discriminator for each period (section 2.3)."""

    def __init__(
        self,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        channels: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        *,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        self.discriminators = nnx.List([PeriodDiscriminator(p, channels, dtype=dtype, rngs=rngs) for p in periods])

    def __call__(self, wave: jax.Array) -> list[Maps]:
        """[B, N] -> feature maps [B * p, T / p, C] of each period."""
        return [remat(discriminator, self.remat)(wave) for discriminator in self.discriminators]


class PeriodDiscriminator(nnx.Module):
    """Looks at every p-th sample."""

    def __init__(self, period: int, channels: tuple[int, ...], *, dtype: str = "float32", rngs: nnx.Rngs):
        self.period, self.dtype = period, dtype
        strides = (3,) * (len(channels) - 1) + (1,)
        self.convs = nnx.List(
            [
                Conv1d(i, o, 5, stride=stride, weight_norm=True, rngs=rngs)
                for i, o, stride in zip((1, *channels), channels, strides)
            ]
        )
        self.conv_post = Conv1d(channels[-1], 1, 3, weight_norm=True, rngs=rngs)

    def __call__(self, wave: jax.Array) -> Maps:
        batch, period = wave.shape[0], self.period
        x = jnp.pad(wave, ((0, 0), (0, -wave.shape[1] % period)), mode="reflect")
        x = x.reshape(batch, -1, period).transpose(0, 2, 1).reshape(batch * period, -1, 1)  # [B * p, T / p, 1]
        return _maps(x.astype(self.dtype), self.convs, self.conv_post)


class MultiScaleDiscriminator(nnx.Module):
    """MSD: the raw wave under spectral norm, then the wave pooled by 2, 4, ... under weight norm (section 2.3)."""

    def __init__(
        self,
        config: GanConfig,
        *,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        self.discriminators = nnx.List(
            [
                ScaleDiscriminator(config, spectral_norm=s == 0 and config.scale_spectral_norm, dtype=dtype, rngs=rngs)
                for s in range(config.num_scales)
            ]
        )

    def __call__(self, wave: jax.Array) -> list[Maps]:
        """[B, N] -> feature maps [B, T, C] of each scale."""
        maps = []
        for number, discriminator in enumerate(self.discriminators, 1):
            maps.append(remat(discriminator, self.remat)(wave))
            if number == len(self.discriminators):
                break
            padded = jnp.pad(wave, ((0, 0), (2, 2)))
            last = 2 * (wave.shape[1] // 2) + 1
            wave = jnp.stack([padded[:, k : k + last : 2] for k in range(4)]).mean(0)  # of 4 at stride 2, zeros count
        return maps


class ScaleDiscriminator(nnx.Module):
    """Convolutions over time, most of them grouped."""

    def __init__(self, config: GanConfig, *, spectral_norm: bool = False, dtype: str = "float32", rngs: nnx.Rngs):
        self.dtype = dtype
        channels = config.scale_channels

        def conv(i: int, o: int, width: int, stride: int = 1, groups: int = 1) -> nnx.Module:
            if spectral_norm:
                return SpectralConv1d(i, o, width, stride=stride, groups=groups, rngs=rngs)
            return Conv1d(i, o, width, stride=stride, groups=groups, weight_norm=True, rngs=rngs)

        layers = zip((1, *channels), channels, config.scale_kernel_sizes, config.scale_strides, config.scale_groups)
        self.convs = nnx.List([conv(*layer) for layer in layers])
        self.conv_post = conv(channels[-1], 1, 3)

    def __call__(self, wave: jax.Array) -> Maps:
        return _maps(wave[..., None].astype(self.dtype), self.convs, self.conv_post)


class MultiResolutionDiscriminator(nnx.Module):
    """MRD: one discriminator for each spectrogram (UnivNet section 2.2)."""

    def __init__(
        self,
        resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (2048, 512), (512, 128)),
        channels: int = 64,
        *,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        self.discriminators = nnx.List(
            [ResolutionDiscriminator(*r, channels, dtype=dtype, rngs=rngs) for r in resolutions]
        )

    def __call__(self, wave: jax.Array) -> list[Maps]:
        """[B, N] -> feature maps [B, T, F, C] of each resolution."""
        return [remat(discriminator, self.remat)(wave) for discriminator in self.discriminators]


class ResolutionDiscriminator(nnx.Module):
    """Two-dimensional convolutions over a magnitude spectrogram."""

    def __init__(self, n_fft: int, hop_length: int, channels: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.n_fft, self.hop_length, self.dtype = n_fft, hop_length, dtype
        shapes = (((5, 7), (2, 2)), ((3, 5), (1, 2)), ((3, 5), (2, 2)), ((3, 3), (1, 2)), ((3, 3), (2, 2)))
        self.convs = nnx.List(
            [
                Conv2d(channels if n else 1, channels, width, stride, rngs=rngs)
                for n, (width, stride) in enumerate(shapes)
            ]
        )
        self.conv_post = Conv2d(channels, 1, (3, 3), (1, 1), rngs=rngs)

    def __call__(self, wave: jax.Array) -> Maps:
        spectrum = stft(wave, self.n_fft, self.hop_length)
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        x = jnp.sqrt(power + 1e-9)[..., None].astype(self.dtype)  # [B, T, F, 1]
        return _maps(x, self.convs, self.conv_post)


class Conv2d(nnx.Module):
    """Weight-normed convolution over frames and bins, zero padded by half the (odd) kernel."""

    def __init__(self, in_channels: int, out_channels: int, width: tuple[int, int], stride: tuple[int, int], *, rngs):
        self.stride = stride
        self.padding = tuple((w // 2, w // 2) for w in width)
        bound = (in_channels * width[0] * width[1]) ** -0.5
        v = jax.random.uniform(rngs.params(), (*width, in_channels, out_channels), minval=-bound, maxval=bound)
        self.v = nnx.Param(v)
        self.g = nnx.Param(jnp.sqrt(jnp.sum(v**2, axis=(0, 1, 2))))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (out_channels,), minval=-bound, maxval=bound))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, F, I] -> [B, T', F', O]."""
        y = jax.lax.conv_general_dilated(
            x,
            weight_normed(self.v[...], self.g[...]).astype(x.dtype),
            self.stride,
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias.astype(x.dtype)


class SpectralConv1d(nnx.Module):
    """Convolution whose kernel is divided by its largest singular value (arXiv 1802.05957).

    The singular vectors `left` [O] and `right` [I * W] of the kernel are carried, not trained.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int, *, stride: int = 1, groups: int = 1, rngs: nnx.Rngs
    ):
        self.conv = Conv1d(in_channels, out_channels, width, stride=stride, groups=groups, bias=False, rngs=rngs)
        bound = (width * in_channels // groups) ** -0.5
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (out_channels,), minval=-bound, maxval=bound))
        left = _unit(jax.random.normal(rngs.params(), (out_channels,)))
        left, right = _iterate(self.conv.kernel[...], left)
        self.left, self.right = nnx.Variable(left), nnx.Variable(right)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, I] -> [B, T', O]."""
        kernel = self.conv.kernel[...]
        sigma = self.right[...] @ _matrix(kernel) @ self.left[...]
        return self.conv.convolve(x, kernel / sigma) + self.bias.astype(x.dtype)


def power_iteration(params: Tree, rest: Tree) -> Tree:
    """One step of every spectral norm's singular vectors: `rest` anew, to be done before each discriminator step."""
    if "left" in rest:
        left, right = _iterate(jax.lax.stop_gradient(params["conv"]["kernel"]), rest["left"])
        return {"left": left, "right": right}
    return {name: power_iteration(params[name], child) for name, child in rest.items()}


def _iterate(kernel: jax.Array, left: jax.Array) -> tuple[jax.Array, jax.Array]:
    matrix = _matrix(kernel)
    right = _unit(matrix @ left)
    return _unit(right @ matrix), right


def _matrix(kernel: jax.Array) -> jax.Array:
    return kernel.swapaxes(0, 1).reshape(-1, kernel.shape[-1])  # [I * W, O], flattened as the reference does


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), EPSILON)


def _maps(x: jax.Array, convs: Any, conv_post: Any, slope: float = SLOPE) -> Maps:
    maps = []
    for conv in convs:
        x = jax.nn.leaky_relu(conv(x), slope)
        maps.append(x)
    return [*maps, conv_post(x).astype(jnp.float32)]
