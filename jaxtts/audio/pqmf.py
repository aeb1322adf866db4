"""A pseudo-QMF bank: a wave as K sub-bands at a K-th of its rate, and back, nearly without loss.

Papers: Nguyen 1994, "Near-perfect-reconstruction pseudo-QMF banks" (cosine modulation); Lin and Vaidyanathan 1998 (the
Kaiser-windowed prototype); Yu et al. 2020, arXiv 2005.05106 (its use in multi-band MelGAN). Reference matched:
kan-bayashi/ParallelWaveGAN `layers/pqmf.py`, zeros at both ends included. Difference: both ways are one convolution
over blocks of K samples, so nothing is computed that decimation drops and no zeros of the interpolation are multiplied.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Pqmf:
    """The bank. Another number of bands needs another cutoff: each band is Nyquist / `num_bands` wide.

    Attributes:
        num_bands: K.
        taps: order of the prototype filter, even; it has `taps + 1` coefficients.
        cutoff: of the prototype, relative to Nyquist; the default suits four bands.
        beta: of its Kaiser window.
    """

    num_bands: int = 4
    taps: int = 62
    cutoff: float = 0.142
    beta: float = 9.0

    def __post_init__(self):
        if self.num_bands < 2:
            raise ValueError(f"pqmf.num_bands={self.num_bands}: give at least 2")
        if self.taps < 2 or self.taps % 2:
            raise ValueError(f"pqmf.taps={self.taps}: give a positive even number")
        if not 0 < self.cutoff < 1:
            raise ValueError(f"pqmf.cutoff={self.cutoff}: give a part of the Nyquist frequency, between 0 and 1")

    @property
    def reach(self) -> int:
        """Samples on each side of a sample that a filter sees."""
        return self.taps // 2


@functools.lru_cache(maxsize=8)
def filters(bank: Pqmf) -> tuple[np.ndarray, np.ndarray]:
    """Analysis and synthesis filters [K, taps + 1] each, float64, centred, to be correlated with."""
    place = np.arange(bank.taps + 1) - bank.reach
    prototype = bank.cutoff * np.sinc(bank.cutoff * place) * np.kaiser(bank.taps + 1, bank.beta)
    band = np.arange(bank.num_bands)[:, None]
    angle, shift = (2 * band + 1) * np.pi / (2 * bank.num_bands) * place, (-1.0) ** band * np.pi / 4
    return 2 * prototype * np.cos(angle + shift), 2 * prototype * np.cos(angle - shift)


def analysis(wave: Array | np.ndarray, bank: Pqmf) -> Array:
    """Wave [B, N] -> sub-bands [B, N / K, K], the lowest first.

    Raises:
        ValueError: the samples do not fill blocks of K.
    """
    bands, reach = bank.num_bands, bank.reach
    if wave.shape[1] % bands:
        raise ValueError(f"{wave.shape[1]} samples do not divide into {bands} bands: pad them to a multiple of it")
    kernel = filters(bank)[0].T  # [taps + 1, K]
    kernel = np.pad(kernel, ((0, -len(kernel) % bands), (0, 0)))
    padded = jnp.pad(wave, ((0, 0), (reach, len(kernel) - bands - reach)))
    return _convolved(padded.reshape(len(wave), -1, bands), kernel.reshape(-1, bands, bands))


def synthesis(subbands: Array | np.ndarray, bank: Pqmf) -> Array:
    """Sub-bands [B, N / K, K] -> wave [B, N]."""
    bands, reach = bank.num_bands, bank.reach
    ahead, behind = reach // bands, (reach + bands - 1) // bands  # blocks that a block's samples are made of
    tap = reach + bands * np.arange(-ahead, behind + 1)[:, None] - np.arange(bands)  # [blocks, K]: of each sample
    kernel = bands * filters(bank)[1][:, tap.clip(0, bank.taps)] * ((tap >= 0) & (tap <= bank.taps))
    padded = jnp.pad(subbands, ((0, 0), (ahead, behind), (0, 0)))
    return _convolved(padded, kernel.swapaxes(0, 1)).reshape(len(subbands), -1)


def _convolved(x: Array, kernel: np.ndarray) -> Array:
    """[B, T, I] with [W, I, O] -> [B, T - W + 1, O] in float32; as a 2-D convolution, which XLA runs faster on CPU."""
    return jax.lax.conv_general_dilated(
        x[:, None].astype(jnp.float32),
        jnp.asarray(kernel[None], jnp.float32),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )[:, 0]
