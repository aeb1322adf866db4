"""Voices of autoregressive models and of vocoders with noise: they speak as others do, or say what went wrong."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scripted import REPEATED

from jaxtts.audio import io as sound
from jaxtts.synth import load, speak, write_voice
from jaxtts.synth.folder import read_part, read_voice
from jaxtts.synth.voice import FaultySpeech

PLAIN = "the cat sat on the mat and so on."
SKIP, REPEAT, ENDLESS = "the cat sat quickly there.", "all the cats doze on mats.", "the ox sat on the mat."
PACE = 4


@pytest.fixture(scope="module")
def voice(runs):
    """Of the scripted model, whose frames per symbol are known."""
    return load(acoustic=runs / "scripted", vocoder=runs / "vocos")


@pytest.fixture(scope="module")
def real(runs, tmp_path_factory):
    """Tacotron 2 and WaveGlow with random weights."""
    folder = tmp_path_factory.mktemp("real") / "voice"
    write_voice(folder, runs / "tacotron2", runs / "waveglow")
    return folder


def test_a_good_sentence_has_no_faults(voice):
    audio = voice.synthesize(PLAIN)
    (segment,) = audio.segments
    assert (audio.truncated, audio.skipped, audio.repeated) == (False, (), ())
    assert segment.frames == PACE * len(PLAIN) and (segment.durations == PACE).all() and not segment.complaints
    assert [w.text for w in audio.timestamps] == PLAIN.split()
    hop = 16 / 8000
    assert audio.timestamps[1].start == pytest.approx(PACE * 3 * hop)


def test_what_is_skipped_is_named(voice):
    audio = voice.synthesize(f"{PLAIN} {SKIP}", retries=0)
    assert (audio.truncated, audio.skipped, audio.repeated) == (False, ("quickly",), ())
    assert audio.segments[0].skipped == () and audio.segments[1].skipped == ("quickly",)
    (complaint,) = audio.segments[1].complaints
    assert "skips 'quickly'" in complaint and SKIP in complaint and "another seed" in complaint


def test_what_is_repeated_is_named(voice):
    audio = voice.synthesize(REPEAT, retries=0)
    assert not audio.truncated and not audio.skipped and audio.repeated == ("cats",)
    assert audio.segments[0].frames == PACE * (len(REPEAT) + REPEATED)
    assert "repeats" in audio.segments[0].complaints[0] and "'cats'" in audio.segments[0].complaints[0]


def test_what_does_not_end_is_cut_off_and_says_so(voice):
    audio = voice.synthesize([ENDLESS, PLAIN], retries=0)[0]
    bound = int(speak.SPARE_FRAMES + speak.SPARE_FACTOR * voice.files.frames_per_symbol * len(ENDLESS))
    assert audio.truncated and audio.segments[0].frames == bound and audio.segments[0].durations.sum() == bound
    assert f"cut off after {bound} frames" in audio.segments[0].complaints[0]
    for most in (30, 64, 100):
        audio = voice.synthesize(ENDLESS, max_frames=most, retries=0)
        assert audio.truncated and audio.segments[0].frames == most and len(audio.samples) >= most * 16
    whole = voice.synthesize(PLAIN)
    exact = voice.synthesize(PLAIN, max_frames=PACE * len(PLAIN))
    assert not exact.truncated
    np.testing.assert_array_equal(exact.samples, whole.samples)
    assert voice.synthesize(PLAIN, max_frames=PACE * len(PLAIN) - 1, retries=0).truncated


def test_a_long_text_is_whole_or_says_so(voice):
    text = "the cat sat on the mat and so on and the man sat on the bed " * 34
    assert len(text) > 2000
    audio = voice.synthesize(text)
    assert not audio.truncated and not audio.skipped and not audio.repeated
    spoken = "".join("".join(s.symbols) for s in audio.segments).replace(" ", "")
    assert spoken.rstrip(".") == text.replace(" ", "")
    assert voice.synthesize(f"{text} x", retries=0).truncated


def test_retries_try_other_seeds(runs, monkeypatch):
    voice = load(acoustic=runs / "flaky", vocoder=runs / "vocos")
    texts = [PLAIN] * 8
    seeds = list(range(8))
    failed = [
        [a.truncated for a in voice.synthesize(texts, seed=seeds, retries=n, max_frames=200)] for n in (0, 1, 2, 20)
    ]
    assert sum(failed[0]) > 3 and not any(failed[3])
    assert all(b <= a for before, after in zip(failed, failed[1:]) for a, b in zip(before, after))
    assert failed[2] == [a.truncated for a in voice.synthesize(texts, seed=seeds, max_frames=200)]  # 2 by default
    rescued = failed[0].index(True)
    again = [voice.synthesize(PLAIN, seed=rescued, retries=20, max_frames=200).samples for _ in range(2)]
    np.testing.assert_array_equal(*again)
    asked = []
    call = voice._speaker._call
    monkeypatch.setattr(voice._speaker, "_call", lambda stage, x: (asked.append(stage), call(stage, x))[1])
    voice.synthesize(PLAIN, seed=failed[0].index(False), retries=20)
    assert asked == ["latent", "decode"]  # who succeeds is not asked again


def test_the_best_attempt_is_kept(voice):
    """A text that fails each time the same way keeps its first attempt."""
    np.testing.assert_array_equal(voice.synthesize(SKIP, retries=0).samples, voice.synthesize(SKIP, retries=3).samples)


def test_streams_say_what_is_wrong(voice):
    text = f"{PLAIN} {SKIP} {ENDLESS}"
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        chunks = [c.samples for c in voice.stream(text, max_frames=300)]
    whole = voice.synthesize(text, max_frames=300, retries=0)
    np.testing.assert_allclose(np.concatenate(chunks), whole.samples, rtol=0, atol=1e-4)
    told = [str(n.message) for n in notes if n.category is FaultySpeech]
    expected = [c for segment in whole.segments for c in segment.complaints]
    assert told == expected and len(told) >= 2 and "quickly" in told[0] and "cut off after 300 frames" in told[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(voice.stream(PLAIN))) > 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"length_scale": 1.2}, "length_scale=1.2: .* own pace"),
        ({"noise_scale": 0.5}, "noise_scale=0.5: .* reads no noise"),
        ({"max_frames": 0}, "max_frames=0"),
        ({"max_frames": 2.5}, "max_frames=2.5"),
        ({"retries": -1}, "retries=-1"),
        ({"sigma": 0.5}, "sigma=0.5: .* no vocoder that reads noise"),
        ({"denoise": -1.0}, "denoise=-1.0 must lie between"),
    ],
)
def test_arguments_that_do_not_fit_are_named(voice, options, message):
    with pytest.raises(ValueError, match=message):
        voice.synthesize(PLAIN, **options)
    with pytest.raises(ValueError, match=message):
        voice.stream(PLAIN, **options)


def test_other_voices_have_no_bound(voice_folder):
    other = load(voice_folder)
    with pytest.raises(ValueError, match="max_frames=100: voice 'voice' always ends"):
        other.synthesize("Hello.", max_frames=100)
    audio = other.synthesize("Hello.", retries=5)
    np.testing.assert_array_equal(audio.samples, other.synthesize("Hello.").samples)
    assert (audio.truncated, audio.skipped, audio.repeated) == (False, (), ())


def test_a_rate_is_refused(real):
    voice = load(real)
    with pytest.raises(ValueError, match="own pace: leave out <prosody rate>"):
        voice.synthesize("<speak>one <prosody rate='slow'>two</prosody></speak>")
    assert voice.synthesize("<speak>one <break time='1s'/> two</speak>", max_frames=64, retries=0).duration > 1


def test_a_voice_measures_its_pace(runs, tmp_path):
    """Sentences that do not end are not counted, and none that ends leaves the default."""
    made = write_voice(tmp_path / "even", runs / "scripted", runs / "vocos")
    assert made.frames_per_symbol == PACE == read_voice(tmp_path / "even").frames_per_symbol


# Tacotron 2 and WaveGlow themselves


def test_tacotron_and_waveglow_speak(real):
    voice = load(real)
    texts = ["Hello there.", "Yes.", "The birch canoe slid on the smooth planks."]
    together = voice.synthesize(texts, seed=[1, 2, 3], max_frames=150)
    for number, (text, audio) in enumerate(zip(texts, together)):
        alone = voice.synthesize(text, seed=number + 1, max_frames=150)
        assert alone.segments[0].frames == audio.segments[0].frames
        np.testing.assert_allclose(alone.samples, audio.samples, rtol=0, atol=1e-4)
        assert np.abs(alone.samples).max() > 0 and audio.truncated == alone.truncated
        assert alone.segments[0].durations.sum() == alone.segments[0].frames
    again = voice.synthesize(texts[0], seed=2, max_frames=150)
    assert again.samples.shape != together[0].samples.shape or np.abs(again.samples - together[0].samples).max() > 1e-3


def test_the_bound_is_not_heard(real):
    """What is spoken ahead of it is the same wherever it lies, and whatever the buckets."""
    voice = load(real)
    short, long = (voice.synthesize("Hello there.", max_frames=n, retries=0).segments[0].mel for n in (100, 300))
    reach = voice._speaker.receptive_field("latent")
    count = min(len(short), len(long)) - reach
    np.testing.assert_allclose(short[:count], long[:count], rtol=0, atol=1e-4)


def test_streamed_noise_is_the_noise_of_the_sentence(runs, voice_folder):
    """Of Glow-TTS, which ends, and WaveGlow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speak, "CHUNK", 16)
        voice = load(voice_folder, vocoder=runs / "waveglow")
        text = "The birch canoe slid on the smooth planks, and so on. Yes, it did."
        whole = voice.synthesize(text, seed=4, sigma=0.8).samples
        chunks = [c.samples for c in voice.stream(text, seed=4, sigma=0.8)]
        assert len(chunks) > 8
        np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=0, atol=1e-4)
        patch.setattr(speak, "WINDOWS", (64,))
        cut = load(voice_folder, vocoder=runs / "waveglow").synthesize(text, seed=4, sigma=0.8).samples
        np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-4)


def test_the_temperature_and_the_seed_of_the_noise(runs, voice_folder):
    voice = load(voice_folder, vocoder=runs / "waveglow")
    options = {"noise_scale": 0.0}
    usual = voice.synthesize("Hello.", **options).samples
    sigma = voice.files.vocoder.config["sigma_infer"]
    np.testing.assert_array_equal(usual, voice.synthesize("Hello.", sigma=sigma, **options).samples)
    cold = [voice.synthesize("Hello.", sigma=0, seed=s, **options).samples for s in (1, 2)]
    np.testing.assert_array_equal(*cold)
    assert np.abs(usual - cold[0]).max() > 1e-3
    other = voice.synthesize("Hello.", seed=1, **options).samples
    assert np.abs(usual - other).max() > 1e-3
    one, two = voice.synthesize("Hello. Hello.", **options).segments
    assert one.mel.shape == two.mel.shape
    audio = voice.synthesize("Hello. Hello.", **options).samples
    first, second = (audio[s.start : s.start + 16 * s.frames] for s in (one, two))
    assert np.abs(first - second).max() > 1e-3  # sentences draw their own


@pytest.mark.parametrize("vocoder", ["waveglow", "hifigan"])
def test_denoised_speech(runs, voice_folder, monkeypatch, vocoder):
    """In chunks and windows as in one go, and as the function does it that takes the hum of the vocoder away."""
    from jaxtts.audio.denoise import bias_spectrum, denoise

    monkeypatch.setattr(speak, "CHUNK", 16)
    voice = load(voice_folder, vocoder=runs / vocoder)
    text, options = "The birch canoe slid on the smooth planks, and so on. Yes.", {"seed": 4, "denoise": 0.2}
    audio, plain = voice.synthesize(text, **options), voice.synthesize(text, seed=4)
    chunks = [c.samples for c in voice.stream(text, **options)]
    np.testing.assert_allclose(np.concatenate(chunks), audio.samples, rtol=0, atol=1e-4)
    silence = speak.Cut(np.zeros((88, 10), np.float32), 0, 88, noise=np.zeros((88, 16), np.float32))
    bias = bias_spectrum(voice._speaker.decode([silence])[0])
    for segment in audio.segments:
        own = slice(segment.start, segment.start + 16 * segment.frames)
        padded = np.pad(plain.samples[own], (0, 2048))
        expected = np.asarray(denoise(padded, bias, 0.2))[: 16 * segment.frames]
        np.testing.assert_allclose(audio.samples[own], expected, rtol=0, atol=1e-4)
        assert np.abs(audio.samples[own] - plain.samples[own]).max() > 1e-3
    monkeypatch.setattr(speak, "WINDOWS", (256,))
    cut = load(voice_folder, vocoder=runs / vocoder).synthesize(text, **options).samples
    np.testing.assert_allclose(cut, audio.samples, rtol=0, atol=1e-4)


def test_a_second_process_would_not_compile(real, counted_compilations):
    import jax

    load(real).synthesize("Hello there.", max_frames=100)
    jax.clear_caches()
    fresh = load(real)
    with counted_compilations() as found:
        fresh.synthesize("Hello there.", max_frames=100)
    assert not found


def test_a_warm_start_imports_no_flax(real):
    code = (
        "import sys\n"
        "from jaxtts.synth import load\n"
        f"load({str(real)!r}).synthesize('Hello there.', max_frames=100, denoise=0.1)\n"
        "print('flax' in sys.modules)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
        for _ in range(2)
    ]
    assert told[1] == "False\n"


def test_batch_statistics_are_stored_in_half_precision(real, runs):
    stored, exact = read_voice(real).parts["acoustic"].tensors, read_part(runs / "tacotron2", "acoustic")[0].tensors
    names = [n for n in exact if n.endswith((".mean", ".variance"))]
    assert len(names) >= 4 and stored.keys() == exact.keys()
    for name in names:
        assert stored[name].dtype == np.float16
        np.testing.assert_allclose(stored[name], exact[name], rtol=1e-3, atol=1e-4)


def test_griffin_lim_makes_an_acoustic_model_audible(runs, tmp_path):
    for acoustic in ("glow", "scripted"):
        voice = load(acoustic=runs / acoustic, vocoder="griffin-lim")
        audio = voice.synthesize("the cat sat. so on.", seed=3)
        for segment in audio.segments:
            assert np.abs(audio.samples[segment.start : segment.start + segment.frames * 16]).max() > 0
        end = audio.segments[-1].start + audio.segments[-1].frames * 16
        assert end == len(audio.samples) and np.isfinite(audio.samples).all()
        streamed = np.concatenate([c.samples for c in voice.stream("the cat sat. so on.", seed=3)])
        np.testing.assert_allclose(streamed, audio.samples, rtol=0, atol=1e-4)
        alone = voice.synthesize(["the cat sat. so on.", "the mat."], seed=3)[0]
        np.testing.assert_allclose(alone.samples, audio.samples, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="no vocoder that could be denoised"):
        voice.synthesize("so.", denoise=0.1)
    with pytest.raises(ValueError, match="griffin-lim"):
        write_voice(tmp_path / "no", runs / "glow", "griffin-lim")
    assert sound.encode(audio.samples, 8000)[:4] == b"RIFF"
