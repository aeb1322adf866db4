import jax
import numpy as np
import pytest
from scipy.signal import lfilter

from jaxtts.audio import features
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.audio.griffin_lim import deemphasis, griffin_lim, mel_to_linear, mel_to_wave
from jaxtts.audio.spec import mel_spec


def harmonics(rate, seconds=0.6):
    t = np.arange(int(rate * seconds)) / rate
    pitch = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 2 * t)) / rate
    return sum(0.2 / k * np.sin(k * pitch) for k in range(1, 20)).astype(np.float32)


def convergence(wave, magnitude, spec):
    rebuilt = features.spectrogram(np.asarray(wave), spec)
    return np.linalg.norm(rebuilt - magnitude) / np.linalg.norm(magnitude)


def test_momentum_beats_the_original_which_beats_random_phases():
    spec = mel_spec("hifigan")
    magnitude = features.spectrogram(harmonics(spec.sample_rate), spec)
    errors = [
        convergence(griffin_lim(magnitude, spec, num_iters=n, momentum=m), magnitude, spec)
        for n, m in ((0, 0.0), (30, 0.0), (30, 0.99))
    ]
    assert errors[2] < errors[1] < 0.5 * errors[0] and errors[2] < 0.15, errors


def test_key_decides_the_phases():
    spec = mel_spec("ge2e")
    magnitude = features.spectrogram(harmonics(spec.sample_rate, 0.2), spec)
    once = jax.jit(lambda key: griffin_lim(magnitude, spec, num_iters=2, key=key))
    first, again = (once(None) for _ in range(2))
    other = once(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("name", ["hifigan", "rtvc", "wavegrad_lmnt", "ge2e", "vits_linear"])
def test_mel_to_linear_has_the_same_mel(name):
    spec = mel_spec(name)
    mel = mel_spectrogram_np(harmonics(spec.sample_rate), spec)
    linear = np.asarray(mel_to_linear(mel, spec))
    assert linear.shape == (len(mel), spec.n_fft // 2 + 1) and linear.min() >= 0
    norm = np.sqrt(np.square(features.hann(spec.win_length)).sum()) if spec.window_norm else 1.0
    values = (linear / norm) ** spec.power
    values = values if spec.num_mels is None else values @ features.mel_basis(spec)
    target = features.expand(mel, spec)
    assert np.linalg.norm(values - target) < 1e-3 * np.linalg.norm(target)


@pytest.mark.parametrize("name", ["hifigan", "rtvc", "vits_linear"])
def test_mel_to_wave_sounds_alike(name):
    spec = mel_spec(name)
    mel = mel_spectrogram_np(harmonics(spec.sample_rate)[None], spec)
    wave = np.asarray(jax.jit(mel_to_wave, static_argnums=1)(mel, spec))
    assert wave.shape == (1, (mel.shape[1] - (spec.padding == "center")) * spec.hop_length)
    again = mel_spectrogram_np(wave, spec)
    other = mel_spectrogram_np(0.05 * np.random.default_rng(0).standard_normal(wave.shape), spec)
    mel = mel[:, : again.shape[1]]
    assert np.abs(again - mel).mean() < 0.15 * np.abs(other - mel).mean()


def test_deemphasis_undoes_preemphasis():
    x = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    np.testing.assert_allclose(deemphasis(x, 0.97), lfilter([1], [1, -0.97], x), rtol=0, atol=1e-4)
