"""Speech in chunks: the same samples as in one go, at once, and no more work than is asked for."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.models import glow_tts, hifigan, vocos
from jaxtts.synth import load, write_voice
from jaxtts.synth.ahead import ahead

LONG = "The birch canoe slid on the smooth planks, and so on and so forth, " * 8 + "until the end. Yes."
TEXTS = {
    "short": "Hello.",
    "sentences": "One. Two, three! And the birch canoe slid on the smooth planks. Four?",
    "cut in pieces": LONG,
    "pauses": '<speak><break time="40ms"/><s>One.</s><break time="1s"/><s>Two <break time="300ms"/> and <prosody '
    'rate="slow">then the birch canoe slid on.</prosody></s> Three! <break time="70ms"/></speak>',
}


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtts.synth.speak.CHUNK", 16)
        yield


@pytest.fixture(scope="module")
def voice(voice_folder):
    return load(voice_folder)


def streamed(voice, text, **options):
    chunks = list(voice.stream(text, **options))
    assert {c.sample_rate for c in chunks} == {voice.sample_rate}
    assert all(c.samples.dtype == np.float32 and len(c.samples) for c in chunks)
    return chunks


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_chunks_are_what_is_spoken_in_one_go(voice, text):
    options = {"seed": 3, "length_scale": 1.3, "noise_scale": 0.4}
    whole, chunks = voice.synthesize(text, **options).samples, streamed(voice, text, **options)
    assert len(chunks) >= len(whole) // (16 * 16 + 8000 * 2)
    found = np.concatenate([c.samples for c in chunks])
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)


def test_chunks_of_hifigan_and_of_a_second_speaker(runs, tmp_path):
    write_voice(tmp_path / "two", runs / "glow2", runs / "hifigan")
    voice = load(tmp_path / "two")
    for speaker in ("ann", "bob"):
        whole = voice.synthesize(TEXTS["sentences"], speaker=speaker).samples
        found = np.concatenate([c.samples for c in streamed(voice, TEXTS["sentences"], speaker=speaker)])
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)


def test_a_sentence_that_takes_more_frames_than_the_voice_says(voice_folder, monkeypatch):
    monkeypatch.setattr("jaxtts.synth.speak.HEADROOM", 0.01)
    voice, text = load(voice_folder), "The birch canoe slid on the smooth planks." * 2
    found = np.concatenate([c.samples for c in streamed(voice, text)])
    np.testing.assert_allclose(found, voice.synthesize(text).samples, rtol=0, atol=1e-4)


def test_a_warm_stream_neither_traces_nor_compiles(voice, counted_compilations):
    list(voice.stream(LONG))
    with counted_compilations() as found:
        list(voice.stream(LONG, seed=2, length_scale=0.98, noise_scale=0.3))
    assert not found


def test_a_second_process_would_neither(voice_folder, counted_compilations):
    list(load(voice_folder).stream("Hello there."))
    jax.clear_caches()
    fresh = load(voice_folder)
    with counted_compilations() as found:
        list(fresh.stream("Hello there."))
    assert not found


def test_a_stream_that_is_closed_works_no_more(voice):
    stream = voice.stream(LONG * 20)
    first = next(stream)
    assert len(first.samples) == 8 * 16 and "jaxtts-stream" in {t.name for t in threading.enumerate()}
    stream.close()
    assert "jaxtts-stream" not in {t.name for t in threading.enumerate()}


def test_a_text_is_read_no_further_than_needed(voice, monkeypatch):
    seen = []
    inner = voice.front_end._backend.plain
    monkeypatch.setattr(voice.front_end._backend, "plain", lambda text: (seen.append(text), inner(text))[1])
    stream = voice.stream("The cat sat on the mat. " * 500)
    next(stream)
    stream.close()
    assert 0 < len(seen) < 400


def test_a_program_may_end_in_the_middle_of_a_stream(voice_folder):
    code = (
        f"from jaxtts.synth import load; s = load({str(voice_folder)!r}).stream('The cat sat on the mat. ' * 99);"
        "print(len(next(s).samples))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 0 and not done.stderr


def test_what_is_wrong_is_said_at_once(voice):
    for text, options, message in [
        ("Hello.", {"length_scale": 0.0}, "length_scale=0.0"),
        ("Hello.", {"speaker": "eve"}, "speaker='eve'"),
        (["Hello."], {}, "text is list"),
        ("<speak>", {}, "broken SSML"),
    ]:
        with pytest.raises(ValueError, match=message):
            voice.stream(text, **options)
    with pytest.raises(ValueError, match="nothing to speak"):
        next(voice.stream("..."))


def test_ahead_is_bounded_and_hands_errors_on():
    made = []

    def items():
        for n in range(100):
            made.append(n)
            yield n
        raise ArithmeticError("the end")

    stream = ahead(items(), depth=3)
    assert list(islice(stream, 5)) == [0, 1, 2, 3, 4]
    time.sleep(0.05)
    assert len(made) <= 5 + 3 + 2
    with pytest.raises(ArithmeticError, match="the end"):
        list(stream)
    assert list(ahead([])) == []


@pytest.mark.parametrize(
    "module, config",
    [
        (vocos, vocos.Config.tiny()),
        (vocos, replace(vocos.Config.tiny(), n_fft=128, kernel_size=5, num_layers=3)),
        (hifigan, hifigan.Config.tiny()),
        (hifigan, replace(hifigan.Config.v3(), upsample_channels=16)),
    ],
    ids=["vocos", "vocos 128", "hifigan", "hifigan v3"],
)
def test_receptive_field_of_a_vocoder(module, config):
    """The samples of one frame have a gradient in the frames up to that far away, and in none beyond."""
    model, frames, place = module.Model(config, rngs=nnx.Rngs(0)), 64, 30
    rng, hop = np.random.default_rng(0), config.mel.hop_length
    mel, weights = (rng.standard_normal(shape, np.float32) for shape in ((1, frames, config.mel.num_bins), hop))
    change = jax.grad(lambda m: model.infer(m)[0, place * hop : (place + 1) * hop] @ weights)(mel)
    reached = np.abs(np.flatnonzero(np.abs(change[0]).max(axis=1)) - place)
    assert reached.max() == config.receptive_field


@pytest.mark.parametrize("changes", [{}, {"decoder_dilation": 2}, {"decoder_kernel_size": 5, "num_squeeze": 4}])
def test_receptive_field_of_the_flow(changes):
    config = glow_tts.Config.tiny(**changes)
    model, frames, reached = glow_tts.Model(config, rngs=nnx.Rngs(0)), 96, []
    for block in model.decoder.blocks:  # which begin as the identity
        shape = block.coupling.end.kernel.shape
        block.coupling.end.kernel = nnx.Param(0.1 * jax.random.normal(jax.random.key(1), shape))
    latent = jax.random.normal(jax.random.key(2), (1, frames, config.num_mels))
    mask = jnp.ones((1, frames), bool)
    slope = jax.jit(jax.grad(lambda z, place: model.decoder.inverse(z, mask)[0, place].sum()))
    for place in range(48, 48 + config.num_squeeze):
        change = np.abs(slope(latent, place))[0].max(axis=1)
        reached.append(np.abs(np.flatnonzero(change) - place).max())
    assert max(reached) == config.receptive_field
