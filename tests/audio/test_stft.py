import re
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtts.audio import features
from jaxtts.audio.features import mel_basis, mel_spectrogram_np
from jaxtts.audio.spec import MEL_SPECS, mel_spec
from jaxtts.audio.stft import (
    istft,
    linear_spectrogram,
    linear_to_mel,
    mel_spectrogram,
    overlap_add,
    padded_linear_spectrogram,
    stft,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "audio"


def noise(*shape, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def golden(name):
    spec = mel_spec("hifigan").full_band() if name == "hifigan_full_band" else mel_spec(name)
    return spec, np.load(GOLDEN / f"{name}.npz")


@pytest.mark.parametrize("name", ["hifigan", "hifigan_full_band", "tacotron2", "vits", "vits_linear", "ge2e"])
def test_golden(name):
    spec, case = golden(name)
    frames = case["mel"].shape[1]
    ours = jax.jit(mel_spectrogram, static_argnums=1)(case["wave"], spec)
    assert ours.shape[1] == spec.num_frames(case["wave"].shape[1])
    np.testing.assert_allclose(ours[:, :frames], case["mel"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(mel_spectrogram_np(case["wave"], spec)[:, :frames], case["mel"], rtol=0, atol=1e-4)


def test_istft_golden():
    case = golden("tacotron2")[1]
    rebuilt = istft(stft(case["wave"], 1024, 256), 1024, 256)[:, : case["reconstruction"].shape[1]]
    np.testing.assert_allclose(rebuilt, case["reconstruction"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", [name for name, spec in MEL_SPECS.items() if spec.num_mels])
def test_mel_basis_equals_librosa(name):
    spec = mel_spec(name)
    theirs = librosa.filters.mel(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.num_mels, fmin=spec.fmin, fmax=spec.fmax,
        htk=spec.mel_scale == "htk", norm=spec.mel_norm,
    ).T  # fmt: skip
    np.testing.assert_allclose(mel_basis(spec), theirs, rtol=0, atol=1e-8 if spec.mel_norm else 2e-6)


def test_linear_spec_has_no_mel_basis():
    with pytest.raises(ValueError, match="vits_linear"):
        mel_basis(mel_spec("vits_linear"))


@pytest.mark.parametrize("name", MEL_SPECS)
def test_numpy_and_jax_agree_on_every_spec(name):
    spec, wave = mel_spec(name), noise(2, 5003)
    ours = mel_spectrogram(wave, spec)
    assert ours.shape == (2, spec.num_frames(5003), spec.num_bins) and ours.dtype == jnp.float32
    twin = mel_spectrogram_np(wave, spec)
    assert twin.dtype == np.float32
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-4)
    np.testing.assert_allclose(mel_spectrogram_np(wave[1], spec), twin[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rtvc", "wavernn_lj"])
def test_decibel_specs_follow_the_published_formula(name):
    spec, wave = mel_spec(name), noise(6000)
    filtered = np.append(wave[0], wave[1:] - spec.preemphasis * wave[:-1])
    magnitude = np.abs(
        librosa.stft(filtered, n_fft=spec.n_fft, hop_length=spec.hop_length, win_length=spec.win_length,
                     pad_mode="reflect")
    )  # fmt: skip
    decibels = 20 * np.log10(np.maximum(1e-5, mel_basis(spec).T @ magnitude)) - spec.ref_db
    scaled = {"rtvc": 8 * (decibels + 100) / 100 - 4, "wavernn_lj": (decibels + 100) / 100}[name]
    expected = np.clip(scaled, *spec.value_range).T
    np.testing.assert_allclose(mel_spectrogram_np(wave, spec), expected, rtol=0, atol=1e-4)


def test_normalised_frames_follow_their_formula():
    plain, wave = mel_spec("tacotron2").replace(log="log10", clip=1e-10), noise(4096)
    mean, scale = np.linspace(-3, 1, 80), np.linspace(0.2, 2, 80)
    spec = plain.replace(mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))
    magnitude = np.abs(librosa.stft(wave, n_fft=1024, hop_length=256, pad_mode="reflect"))
    expected = (np.log10(np.maximum(1e-10, mel_basis(plain).T @ magnitude)).T - mean) / scale
    np.testing.assert_allclose(mel_spectrogram_np(wave, spec), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(mel_spectrogram(wave, spec), expected, rtol=0, atol=1e-4)
    values = np.geomspace(1e-3, 1, 80, dtype=np.float32)
    np.testing.assert_allclose(features.expand(features.compress(values, spec), spec), values, rtol=1e-4)


@pytest.mark.parametrize("name", MEL_SPECS)
def test_expand_inverts_compress_and_silence_is_the_floor(name):
    spec = mel_spec(name)
    values = np.geomspace(0.02 if spec.clip == 0.01 else 2e-4, 1.0, 50, dtype=np.float32)
    np.testing.assert_allclose(features.expand(features.compress(values, spec), spec), values, rtol=1e-4)
    silence = mel_spectrogram_np(np.zeros(4096, np.float32), spec.replace(magnitude_eps=0.0))
    np.testing.assert_allclose(silence, spec.floor, rtol=1e-5)


def test_vits_mel_from_its_linear_spectrogram():
    wave = noise(1, 4096)
    linear = linear_spectrogram(wave, mel_spec("vits_linear"))
    expected = mel_spectrogram(wave, mel_spec("vits"))
    np.testing.assert_allclose(linear_to_mel(linear, mel_spec("vits")), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1024, 256, 1024), (2048, 300, 1200), (400, 160, 400), (800, 200, 801)])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_stft_equals_librosa(shape, pad_mode):
    n_fft, hop, win = shape
    win = min(win, n_fft)
    wave = noise(4000)
    theirs = librosa.stft(wave, n_fft=n_fft, hop_length=hop, win_length=win, pad_mode=pad_mode).T
    np.testing.assert_allclose(stft(wave, n_fft, hop, win, "center", pad_mode), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("length", "hop"), [(8, 2), (7, 3), (400, 160), (101, 7)])
def test_frames_and_overlap_add_are_adjoint(length, hop):
    x, count = noise(2, 2000), 9
    frames = features.frame(x, length, hop, count)
    expected = np.stack([x[:, t * hop : t * hop + length] for t in range(count)], axis=1)
    np.testing.assert_array_equal(frames, expected)
    y = noise(2, count, length, seed=1)
    added = overlap_add(jnp.asarray(y), hop)
    width = added.shape[1]
    assert width == (count - 1) * hop + -(-length // hop) * hop
    np.testing.assert_allclose(np.vdot(x[:, :width], added), np.vdot(frames, y), rtol=1e-4)


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("shape", [(1024, 256, 1024), (1024, 300, 1024), (512, 100, 400)])
def test_istft_inverts_stft(padding, shape):
    n_fft, hop, _ = shape
    wave = noise(2, 24 * hop)
    spectrum = jax.jit(lambda x: stft(x, *shape, padding))(wave)
    assert spectrum.shape == (2, 24 + (padding == "center"), n_fft // 2 + 1)
    rebuilt = jax.jit(lambda s: istft(s, *shape, padding))(spectrum)
    assert rebuilt.shape == wave.shape
    inside = slice(n_fft, -n_fft) if padding == "same" else slice(None)  # 'same' sees its ends through few windows
    np.testing.assert_allclose(rebuilt[:, inside], wave[:, inside], rtol=0, atol=1e-5)
    short = jax.jit(lambda s: istft(s, *shape, padding, length=500))(spectrum)
    np.testing.assert_allclose(short, rebuilt[:, :500], rtol=0, atol=1e-6)


def test_same_padding_is_exact_to_the_ends():
    wave = noise(1, 2560)
    rebuilt = istft(stft(wave, 1024, 256, padding="same"), 1024, 256, padding="same")
    np.testing.assert_allclose(rebuilt, wave, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["hifigan", "tacotron2", "ge2e"])
def test_gradient_of_silence_is_finite(name):
    gradient = jax.jit(jax.grad(lambda x: mel_spectrogram(x, mel_spec(name)).sum()))(np.zeros((1, 2048), np.float32))
    assert np.isfinite(gradient).all()


def test_bfloat16_input_is_computed_in_float32():
    wave = jnp.asarray(noise(1, 2048), jnp.bfloat16)
    spec = mel_spec("hifigan")
    np.testing.assert_array_equal(mel_spectrogram(wave, spec), mel_spectrogram(wave.astype(jnp.float32), spec))


def test_too_few_samples_and_unknown_padding():
    with pytest.raises(ValueError, match=r"100 samples are too few.*at least 385"):
        mel_spectrogram(noise(1, 100), mel_spec("hifigan"))
    with pytest.raises(ValueError, match="0 samples are too few"):
        mel_spectrogram_np(np.zeros(0, np.float32), mel_spec("ge2e"))
    with pytest.raises(ValueError, match="'valid'"):
        stft(noise(2000), 1024, 256, padding="valid")
    with pytest.raises(ValueError, match="even"):
        istft(stft(noise(2000), 1024, 255), 1024, 255, padding="same")


def test_each_device_transforms_its_own_rows():
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    spec = mel_spec("hifigan")

    def loss(wave):
        spectrum = stft(wave, 512, 128)
        return jnp.abs(mel_spectrogram(wave, spec)).mean() + jnp.abs(istft(spectrum, 512, 128)).mean()

    wave = noise(8, 4096)
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(loss)).lower(jax.device_put(wave, rows)).compile()
    assert not re.findall(r" (?:all-gather|all-to-all|collective-permute)", program.as_text())
    value, gradient = program(jax.device_put(wave, rows))
    expected, expected_gradient = jax.value_and_grad(loss)(wave)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize(("name", "log"), [("vits_linear", None), ("tacotron", None), ("tacotron", "db")])
def test_the_spectrogram_of_a_padded_item_is_that_of_the_item_alone(name, log):
    spec = mel_spec(name).replace(num_mels=None, log=log, value_range=None)
    hop = spec.hop_length
    wave = noise(4, 12 * hop)
    lengths = np.array([12, 11, 10, 5]) * hop
    padded = np.where(np.arange(wave.shape[1]) < lengths[:, None], wave, 0.0)
    batch = jax.jit(lambda w, n: padded_linear_spectrogram(w, n, spec))(padded, lengths)
    assert batch.shape == (4, 12, spec.num_bins)
    for b, n in enumerate(lengths):
        alone = features.linear_spectrogram_np(wave[b, :n], spec)[: n // hop]
        np.testing.assert_allclose(batch[b, : n // hop], alone, rtol=1e-4, atol=2e-4 if log is None else 0.1)
