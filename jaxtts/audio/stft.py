"""STFT, inverse STFT and spectrograms in JAX: pure, batched, jittable, differentiable functions.

The arithmetic is that of `features.py`. `istft` follows torch's 'center' and the 'same' padding of Vocos
(gemelo-ai/vocos, `ISTFT`); its overlap-add is a sum of shifted reshapes, without scatter or fold. Mel filters are
applied in full float32 precision on every backend, bfloat16 input is computed in float32. Where a mesh is set
(`jax.set_mesh`) and divides the batch, each device transforms the rows it has: jax 0.10 by itself would gather all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtts.audio import features
from jaxtts.audio.spec import MelSpec


def _padding(padding: str, n_fft: int, hop_length: int) -> int:
    if padding not in ("same", "center"):
        raise ValueError(f"padding is {padding!r}; choose 'same' or 'center'")
    if padding == "same" and (n_fft - hop_length) % 2:
        raise ValueError(f"padding 'same' needs an even n_fft - hop_length, got {n_fft} - {hop_length}")
    return (n_fft - hop_length if padding == "same" else n_fft) // 2


def _where_it_lies(transform: Callable[[Array], Array], x: Array) -> Array:
    """`transform(x)`, x [B, ...], done by each device of the mesh in force on its own rows."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or x.ndim < 2 or x.shape[0] % mesh.size:
        return transform(x)
    rows = jax.sharding.PartitionSpec(mesh.axis_names)
    return jax.shard_map(transform, in_specs=rows, out_specs=rows)(x)


def stft(
    x: Array, n_fft: int, hop_length: int, win_length: int | None = None, padding: str = "center",
    pad_mode: str = "reflect",
) -> Array:  # fmt: skip
    """The short-time Fourier transform with a periodic Hann window.

    Args:
        x: samples [..., N].
        n_fft, hop_length, win_length: in samples; the window (default `n_fft`) is centred in `n_fft`.
        padding: 'center' (n_fft / 2 on both sides, 1 + N // hop frames) or 'same' ((n_fft - hop) / 2, N // hop frames).
        pad_mode: 'reflect' or 'constant'.

    Returns:
        complex64 [..., T, n_fft // 2 + 1].

    Raises:
        ValueError: too few samples, or an unknown padding.
    """
    pad = _padding(padding, n_fft, hop_length)
    how = (n_fft, hop_length, win_length or n_fft, pad, pad_mode, jnp)
    return _where_it_lies(lambda x: features.complex_spectrum(x, *how), x)


def overlap_add(frames: Array, hop_length: int) -> Array:
    """Adds frames [..., T, W] at distance `hop_length` -> [..., (T - 1) * hop + ceil(W / hop) * hop]."""
    *batch, num_frames, length = frames.shape
    count = -(-length // hop_length)
    frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(0, count * hop_length - length)])
    frames = frames.reshape(*batch, num_frames, count, hop_length)
    still = [(0, 0)] * len(batch)
    shifted = [jnp.pad(frames[..., k, :], [*still, (k, count - 1 - k), (0, 0)]) for k in range(count)]
    return functools.reduce(jnp.add, shifted).reshape(*batch, -1)  # [..., N]


def _envelope(num_frames: int, n_fft: int, hop_length: int, win_length: int) -> np.ndarray:
    window = np.pad(np.square(features.hann(win_length)), (n_fft - win_length) // 2)
    envelope = np.zeros((num_frames - 1) * hop_length + n_fft)
    for t in range(num_frames):
        envelope[t * hop_length : t * hop_length + len(window)] += window
    return envelope.astype(np.float32)


def istft(
    spectrum: Array, n_fft: int, hop_length: int, win_length: int | None = None, padding: str = "center",
    length: int | None = None,
) -> Array:  # fmt: skip
    """The inverse of `stft`: windowed overlap-add divided by the sum of squared windows.

    Args:
        spectrum: complex [..., T, n_fft // 2 + 1].
        n_fft, hop_length, win_length, padding: as in `stft`.
        length: samples to return; by default T * hop for 'same', (T - 1) * hop for 'center'.

    Returns:
        float32 [..., N].
    """
    win_length = win_length or n_fft
    left, pad, num_frames = (n_fft - win_length) // 2, _padding(padding, n_fft, hop_length), spectrum.shape[-2]
    full = (num_frames - 1) * hop_length + n_fft
    length = full - 2 * pad if length is None else min(length, full - pad)
    frames = _where_it_lies(lambda x: jnp.fft.irfft(x, n_fft), spectrum)  # [..., T, n_fft]
    frames = frames[..., left : left + win_length] * features.hann(win_length)  # [..., T, W]
    samples = overlap_add(frames, hop_length)[..., : full - left]
    samples = jnp.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(left, full - left - samples.shape[-1])])
    envelope = _envelope(num_frames, n_fft, hop_length, win_length)[pad : pad + length]
    return samples[..., pad : pad + length] / np.where(envelope > 1e-11, envelope, 1.0)


def linear_spectrogram(wave: Array, spec: MelSpec) -> Array:
    """The linear spectrogram with `spec`'s logarithm: wave [..., N] in [-1, 1] -> float32 [..., T, n_fft // 2 + 1]."""
    return features.compress(_spectrogram(wave, spec), spec, jnp)


def padded_linear_spectrogram(wave: Array, lengths: Array, spec: MelSpec) -> Array:
    """Linear spectrograms of a padded batch, each as if it were alone: reflected at its own end.

    Args:
        wave: [B, T * hop]; lengths: samples [B], multiples of the hop.

    Returns:
        [B, T, n_fft // 2 + 1]; what lies behind an item's end means nothing.
    """
    if spec.preemphasis:  # ahead of the reflection
        wave = jnp.concatenate([wave[:, :1], wave[:, 1:] - spec.preemphasis * wave[:, :-1]], axis=1)
        spec = spec.replace(preemphasis=0.0)
    reach, frames = spec.pad, wave.shape[1] // spec.hop_length
    room = -(-reach // spec.hop_length) * spec.hop_length
    padded = jnp.pad(wave, ((0, 0), (0, room)))

    def mirrored(item: Array, backwards: Array, length: Array) -> Array:
        behind = jax.lax.dynamic_slice_in_dim(backwards, len(item) - length + 1, reach)
        return jax.lax.dynamic_update_slice_in_dim(item, behind, length, 0)

    backwards = jnp.pad(padded[:, ::-1], ((0, 0), (0, reach)))
    return linear_spectrogram(jax.vmap(mirrored)(padded, backwards, lengths), spec)[:, :frames]


def linear_to_mel(values: Array, spec: MelSpec) -> Array:
    """Mel filters and logarithm on magnitudes without logarithm: [..., T, n_fft // 2 + 1] -> [..., T, M]."""
    if spec.num_mels is not None:
        values = jnp.matmul(values, features.mel_basis(spec), precision=jax.lax.Precision.HIGHEST)
    return features.compress(values, spec, jnp)


def mel_spectrogram(wave: Array, spec: MelSpec) -> Array:
    """The mel spectrogram: wave [..., N] in [-1, 1] -> float32 [..., T, M] (linear bins where `spec` has no filters).

    Raises:
        ValueError: too few samples for one frame.
    """
    return linear_to_mel(_spectrogram(wave, spec), spec)


def _spectrogram(wave: Array, spec: MelSpec) -> Array:
    return _where_it_lies(lambda x: features.spectrogram(x, spec, jnp), wave)
