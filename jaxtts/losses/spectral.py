"""Losses between spectrograms of waves.

`mel_l1`: HiFi-GAN's mel-spectrogram loss (Kong et al. 2020, arXiv 2010.05646, equation 8), as jik876/hifi-gan computes
it before its weight of 45. `multi_resolution_stft`: spectral convergence and log magnitude over several resolutions
(Yamamoto et al. 2020, arXiv 1910.11480, equations 6-9), as kan-bayashi/ParallelWaveGAN computes it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxtts.audio import features
from jaxtts.audio.spec import MelSpec
from jaxtts.audio.stft import mel_spectrogram

# (n_fft, hop_length, win_length) of Parallel WaveGAN
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


def mel_l1(prediction: Array, target: Array, spec: MelSpec) -> Array:
    """The mean absolute difference of two waves' mel spectrograms, a scalar.

    Args:
        prediction, target: waves [B, N].
        spec: usually the model's spec up to Nyquist, `mel_spec('hifigan').full_band()`.
    """
    return jnp.abs(mel_spectrogram(prediction, spec) - mel_spectrogram(target, spec)).mean()


def stft_losses(prediction: Array, target: Array, n_fft: int, hop_length: int, win_length: int) -> tuple[Array, Array]:
    """Spectral convergence and log-magnitude distance at one resolution, two scalars.

    Spectral convergence is the ratio of Frobenius norms over the whole batch, and magnitudes are clipped at
    sqrt(1e-7), both as in the reference.
    """
    predicted, real = (
        jnp.sqrt(jnp.maximum(features.power_spectrum(x, n_fft, hop_length, win_length, n_fft // 2, xp=jnp), 1e-7))
        for x in (prediction, target)
    )
    convergence = jnp.linalg.norm((real - predicted).ravel()) / jnp.linalg.norm(real.ravel())
    return convergence, jnp.abs(jnp.log(real) - jnp.log(predicted)).mean()


def multi_resolution_stft(
    prediction: Array, target: Array, resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS
) -> tuple[Array, Array]:
    """The mean over `resolutions` of spectral convergence and of log-magnitude distance, two scalars.

    Args:
        prediction, target: waves [B, N].
        resolutions: (n_fft, hop_length, win_length) each.
    """
    losses = [stft_losses(prediction, target, *resolution) for resolution in resolutions]
    convergence, magnitude = (jnp.stack(values).mean() for values in zip(*losses, strict=True))
    return convergence, magnitude


def stft_magnitudes(wave: Array, n_fft: int = 1024, hop_length: int = 256, *, windowed: bool = True) -> Array:
    """sqrt(|STFT|^2 + 1e-10) of waves [B, N], centred -> [B, 1 + N // hop, n_fft // 2 + 1].

    Args:
        windowed: a Hann window; False for none, as ksw0306/ClariNet has it.
    """
    x = jnp.pad(wave, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = features.frame(x, n_fft, hop_length, 1 + (x.shape[1] - n_fft) // hop_length, jnp)
    spectrum = jnp.fft.rfft(frames * features.hann(n_fft) if windowed else frames)
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + 1e-10)


def magnitude_mse(prediction: Array, target: Array, *, windowed: bool = True, time_averaged: bool = False) -> Array:
    """The mean squared difference of two waves' STFT magnitudes, a scalar.

    ClariNet's frame loss (arXiv 1807.07281 sec. 3.4); of time averages the power loss of Parallel WaveNet (arXiv
    1711.10433 sec. 4.2) with magnitudes in place of powers, whose squares teach nothing but the loudest bins.

    Args:
        prediction, target: waves [B, N].
        windowed: see `stft_magnitudes`.
        time_averaged: compare the means over time.
    """
    a, b = (stft_magnitudes(x, windowed=windowed) for x in (prediction, target))
    if time_averaged:
        a, b = a.mean(axis=1), b.mean(axis=1)
    return jnp.mean(jnp.square(a - b))
