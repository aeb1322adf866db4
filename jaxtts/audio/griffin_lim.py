"""From spectrograms back to samples without a network: mel inversion and Griffin-Lim in JAX.

Griffin and Lim 1984, with the momentum of Perraudin, Balazs and Sondergaard 2013 ("A fast Griffin-Lim algorithm"),
as in `librosa.griffinlim` (momentum 0.99; 0 is the original). The mel filters are inverted by non-negative least
squares, as in `librosa.feature.inverse.mel_to_stft`, here with accelerated projected gradient steps (FISTA, Beck and
Teboulle 2009), two small matrix products each, in place of L-BFGS.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtts.audio import features
from jaxtts.audio.spec import MelSpec
from jaxtts.audio.stft import istft, stft

_TINY = 1e-12


def _non_negative_least_squares(target: Array, basis: np.ndarray, num_iters: int) -> Array:
    """x >= 0 with x @ basis near target: [..., T, M] -> [..., T, F]. Filters are scaled to unit norm, which bounds the
    condition number whatever the mel scale."""
    norms = np.maximum(np.linalg.norm(basis, axis=0), 1e-12)
    basis, target = basis / norms, target / norms
    rate = 1.0 / float(np.linalg.eigvalsh(basis.T @ basis)[-1])

    def times(a: Array, b: np.ndarray) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def step(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, ahead, t = carry
        moved = jnp.maximum(ahead - rate * times(times(ahead, basis) - target, basis.T), 0.0)
        t_next = (1.0 + jnp.sqrt(1.0 + 4.0 * t * t)) / 2.0
        return moved, moved + (t - 1.0) / t_next * (moved - x), t_next

    start = rate * times(target, basis.T)
    return jax.lax.fori_loop(0, num_iters, step, (start, start, jnp.float32(1.0)))[0]


def mel_to_linear(mel: Array, spec: MelSpec, num_iters: int = 60) -> Array:
    """Magnitudes whose mel spectrogram is `mel`.

    Args:
        mel: [..., T, M] as `mel_spectrogram` makes them (logarithm and scaling included).
        spec: what the frames mean.
        num_iters: steps of the non-negative least squares.

    Returns:
        float32 magnitudes [..., T, n_fft // 2 + 1], without logarithm.
    """
    values = features.expand(jnp.asarray(mel, jnp.float32), spec, jnp)
    if spec.num_mels is not None:
        values = _non_negative_least_squares(values, features.mel_basis(spec), num_iters)
    values = jnp.sqrt(values) if spec.power == 2 else values
    return values * jnp.sqrt(jnp.square(features.hann(spec.win_length)).sum()) if spec.window_norm else values


def griffin_lim(
    magnitude: Array, spec: MelSpec, *, num_iters: int = 32, momentum: float = 0.99, key: Array | None = None
) -> Array:
    """Samples whose STFT has the given magnitudes.

    Args:
        magnitude: [..., T, n_fft // 2 + 1], without logarithm.
        spec: gives n_fft, hop, window and padding.
        num_iters: inverse and forward transforms.
        momentum: of the fast variant; 0 is the original algorithm.
        key: draws the initial phases; None starts from the fixed key 0 (deterministic).

    Returns:
        wave float32 [..., N], T * hop samples for 'same' padding, (T - 1) * hop for 'center'.
    """
    shape = (spec.n_fft, spec.hop_length, spec.win_length, spec.padding)
    key = jax.random.key(0) if key is None else key
    phase = jnp.exp(1j * jax.random.uniform(key, magnitude.shape, maxval=2 * jnp.pi))

    def step(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        phase, previous = carry
        rebuilt = stft(istft(magnitude * phase, *shape), *shape, spec.pad_mode)
        ahead = rebuilt - momentum / (1.0 + momentum) * previous
        return ahead / (jnp.abs(ahead) + _TINY), rebuilt

    phase, _ = jax.lax.fori_loop(0, num_iters, step, (phase, jnp.zeros_like(phase)))
    return istft(magnitude * phase, *shape)


def emphasized(wave: Array, coefficient: float) -> Array:
    """y[n] = x[n] - k x[n-1] of [B, N], the first sample standing for what lies ahead of it.

    Were that silent, a segment cut from a recording would begin with a click.
    """
    ahead = jnp.pad(wave, ((0, 0), (1, 0)), mode="edge")[:, :-1]
    return wave - coefficient * ahead


def deemphasis(wave: Array, coefficient: float) -> Array:
    """Undoes the pre-emphasis, y[n] = x[n] + k y[n-1] along the last axis: a convolution with k^n by FFT."""
    if not coefficient:
        return wave
    length = wave.shape[-1]
    response = np.fft.rfft(coefficient ** np.arange(length), 2 * length).astype(np.complex64)
    return jnp.fft.irfft(jnp.fft.rfft(wave, 2 * length) * response, 2 * length)[..., :length]


def mel_to_wave(
    mel: Array, spec: MelSpec, *, num_iters: int = 32, momentum: float = 0.99, key: Array | None = None
) -> Array:
    """A rough voice for any spec: mel [..., T, M] -> wave [..., N]. Arguments as in `griffin_lim`."""
    wave = griffin_lim(mel_to_linear(mel, spec), spec, num_iters=num_iters, momentum=momentum, key=key)
    return deemphasis(wave, spec.preemphasis)
