"""Frames to samples by filters over time and frequency with one channel in and out, in polyphase form.

Each sample is a weighted sum of three frames (and of their neighbouring bins), so nothing is repeated first; a filter
becomes a table [3, scale, F] of the frame before, the frame and the frame after, for each place in the frame.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.nn.conv import add_kernel, effective_kernel


class Stretch(nnx.Module):
    """Each frame repeated `scale` times, then smoothed over 2 * scale + 1 places.

    As r9y9/wavenet_vocoder, kan-bayashi/ParallelWaveGAN and fatchord/WaveRNN have it.

    Parameter `kernel` [W, F, 1], or `v` and `g` [1] with weight norm; it starts as the mean of what it reads.

    Args:
        bins: F, the neighbouring bins that are smoothed too, odd.
    """

    def __init__(self, scale: int, bins: int = 1, *, weight_norm: bool = False):
        self.scale = scale
        add_kernel(self, jnp.full((2 * scale + 1, bins, 1), 1.0 / (bins * (2 * scale + 1))), weight_norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, M] -> [B, T * scale, M]."""
        kernel, s = effective_kernel(self)[..., 0], self.scale  # [W, F]
        place = np.arange(s)[:, None] + np.arange(2 * s + 1) - s  # [scale, W]: of what a tap reads, in repeated frames
        frames = jax.nn.one_hot(place // s + 1, 3)  # [scale, W, 3]
        return _interpolate(x, jnp.einsum("pwd,wf->dpf", frames, kernel))


class Transposed(nnx.Module):
    """torch's ConvTranspose2d of kernel (F, 2 * scale), stride (1, scale) (ClariNet as ksw0306 has it).

    Parameters `kernel` [2 * scale, F, 1], or `v` and `g` [1] with weight norm, and `bias` [1].
    """

    def __init__(self, scale: int, bins: int = 3, *, weight_norm: bool = False):
        if scale % 2:
            raise ValueError(f"scale={scale} must be even")
        self.scale = scale
        add_kernel(self, jnp.full((2 * scale, bins, 1), 0.5 / bins), weight_norm)
        self.bias = nnx.Param(jnp.zeros((1,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, M] -> [B, T * scale, M]."""
        kernel, s = effective_kernel(self)[..., 0], self.scale
        tap = np.arange(s) + s // 2 - s * np.arange(-1, 2)[:, None]  # [3, scale]
        taken = jax.nn.one_hot(tap, 2 * s)  # no tap, no weight
        return _interpolate(x, jnp.einsum("dpw,wf->dpf", taken, kernel[:, ::-1])) + self.bias[...]


def _interpolate(x: jax.Array, table: jax.Array) -> jax.Array:
    """x [B, T, M], table [3, scale, F] -> [B, T * scale, M]; zeros lie around x."""
    _, scale, bins = table.shape
    batch, frames, width = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (bins // 2, bins // 2)))
    y = jnp.zeros((batch, frames, scale, width), x.dtype)
    for d in range(3):
        for f in range(bins):
            y = y + table[d, :, f].astype(x.dtype)[:, None] * x[:, d : d + frames, None, f : f + width]
    return y.reshape(batch, frames * scale, width)
