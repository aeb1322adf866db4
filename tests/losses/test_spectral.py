from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtts.audio.spec import mel_spec
from jaxtts.losses.spectral import mel_l1, multi_resolution_stft

GOLDEN = Path(__file__).parent.parent / "golden" / "audio"


def test_mel_l1_golden():
    case = np.load(GOLDEN / "hifigan_full_band.npz")
    spec = mel_spec("hifigan").full_band()
    loss = jax.jit(lambda a, b: mel_l1(a, b, spec))(case["wave_hat"], case["wave"])
    assert 45 * float(loss) == pytest.approx(float(case["loss_mel"]), abs=1e-4)
    assert float(mel_l1(case["wave"], case["wave"], spec)) == 0


def test_multi_resolution_stft_golden():
    case = np.load(GOLDEN / "multi_resolution_stft.npz")
    convergence, magnitude = jax.jit(multi_resolution_stft)(case["wave_hat"], case["wave"])
    np.testing.assert_allclose(convergence, case["convergence"], rtol=0, atol=2.1e-5)
    np.testing.assert_allclose(magnitude, case["magnitude"], rtol=0, atol=2.1e-6)


def test_gradients_are_finite_on_silence():
    wave = 0.1 * np.random.default_rng(0).standard_normal((1, 2048)).astype(np.float32)
    spec = mel_spec("hifigan").full_band()

    def loss(x):
        return mel_l1(x, wave, spec) + sum(multi_resolution_stft(x, wave, ((512, 50, 240),)))

    gradient_of = jax.jit(jax.grad(loss))
    gradient = gradient_of(np.zeros_like(wave))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient_of(0.5 * wave)).max() > 0
