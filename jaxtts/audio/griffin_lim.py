"""From spectrograms back to samples without a network: mel inversion and Griffin-Lim in JAX.

Griffin and Lim 1984, with the momentum of Perraudin, Balazs and Sondergaard 2013 ("A fast Griffin-Lim algorithm"),
as in `librosa.griffinlim` (momentum 0.99; 0 is the original). The mel filters are inverted by non-negative least
squares, as in `librosa.feature.inverse.mel_to_stft`, here with the multiplicative updates of Lee and Seung 2001,
which stay non-negative and are two small matrix products each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from . import features
from .spec import MelSpec
from .stft import istft, stft

_TINY = 1e-12


def mel_to_linear(mel: Array, spec: MelSpec, num_iters: int = 100) -> Array:
    """Magnitudes whose mel spectrogram is `mel`.

    Args:
        mel: [..., T, M] as `mel_spectrogram` makes them (logarithm and scaling included).
        spec: what the frames mean.
        num_iters: updates of the non-negative least squares.

    Returns:
        float32 magnitudes [..., T, n_fft // 2 + 1], without logarithm.
    """
    values = features.expand(jnp.asarray(mel, jnp.float32), spec, jnp)
    if spec.num_mels is not None:
        basis = jnp.asarray(features.mel_basis(spec))  # [F, M]
        target = jnp.matmul(values, basis.T, precision="highest")  # [..., T, F]

        def update(_: int, x: Array) -> Array:  # x <- x (B m) / (B B' x)
            fitted = jnp.matmul(jnp.matmul(x, basis, precision="highest"), basis.T, precision="highest")
            return x * target / (fitted + _TINY)

        values = jax.lax.fori_loop(0, num_iters, update, target)
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


def deemphasis(wave: Array, coefficient: float) -> Array:
    """Undoes the pre-emphasis: y[n] = x[n] + k y[n-1] along the last axis, in log depth."""
    gains = jnp.full_like(wave, coefficient)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    return jax.lax.associative_scan(combine, (gains, wave), axis=-1)[1]


def mel_to_wave(
    mel: Array, spec: MelSpec, *, num_iters: int = 32, momentum: float = 0.99, key: Array | None = None
) -> Array:
    """A rough voice for any spec: mel [..., T, M] -> wave [..., N]. Arguments as in `griffin_lim`."""
    wave = griffin_lim(mel_to_linear(mel, spec), spec, num_iters=num_iters, momentum=momentum, key=key)
    return deemphasis(wave, spec.preemphasis) if spec.preemphasis else wave
