"""Takes a vocoder's own hum out of what it says: its spectrum is subtracted from every frame's magnitudes.

Matches `Denoiser` of NVIDIA/waveglow: the hum is what the vocoder makes of a mel of zeros without noise. Works for any
vocoder; for a flow (WaveGlow) strengths of 0.01 to 0.1 are usual.
"""

import jax
import jax.numpy as jnp

from jaxtts.audio.stft import istft, stft

N_FFT, HOP = 1024, 256


def bias_spectrum(hum: jax.Array) -> jax.Array:
    """Magnitudes of the first frame of a vocoder's hum.

    Args:
        hum: samples [N], N above 512: `infer` of a mel of zeros, with `sigma=0` where it reads noise.

    Returns:
        [513].
    """
    return jnp.abs(stft(hum, N_FFT, HOP)[0])


def denoise(wave: jax.Array, bias_spectrum: jax.Array, strength: float | jax.Array) -> jax.Array:
    """Subtracts `strength` times the spectrum from the magnitudes, down to zero, and keeps the phases.

    Args:
        wave: samples [..., N], N above 512.
        bias_spectrum: [513], see `bias_spectrum`.
        strength: 0 leaves the wave as it is.

    Returns:
        [..., N].
    """
    length = wave.shape[-1]
    padded = jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, -length % HOP)])
    spectrum = stft(padded, N_FFT, HOP)  # [..., T, F]
    magnitude = jnp.abs(spectrum)
    kept = jnp.maximum(magnitude - strength * bias_spectrum, 0.0)
    scale = jnp.where(magnitude > 0, kept / jnp.where(magnitude > 0, magnitude, 1.0), 0.0)
    return istft(spectrum * scale, N_FFT, HOP)[..., :length]
