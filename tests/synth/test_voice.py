"""Text to wave: what is heard, and what decides it."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from jaxtts import synthesize
from jaxtts.nn.flow import GroupedInvertibleConv
from jaxtts.synth import load, write_voice
from jaxtts.synth.folder import read_voice
from jaxtts.weights.safetensors import read_safetensors, save_safetensors

TEXTS = ["Hello.", "The birch canoe slid on the smooth planks.", "One. Two, three!", "Glue the sheet to the wall."]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def voice(voice_folder):
    return load(voice_folder)


def test_the_counter_sees_compilations(counted_compilations):
    with counted_compilations() as found:
        jax.jit(lambda x: x * 3.14159)(np.ones(3))
    assert found


def test_one_text_gives_one_audio(voice):
    audio = voice.synthesize("The birch canoe slid on the smooth planks.")
    assert audio.samples.dtype == np.float32 and audio.samples.ndim == 1 and np.isfinite(audio.samples).all()
    assert audio.sample_rate == 8000 and audio.duration == len(audio.samples) / 8000
    (segment,) = audio.segments
    assert len(segment.mel) * 16 == len(audio.samples) and np.ptp(audio.samples) > 0
    assert segment.durations.shape == (len(segment.symbols),) and (segment.durations >= 1).all()
    assert segment.durations.sum() - len(segment.mel) in (0, 1)  # the flow squeezes frames by two
    assert "".join(segment.symbols).startswith("ð")


def test_a_text_sounds_the_same_alone_and_among_others(voice):
    alone = [voice.synthesize(t, seed=3) for t in TEXTS]
    for together in (voice.synthesize(TEXTS, seed=3), voice.synthesize(TEXTS * 2, seed=3)[-4:]):
        for one, other in zip(alone, together):
            np.testing.assert_allclose(one.samples, other.samples, rtol=0, atol=TOLERANCE)


def test_a_text_sounds_the_same_in_a_larger_bucket(voice_folder, monkeypatch):
    text = "The birch canoe slid on the smooth planks."
    small = load(voice_folder).synthesize(text)
    monkeypatch.setattr("jaxtts.synth.speak.HEADROOM", 4.0)
    monkeypatch.setattr("jaxtts.synth.speak.SYMBOLS", (128,))
    large = load(voice_folder).synthesize(text)
    np.testing.assert_allclose(small.samples, large.samples, rtol=0, atol=TOLERANCE)


def test_a_full_bucket_is_never_cut_off(voice_folder, monkeypatch):
    text = "The birch canoe slid on the smooth planks."
    expected = load(voice_folder).synthesize(text)
    monkeypatch.setattr("jaxtts.synth.speak.HEADROOM", 0.01)
    found = load(voice_folder).synthesize(text)
    assert len(found.segments[0].mel) > 64  # the smallest bucket did not do
    np.testing.assert_allclose(expected.samples, found.samples, rtol=0, atol=TOLERANCE)


def test_seed_and_scales(voice):
    text = "Glue the sheet."
    first = voice.synthesize(text, seed=1).samples
    np.testing.assert_array_equal(first, voice.synthesize(text, seed=1).samples)
    assert np.abs(first - voice.synthesize(text, seed=2).samples).max() > 1e-3
    flat = [voice.synthesize(text, seed=s, noise_scale=0.0).samples for s in (1, 2)]
    np.testing.assert_array_equal(*flat)
    assert len(voice.synthesize(text, length_scale=2.0).samples) > 1.6 * len(first)


def test_sentences_of_a_text_draw_different_noise(voice):
    one, two = voice.synthesize("Glue it. Glue it.").segments
    assert one.symbols == two.symbols and np.abs(one.mel - two.mel).max() > 1e-3


def test_warm_calls_neither_trace_nor_compile(voice, counted_compilations):
    voice.synthesize(TEXTS)
    with counted_compilations() as found:
        again = voice.synthesize(TEXTS, seed=5, length_scale=0.99, noise_scale=0.3)
    assert len(again) == len(TEXTS) and not found


def test_a_second_process_would_not_compile_either(voice_folder, counted_compilations):
    load(voice_folder).synthesize(TEXTS[0])
    jax.clear_caches()
    fresh = load(voice_folder)
    with counted_compilations() as found:
        fresh.synthesize(TEXTS[0])
    assert not found


def test_long_text_is_spoken_whole(voice):
    text = "The birch canoe slid on the smooth planks, and so on and so forth, " * 12 + "until the end. " + "Yes. " * 20
    audio = voice.synthesize(text)
    assert len(audio.segments) >= 22
    spoken = "".join("".join(s.symbols) for s in audio.segments)
    expected = "".join(t for s in voice.front_end.sentences(text) for t in s.tokens)
    assert spoken.replace(" ", "") == expected.replace(" ", "")
    ends = [s.start + len(s.mel) * 16 for s in audio.segments]
    starts = [s.start for s in audio.segments[1:]]
    pauses = np.array(starts) - np.array(ends[:-1])
    assert (pauses >= 0).all() and pauses[-1] == 2000 and pauses[0] == 0  # 0.25 s after a sentence, none within
    assert ends[-1] == len(audio.samples)


def test_ssml_breaks_are_silence(voice):
    audio = voice.synthesize('<speak><s>One.</s><break time="1s"/><s>Two.</s></speak>')
    one, two = audio.segments
    silence = audio.samples[one.start + 16 * len(one.mel) : two.start]
    assert len(silence) == 8000 and not silence.any()
    ends = voice.synthesize('<speak><break time="250ms"/>One.<break time="500ms"/></speak>')
    assert ends.segments[0].start == 2000 and not ends.samples[:2000].any()
    assert len(ends.samples) == 2000 + 16 * len(one.mel) + 4000 and not ends.samples[-4000:].any()


def test_ssml_rates_stretch_their_words_alone(voice):
    plain, slow = (
        voice.synthesize(f"<speak>The cat sat <prosody rate='{rate}'>on the mat</prosody> there.</speak>").segments[0]
        for rate in ("100%", "50%")
    )
    assert plain.symbols == slow.symbols
    ratio = slow.durations / plain.durations
    _, _, first, _, _, last = np.flatnonzero(np.array(plain.symbols) == " ")
    assert (ratio[:first] == 1).all() and (ratio[last:-1] == 1).all()  # the flow may drop an odd last frame
    assert (ratio[first:last] > 1.4).all() and ratio[first:last].mean() > 1.7


def test_speakers(runs, tmp_path):
    write_voice(tmp_path / "two", runs / "glow2", runs / "vocos")
    voice = load(tmp_path / "two")
    assert voice.speakers == ("ann", "bob")
    ann, bob = (voice.synthesize("Hello.", speaker=s).samples for s in ("ann", 1))
    assert ann.shape != bob.shape or np.abs(ann - bob).max() > 1e-3
    np.testing.assert_array_equal(ann, voice.synthesize("Hello.").samples)
    with pytest.raises(ValueError, match="speaker='eve' is not in voice 'two'; it has ann, bob"):
        voice.synthesize("Hello.", speaker="eve")


def test_each_text_its_own_speaker_scales_and_seed(runs, tmp_path, voice_folder):
    write_voice(tmp_path / "two", runs / "glow2", runs / "vocos")
    voice, other = load(tmp_path / "two"), load(voice_folder)
    lists = {
        "speaker": ["ann", "bob", 1, None],
        "length_scale": [1.0, 1.2, 0.9, None],
        "noise_scale": [0.0, 0.3, None, 0.5],
        "seed": [1, 2, 3, 4],
    }
    together = voice.synthesize(TEXTS, **lists)
    other.synthesize(TEXTS[0])  # another voice in the same program
    for number, (text, audio) in enumerate(zip(TEXTS, together)):
        alone = voice.synthesize(text, **{name: values[number] for name, values in lists.items()})
        np.testing.assert_allclose(audio.samples, alone.samples, rtol=0, atol=TOLERANCE)
    ann, bob = voice.synthesize("Hello.", speaker=["ann", "bob"])  # one text, two speakers
    np.testing.assert_allclose(bob.samples, voice.synthesize("Hello.", speaker="bob").samples, rtol=0, atol=TOLERANCE)
    assert ann.samples.shape != bob.samples.shape or np.abs(ann.samples - bob.samples).max() > 1e-3
    with pytest.raises(ValueError, match="text has 4, seed has 2; give one value for each text"):
        voice.synthesize(TEXTS, seed=[1, 2])
    assert voice.synthesize([], seed=[]) == []


def test_texts_of_many_speakers_are_one_call(runs, tmp_path, monkeypatch):
    write_voice(tmp_path / "two", runs / "glow2", runs / "vocos")
    voice, calls = load(tmp_path / "two"), []
    voice.synthesize("Hello.")
    call = voice._speaker._call
    monkeypatch.setattr(voice._speaker, "_call", lambda stage, inputs: (calls.append(inputs), call(stage, inputs))[1])
    voice.synthesize(
        ["Hello."] * 4, speaker=["ann", "bob", "ann", "bob"], seed=[1, 1, 2, 2], length_scale=[1, 1, 1, 1.1]
    )
    assert [len(inputs[0]) for inputs in calls] == [4, 4]  # text to mel, mel to wave


@pytest.mark.parametrize(
    "options, message",
    [
        ({"length_scale": 0.0}, "length_scale=0.0"),
        ({"length_scale": float("nan")}, "length_scale=nan"),
        ({"noise_scale": -1.0}, "noise_scale=-1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
    ],
)
def test_arguments_out_of_range_are_named(voice, options, message):
    with pytest.raises(ValueError, match=message):
        voice.synthesize("Hello.", **options)


def test_text_must_be_text(voice):
    with pytest.raises(ValueError, match="text is int"):
        voice.synthesize([3])
    assert voice.synthesize([]) == []


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_audio_is_saved(voice, tmp_path, suffix):
    from jaxtts.audio import io

    audio = voice.synthesize("Hello.")
    audio.save(tmp_path / f"x.{suffix}")
    samples, rate = io.load(tmp_path / f"x.{suffix}")
    assert len(samples) / rate == pytest.approx(audio.duration, abs=0.15)


def test_a_voice_of_hifigan_with_folded_weight_norm(runs, tmp_path):
    files = write_voice(tmp_path / "v", runs / "glow", runs / "hifigan")
    assert not any(name.endswith(".v") for name in files.parts["vocoder"].tensors)
    audio = load(tmp_path / "v").synthesize("Hello there.")
    assert np.isfinite(audio.samples).all() and np.ptp(audio.samples) > 0


def test_a_voice_holds_inverted_mixing_matrices(runs, voice_folder, tmp_path):
    files, trained = read_voice(voice_folder), read_safetensors(runs / "glow" / "model.safetensors")
    assert files.parts["acoustic"].config["inverse_only"] and not files.parts["acoustic"].config["weight_norm"]
    name = "decoder.blocks.1.mix"
    product = files.parts["acoustic"].tensors[f"{name}.inverse_weight"].astype(np.float32) @ trained[f"{name}.weight"]
    np.testing.assert_allclose(product, np.eye(4), atol=5e-3)  # float16
    assert not any(n.endswith("mix.weight") for n in files.parts["acoustic"].tensors)

    tensors = read_safetensors(voice_folder / "weights.safetensors")  # as folders were before, forward matrices
    for stored in [n for n in tensors if n.endswith("inverse_weight")]:
        tensors[stored.replace("inverse_", "")] = np.linalg.inv(tensors.pop(stored).astype(np.float32))
    shutil.copytree(voice_folder, tmp_path / "old")
    save_safetensors(tmp_path / "old" / "weights.safetensors", tensors)
    old, new = (load(f).synthesize("Hello.").samples for f in (tmp_path / "old", voice_folder))
    np.testing.assert_allclose(old, new, atol=1e-4)
    layer = GroupedInvertibleConv(8, 4, inverse_only=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="inverse_only"):
        layer.forward(np.zeros((1, 4, 8), np.float32), np.ones((1, 4), bool))


def test_halves_are_exchanged_and_checked(runs, voice_folder):
    whole = load(voice_folder).synthesize("Hello.").samples
    pieces = load(acoustic=runs / "glow", vocoder=runs / "vocos").synthesize("Hello.").samples
    assert abs(len(whole) - len(pieces)) <= 32  # the voice stores float16
    other = load(voice_folder, vocoder=runs / "hifigan").synthesize("Hello.").samples
    assert other.shape == whole.shape and np.abs(other - whole).max() > 1e-3
    with pytest.raises(ValueError, match="'tiny'.*'other'"):
        load(voice_folder, vocoder=runs / "other")


def test_folder_holds_what_was_written(voice_folder):
    files = read_voice(voice_folder)
    tensors = read_safetensors(voice_folder / "weights.safetensors")
    assert {x.dtype.name for x in tensors.values()} == {"float16"}
    assert files.name == "voice" and files.card == {"corpus": "none, random weights"}
    assert 1 < files.frames_per_symbol < 20
    assert "random weights" in (voice_folder / "README.md").read_text()
    assert json.loads((voice_folder / "voice.json").read_text())["sample_rate"] == 8000


def damaged(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def edit(name, value):
    def change(folder):
        meta = json.loads((folder / "voice.json").read_text())
        meta[name] = value
        (folder / "voice.json").write_text(json.dumps(meta))

    return change


def cut(folder):
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "change, message",
    [
        (cut, "weights.safetensors.*truncated"),
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda f: (f / "voice.json").unlink(), "no voice.json"),
        (lambda f: (f / "voice.json").write_text("{"), "voice.json cannot be read"),
        (lambda f: (f / "voice.json").write_text("[]"), "voice.json is damaged"),
        (lambda f: (f / "voice.json").write_text("[" * 100000), "voice.json cannot be read"),
        (edit("format", 99), "format is 99"),
        (edit("acoustic", {}), "voice.json is damaged"),
        (edit("text", {"frontend": "nope"}), "nope"),
        (edit("frames_per_symbol", "many"), "voice.json cannot be read"),
    ],
)
def test_a_damaged_voice_is_refused(voice_folder, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(damaged(voice_folder, tmp_path, change)).synthesize("Hello.")


def test_a_configuration_that_builds_nothing_is_refused(voice_folder, tmp_path):
    def change(folder):
        meta = json.loads((folder / "voice.json").read_text())
        meta["acoustic"]["config"]["encoder_dim"] = "wide"
        (folder / "voice.json").write_text(json.dumps(meta))

    with pytest.raises(ValueError, match="configuration of glow_tts is damaged"):
        load(damaged(voice_folder, tmp_path, change)).synthesize("Hello.")


def test_weights_that_do_not_fit_are_all_listed(voice_folder, tmp_path):
    def change(folder):
        meta = json.loads((folder / "voice.json").read_text())
        meta["vocoder"]["config"] |= {"num_layers": 1, "dim": 8}
        (folder / "voice.json").write_text(json.dumps(meta))

    with pytest.raises(ValueError, match=r"vocos: blocks.1.*unexpected.*blocks.0.*is \(\d"):
        load(damaged(voice_folder, tmp_path, change)).synthesize("Hello.")


def test_no_embedded_voice_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("jaxtts.voices.folders", dict)
    with pytest.raises(ValueError, match="no embedded voice"):
        synthesize("Hello.")
    with pytest.raises(ValueError, match="'nope' is neither"):
        load("nope")


def test_embedded_voices_are_found_by_name(voice_folder, monkeypatch):
    monkeypatch.setattr("jaxtts.voices.folders", lambda: {"rob": voice_folder})
    assert load().name == load("rob").name == "voice"


def test_a_voice_that_never_ends_is_refused(voice_folder, monkeypatch, caplog):
    monkeypatch.setattr("jaxtts.synth.speak.HEADROOM", 0.01)
    monkeypatch.setattr("jaxtts.synth.speak.MAX_FRAMES_PER_SYMBOL", 1)
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="not trained well enough"):
        load(voice_folder).synthesize("The birch canoe slid on the smooth planks.")
