"""Voices of one end-to-end model: all that voices of two models can do."""

import json
import shutil

import numpy as np
import pytest

from jaxtts.audio.features import linear_spectrogram_np, mel_spectrogram_np
from jaxtts.models import vits
from jaxtts.nn import functional
from jaxtts.synth import load, write_voice
from jaxtts.synth.folder import read_voice
from jaxtts.synth.speak import checked_structure

TEXTS = ["Hello.", "The birch canoe slid on the smooth planks.", "One. Two, three!", "Glue the sheet to the wall."]
LONG = "The birch canoe slid on the smooth planks, and so on and so forth, " * 8 + "until the end. Yes."


@pytest.fixture(scope="module")
def folder(runs):
    write_voice(runs / "whole", model=runs / "vits2", dtype="float32")
    return runs / "whole"


@pytest.fixture(scope="module")
def voice(folder):
    return load(folder)


def same(one, other):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_a_folder_holds_one_model(folder, runs, voice):
    files = read_voice(folder)
    assert list(files.parts) == ["model"] and files.speakers == ("ann", "bob")
    assert 1 < files.frames_per_symbol < 20 and not files.first.config["weight_norm"]
    trained = load(runs / "vits2")  # as training left it
    assert trained.name == "vits2"
    same(trained.synthesize("Hello.").samples, voice.synthesize("Hello.").samples)
    half = write_voice(folder.parent / "whole16", model=folder)
    assert {x.dtype.name for x in half.first.tensors.values()} == {"float16"}
    assert load(folder.parent / "whole16").synthesize("Hello.").duration > 0


def test_a_text_sounds_the_same_alone_and_among_others(voice):
    together = voice.synthesize(TEXTS, speaker=["ann", "bob", 1, None], seed=[3, 4, 5, 6])
    for text, speaker, seed, audio in zip(TEXTS, ("ann", "bob", "bob", "ann"), (3, 4, 5, 6), together):
        same(audio.samples, voice.synthesize(text, speaker=speaker, seed=seed).samples)


def test_a_text_sounds_the_same_in_a_larger_bucket(folder, voice, monkeypatch):
    monkeypatch.setattr("jaxtts.synth.speak.HEADROOM", 4.0)
    monkeypatch.setattr("jaxtts.synth.speak.SYMBOLS", (128,))
    monkeypatch.setattr("jaxtts.synth.speak.WINDOWS", (96,))
    same(load(folder).synthesize(TEXTS[1]).samples, voice.synthesize(TEXTS[1]).samples)


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[2], LONG], ids=["short", "sentences", "long"])
def test_chunks_are_what_is_spoken_in_one_go(voice, text, monkeypatch):
    monkeypatch.setattr("jaxtts.synth.speak.CHUNK", 16)
    options = {"seed": 3, "length_scale": 1.3, "noise_scale": 0.4, "duration_noise_scale": 1.1, "speaker": "bob"}
    chunks = [c.samples for c in voice.stream(text, **options)]
    assert len(chunks) > 2 and len(chunks[0]) == 8 * 16
    same(np.concatenate(chunks), voice.synthesize(text, **options).samples)


def test_each_noise_has_its_scale(voice):
    options = {"noise_scale": 0.0, "duration_noise_scale": 0.0}
    flat = [voice.synthesize(TEXTS[1], seed=s, **options).samples for s in (1, 2)]
    np.testing.assert_array_equal(*flat)
    sounds = [voice.synthesize(TEXTS[1], seed=s, duration_noise_scale=0.0) for s in (1, 2)]
    np.testing.assert_array_equal(*(a.segments[0].durations for a in sounds))
    assert np.abs(sounds[0].samples - sounds[1].samples).max() > 1e-3
    rhythms = [voice.synthesize(TEXTS[1], seed=s, noise_scale=0.0).segments[0].durations for s in (1, 2)]
    assert (rhythms[0] != rhythms[1]).any()
    again = voice.synthesize(TEXTS[1], seed=1, noise_scale=3.0).segments[0].durations
    np.testing.assert_array_equal(again, rhythms[0])  # the rhythm does not depend on the other noise
    with pytest.raises(ValueError, match="duration_noise_scale=-1"):
        voice.synthesize("Hello.", duration_noise_scale=-1)


def test_plain_durations_have_no_noise(runs):
    voice = load(runs / "vits")
    one, two = (voice.synthesize(TEXTS[1], seed=s) for s in (1, 2))
    np.testing.assert_array_equal(one.segments[0].durations, two.segments[0].durations)
    assert np.abs(one.samples - two.samples).max() > 1e-3
    with pytest.raises(ValueError, match="duration_noise_scale=0.5: voice 'vits' draws no durations"):
        voice.synthesize("Hello.", duration_noise_scale=0.5)


def test_speakers_differ(voice):
    ann, bob = voice.synthesize("Hello there.", speaker=["ann", "bob"], duration_noise_scale=0.0)
    assert len(ann.samples) != len(bob.samples) or np.abs(ann.samples - bob.samples).max() > 1e-3
    with pytest.raises(ValueError, match="speaker='eve'.*ann, bob"):
        voice.synthesize("Hello.", speaker="eve")


def test_words_have_times_and_segments_a_mel(voice):
    audio = voice.synthesize("Hello there. One, two.")
    assert [w.text for w in audio.timestamps] == ["Hello", "there.", "One,", "two."]
    times = [t for w in audio.timestamps for t in (w.start, w.end)]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= audio.duration
    first, _ = audio.segments
    assert first.frames == first.durations.sum() and first.mel.shape == (first.frames, 10)
    np.testing.assert_array_equal(first.mel, mel_spectrogram_np(audio.samples[: first.frames * 16], voice.files.mel))


def test_a_warm_call_compiles_nothing(voice, counted_compilations):
    voice.synthesize(TEXTS)
    list(voice.stream(TEXTS[1]))
    with counted_compilations() as found:
        voice.synthesize(TEXTS, seed=5, noise_scale=0.3)
        list(voice.stream(TEXTS[1], seed=9))
    assert not found


def test_what_does_not_fit_is_refused(runs, folder, tmp_path):
    with pytest.raises(ValueError, match="one model from end to end: there is no vocoder"):
        load(folder, vocoder=runs / "vocos")
    with pytest.raises(ValueError, match="holds glow_tts, of the kind 'acoustic', not 'end-to-end'"):
        load(runs / "glow")
    with pytest.raises(ValueError, match="holds vits, of the kind 'end-to-end', not 'vocoder'"):
        load(acoustic=runs / "glow", vocoder=runs / "vits")
    with pytest.raises(ValueError, match="has no vocoder: it is made of model"):
        load(acoustic=runs / "glow", vocoder=folder)
    with pytest.raises(ValueError, match="an acoustic model and a vocoder, or"):
        write_voice(tmp_path / "x", runs / "glow", model=runs / "vits")
    silent = json.loads((runs / "vits" / "config.json").read_text()) | {"text": None, "missing": "a vocabulary"}
    shutil.copytree(runs / "vits", tmp_path / "silent")
    (tmp_path / "silent" / "config.json").write_text(json.dumps(silent))
    with pytest.raises(ValueError, match="silent does not speak: it lacks a vocabulary"):
        load(tmp_path / "silent")
    with pytest.raises(ValueError, match="wants an embedding of 4 numbers"):
        load(runs / "vectors")


def noise_of(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_a_recording_is_converted(voice):
    samples = noise_of(5003)
    bob = voice.convert(samples, 8000, source="ann", target="bob", seed=1)
    assert bob.sample_rate == 8000 and bob.samples.shape == samples.shape and np.ptp(bob.samples) > 0
    np.testing.assert_array_equal(bob.samples, voice.convert(samples, 8000, target=1, seed=1).samples)
    for other in ({"target": "bob", "seed": 2}, {"target": "ann", "source": "ann"}, {"target": 1, "noise_scale": 0.0}):
        assert np.abs(voice.convert(samples, 8000, **other).samples - bob.samples).max() > 1e-3
    assert len(voice.convert(samples, 16000, target="ann").samples) == 2502
    assert voice.convert(samples[:3], 8000, target="ann").samples.shape == (3,)


def test_a_recording_is_heard_as_the_model_would(voice):
    """The model itself on the whole spectrogram: through the flow as one speaker, back as the other."""
    model, spec = voice.files.first, voice.files.mel.replace(log=None)
    samples = noise_of(60 * 16)
    structure = checked_structure(model)
    net = functional.merge(structure, functional.nested(dict(model.tensors)))
    assert isinstance(net, vits.Model)
    spectrogram = linear_spectrogram_np(samples, spec)[None]
    noise = np.random.default_rng(4).standard_normal((60, 8), np.float32)[None]
    wave = net.convert(spectrogram, np.array([60]), source=np.array([0]), target=np.array([1]), noise=noise)
    same(np.asarray(wave)[0], voice.convert(samples, 8000, source="ann", target="bob", seed=4).samples)


def test_converting_in_pieces_is_converting_whole(voice, monkeypatch):
    samples = noise_of(500 * 16)
    whole = voice.convert(samples, 8000, target="bob").samples
    calls, call = [], voice._speaker._call
    monkeypatch.setattr(voice._speaker, "_call", lambda stage, inputs: (calls.append(stage), call(stage, inputs))[1])
    monkeypatch.setattr("jaxtts.synth.speak.CONVERTED", 200)
    same(whole, voice.convert(samples, 8000, target="bob").samples)
    assert len(calls) == 3


def test_who_cannot_convert_says_so(runs, voice_folder, voice):
    samples = noise_of(4000)
    with pytest.raises(ValueError, match="voice 'voice' is a glow_tts and a vocoder, which cannot convert"):
        load(voice_folder).convert(samples, 8000, target=1)
    with pytest.raises(ValueError, match="'vits' has one speaker"):
        load(runs / "vits").convert(samples, 8000, target=1)
    for options, message in [
        ({"target": "eve"}, "speaker='eve'"),
        ({"target": 1, "source": "eve"}, "speaker='eve'"),
        ({"target": 1, "noise_scale": -1.0}, "noise_scale=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            voice.convert(samples, 8000, **options)
    with pytest.raises(ValueError, match=r"samples have the shape \[2, 4000\]"):
        voice.convert(np.stack([samples, samples]), 8000, target=1)
