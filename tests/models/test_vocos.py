"""Vocos: its size, its batches, its head, its training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.stft import istft, stft
from jaxtts.models.vocos import Config, Model
from jaxtts.nn import functional


def test_the_paper_s_size():
    """13.5 M (section 4.1): 100 bins in, 512 x 8 blocks of 1536, 1026 out."""
    params = functional.structure(lambda: Model(Config(), rngs=functional.rngs_for_shapes()))[1]
    block = 7 * 512 + 512 + 2 * 512 + 512 * 1536 + 1536 + 1536 * 512 + 512 + 512
    assert functional.count_parameters(params) == 100 * 7 * 512 + 512 + 8 * block + 4 * 512 + 512 * 1026 + 1026


def test_padding_and_neighbours_change_nothing():
    model = Model(Config.tiny(), rngs=nnx.Rngs(0))
    lengths = np.array([12, 7, 3])
    mel = np.random.default_rng(0).standard_normal((3, 12, 10)).astype(np.float32)
    mel[np.arange(12) >= lengths[:, None]] = np.nan
    wave = jax.jit(model.infer)(mel, lengths)
    assert wave.shape == (3, 12 * 16)
    for row, length in enumerate(lengths):
        alone = model.infer(mel[row : row + 1, :length])
        np.testing.assert_allclose(wave[row, : length * 16], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * 16 :], 0.0)


def test_the_head_inverts_the_stft():
    """Log magnitude and phase of a wave's own STFT give the wave back."""
    model = Model(Config.tiny(), rngs=nnx.Rngs(0))
    wave = jax.random.normal(jax.random.key(0), (2, 320))
    spectrum = stft(wave, 64, 16, padding="same")
    heads = jnp.concatenate([jnp.log(jnp.abs(spectrum)), jnp.angle(spectrum)], axis=-1)
    again = model._synthesize(heads, None)
    np.testing.assert_allclose(again, istft(spectrum, 64, 16, padding="same"), atol=1e-4)
    np.testing.assert_allclose(again, wave, atol=1e-4)


def test_magnitudes_are_clipped():
    model = Model(Config.tiny(), rngs=nnx.Rngs(0))
    loud = jnp.concatenate([jnp.full((1, 4, 33), 200.0), jnp.zeros((1, 4, 33))], axis=-1)
    wave = model._synthesize(loud, None)
    assert bool(jnp.all(jnp.isfinite(wave))) and float(jnp.abs(wave).max()) < 1e3


@pytest.mark.parametrize("change", [{"kernel_size": 6}, {"n_fft": 63}, {"n_fft": 16}])
def test_impossible_configurations_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Config(mel=Config.tiny().mel, **change)
