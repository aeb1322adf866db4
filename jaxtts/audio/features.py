"""Spectrograms with NumPy; the same functions run in JAX (`stft.py`) by passing `jax.numpy` as `xp`.

Matches the mel front ends of jik876/hifi-gan, NVIDIA/tacotron2, jaywalnut310/vits and Resemblyzer (golden tests).
Differences: the mel filters are computed here, not by `librosa.filters.mel` (equal to float32 rounding; the first call
of librosa's costs 0.7 s of CPU time, most of it importing numba, ours 0.01 s); only the window's samples are framed,
by slices where hop and window share a large divisor.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec

_MAX_SLICES = 32  # above this many slices per frame a gather is cheaper


def _hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(hz < 1000.0, hz * 3 / 200, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))


@functools.lru_cache(maxsize=64)
def mel_basis(spec: MelSpec) -> np.ndarray:
    """The triangular mel filters of `spec` [n_fft // 2 + 1, num_mels], float32, read-only.

    Equal to `librosa.filters.mel(...).T` (Slaney) and to torchaudio's `melscale_fbanks` (HTK, no norm).
    """
    if spec.num_mels is None:
        raise ValueError(f"mel spec {spec.name!r} is a linear spectrogram (num_mels is None) and has no mel filters")
    low, high = _hz_to_mel(np.array([spec.fmin, spec.high]), spec.mel_scale)
    edges = _mel_to_hz(np.linspace(low, high, spec.num_mels + 2), spec.mel_scale)  # [M + 2]
    bins = np.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1)[:, None]  # [F, 1]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]  # [F, M]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    basis = np.maximum(0.0, np.minimum(rising, falling))
    if spec.mel_norm == "slaney":
        basis *= 2.0 / (edges[2:] - edges[:-2])
    basis = basis.astype(np.float32)
    basis.flags.writeable = False
    return basis


@functools.lru_cache(maxsize=64)
def hann(length: int) -> np.ndarray:
    """The periodic Hann window [length], float32, read-only."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    window.flags.writeable = False
    return window


def frame(x: Any, length: int, hop: int, num_frames: int, xp: Any = np) -> Any:
    """Overlapping frames x[..., t * hop : t * hop + length] -> [..., num_frames, length]."""
    block = math.gcd(length, hop)
    if length // block > _MAX_SLICES:
        return x[..., np.arange(num_frames)[:, None] * hop + np.arange(length)]
    stride, count = hop // block, length // block
    num_blocks = (num_frames - 1) * stride + count
    blocks = x[..., : num_blocks * block].reshape(*x.shape[:-1], num_blocks, block)
    last = (num_frames - 1) * stride + 1
    return xp.concatenate([blocks[..., k : k + last : stride, :] for k in range(count)], axis=-1)


def complex_spectrum(
    x: Any, n_fft: int, hop_length: int, win_length: int, pad: int, pad_mode: str = "reflect", xp: Any = np
) -> Any:
    """The STFT of samples padded by `pad` on both sides: [..., N] -> complex64 [..., T, n_fft // 2 + 1].

    Raises:
        ValueError: fewer samples than one frame or than the reflection needs.
    """
    num_samples = x.shape[-1]
    needed = max(pad + 1 if pad_mode == "reflect" else 1, n_fft - 2 * pad)
    if num_samples < needed:
        raise ValueError(f"{num_samples} samples are too few for an STFT of {n_fft}: give at least {needed}")
    x = xp.pad(xp.asarray(x, dtype=np.float32), [(0, 0)] * (x.ndim - 1) + [(pad, pad)], mode=pad_mode)
    left = (n_fft - win_length) // 2
    frames = frame(x[..., left:], win_length, hop_length, 1 + (x.shape[-1] - n_fft) // hop_length, xp)  # [..., T, W]
    frames = xp.pad(frames * hann(win_length), [(0, 0)] * (x.ndim) + [(left, n_fft - win_length - left)])
    return xp.fft.rfft(frames)  # [..., T, F]


def power_spectrum(
    x: Any, n_fft: int, hop_length: int, win_length: int, pad: int, pad_mode: str = "reflect", xp: Any = np
) -> Any:
    """re^2 + im^2 of `complex_spectrum`: [..., N] -> float32 [..., T, n_fft // 2 + 1]."""
    spectrum = complex_spectrum(x, n_fft, hop_length, win_length, pad, pad_mode, xp)
    return xp.square(spectrum.real) + xp.square(spectrum.imag)


def spectrogram(wave: Any, spec: MelSpec, xp: Any = np) -> Any:
    """Magnitudes (powers for `spec.power` 2), before mel filters and logarithm: [..., N] -> [..., T, F]."""
    wave = xp.asarray(wave, dtype=np.float32)
    if spec.preemphasis:
        wave = xp.concatenate([wave[..., :1], wave[..., 1:] - np.float32(spec.preemphasis) * wave[..., :-1]], axis=-1)
    power = power_spectrum(wave, spec.n_fft, spec.hop_length, spec.win_length, spec.pad, spec.pad_mode, xp)
    if spec.window_norm:
        power = power / np.float32(np.square(hann(spec.win_length)).sum())
    if spec.power == 2:
        return power
    if spec.magnitude_eps:
        return xp.sqrt(power + np.float32(spec.magnitude_eps))
    silent = power <= 0  # the root of the safe value keeps the gradient of a silent bin finite: zero
    return xp.where(silent, 0.0, xp.sqrt(xp.where(silent, 1.0, power))).astype(np.float32)


def compress(values: Any, spec: MelSpec, xp: Any = np) -> Any:
    """The logarithm and the scaling of `spec`."""
    if spec.mean is not None:
        levels = compress(values, spec.replace(mean=None, scale=None), xp)
        return (levels - np.asarray(spec.mean, np.float32)) / np.asarray(spec.scale, np.float32)
    if spec.log is None:
        return values
    values = xp.maximum(values, np.float32(spec.clip))
    if spec.log == "ln":
        return xp.log(values)
    if spec.log == "log10":
        return xp.log10(values)
    decibels = 20.0 * xp.log10(values) - spec.ref_db
    if spec.value_range is None:
        return decibels
    low, high = spec.value_range
    return xp.clip(low + (high - low) * (decibels / -spec.min_db + 1.0), low, high)


def expand(values: Any, spec: MelSpec, xp: Any = np) -> Any:
    """The inverse of `compress`, above the clip: magnitudes (or powers)."""
    if spec.mean is not None:
        values = values * np.asarray(spec.scale, np.float32) + np.asarray(spec.mean, np.float32)
        return expand(values, spec.replace(mean=None, scale=None), xp)
    if spec.log is None:
        return values
    if spec.log == "ln":
        return xp.exp(values)
    if spec.value_range is not None:
        low, high = spec.value_range
        values = ((xp.clip(values, low, high) - low) / (high - low) - 1.0) * -spec.min_db
    return 10.0 ** ((values + spec.ref_db) / 20.0 if spec.log == "db" else values)


def linear_spectrogram_np(wave: np.ndarray, spec: MelSpec) -> np.ndarray:
    """The linear spectrogram with `spec`'s logarithm: [..., N] in [-1, 1] -> float32 [..., T, n_fft // 2 + 1]."""
    return compress(spectrogram(wave, spec), spec)


def mel_spectrogram_np(wave: np.ndarray, spec: MelSpec) -> np.ndarray:
    """The mel spectrogram: [..., N] in [-1, 1] -> float32 [..., T, M] (linear bins where `spec` has no mel filters).

    Raises:
        ValueError: too few samples for one frame.
    """
    values = spectrogram(wave, spec)
    return compress(values if spec.num_mels is None else values @ mel_basis(spec), spec)
