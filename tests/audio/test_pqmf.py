"""The pseudo-QMF bank: its filters one by one, what is lost on the way through it, where aliases go."""

import jax
import numpy as np
import pytest

from jaxtts.audio.pqmf import Pqmf, analysis, filters, synthesis

BANKS = [Pqmf(), Pqmf(num_bands=3, taps=20, cutoff=0.2), Pqmf(num_bands=5, taps=34, cutoff=0.11)]


def decibels(error, signal):
    return 10 * np.log10(np.mean(np.square(error)) / np.mean(np.square(signal)))


@pytest.mark.parametrize("bank", BANKS)
def test_both_ways_are_the_textbook_s_filters_with_decimation_and_interpolation(bank):
    rng, bands = np.random.default_rng(0), bank.num_bands
    wave = rng.standard_normal((2, 40 * bands))
    apart, together = filters(bank)
    whole = lambda x, taps: np.correlate(x, taps, "full")[bank.reach : len(x) + bank.reach]  # noqa: E731
    want = np.stack([[whole(row, taps)[::bands] for taps in apart] for row in wave]).swapaxes(1, 2)
    np.testing.assert_allclose(analysis(wave.astype(np.float32), bank), want, atol=2e-6)

    spread = np.zeros((2, 40 * bands, bands))
    spread[:, ::bands] = bands * want
    again = sum(np.stack([whole(row, together[k]) for row in spread[..., k]]) for k in range(bands))
    np.testing.assert_allclose(synthesis(want.astype(np.float32), bank), again, atol=1e-5)


def test_what_goes_in_comes_out():
    bank, rng = Pqmf(), np.random.default_rng(0)
    wave = rng.standard_normal((2, 4096)).astype(np.float32)
    again = np.asarray(jax.jit(lambda x: synthesis(analysis(x, bank), bank))(wave))
    inside = slice(64, -64)  # zeros around the wave are not its own
    assert decibels((again - wave)[:, inside], wave) < -63.5  # measured: -64.0
    bands = rng.standard_normal((2, 1024, 4)).astype(np.float32)
    again = np.asarray(analysis(synthesis(bands, bank), bank))
    assert decibels((again - bands)[:, 16:-16], bands) < -63.5  # the bank is nearly orthogonal: either way round


@pytest.mark.parametrize("place", [0.03, 0.12, 0.25, 0.36, 0.5, 0.74, 0.93])  # of the Nyquist frequency
def test_a_tone_keeps_its_size_its_band_and_has_no_alias(place):
    bank, angle = Pqmf(), np.pi * place * np.arange(4096) + 0.3
    bands = np.asarray(analysis(np.cos(angle)[None].astype(np.float32), bank))
    tones = np.stack([np.cos(angle), np.sin(angle)], 1)[64:-64]
    heard = np.asarray(synthesis(bands, bank))[0, 64:-64]
    fit = np.linalg.lstsq(tones, heard, rcond=None)[0]
    assert np.linalg.norm(fit - [1, 0]) < 2e-3
    assert decibels(heard - tones @ fit, heard) < -75
    strengths = np.square(bands[0, 16:-16]).mean(0)
    near = np.abs(np.arange(4) + 0.5 - 4 * place) < 1.02
    assert strengths[~near].sum() < 1e-6 * strengths.sum()


def test_impossible_banks_and_waves_are_refused():
    for field, value in {"num_bands": 1, "taps": 61, "cutoff": 1.0}.items():
        with pytest.raises(ValueError, match=rf"pqmf\.{field}={value}"):
            Pqmf(**{field: value})
    with pytest.raises(ValueError, match="4095 samples"):
        analysis(np.zeros((1, 4095), np.float32), Pqmf())
