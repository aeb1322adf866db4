"""Tacotrons of coqui-tts and Real-Time-Voice-Cloning, from golden/tacotron/cases.npz, as files that those write."""

import json
import string
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts import interop, registry
from jaxtts.audio.features import linear_spectrogram_np
from jaxtts.interop.coqui import mel
from jaxtts.nn import functional
from jaxtts.text import TextSpec, build
from jaxtts.text.symbols import RTVC
from jaxtts.weights.fields import Fields
from jaxtts.weights.safetensors import save_safetensors

CASES = np.load(Path(__file__).parents[1] / "golden/tacotron/cases.npz")
AUDIO = {
    "sample_rate": 22050, "fft_size": 16, "hop_length": 4, "win_length": 16, "num_mels": 8, "mel_fmin": 0.0,
    "mel_fmax": None, "signal_norm": True, "symmetric_norm": True, "max_norm": 4.0, "clip_norm": True,
    "stats_path": None, "spec_gain": 20.0, "log_func": "np.log10", "ref_level_db": 20, "min_level_db": -100,
    "preemphasis": 0.97,
}  # fmt: skip
CHARACTERS = {"pad": "_", "characters": string.ascii_letters + string.digits, "punctuations": ".!?,"}


def part(name, kind):
    start = f"{name}/{kind}"
    return {key.removeprefix(start): CASES[key] for key in CASES.files if key.startswith(start)}


def speak(found, text, **options):
    graph, _, _ = functional.structure(
        lambda: registry.module(found.model).Model(found.config, rngs=functional.rngs_for_shapes())
    )
    text, lengths = jnp.asarray(text, jnp.int32), jnp.array([text.shape[1]])

    @jax.jit
    def run(tree):
        model = functional.merge(graph, tree)
        mels, frames, alignment = model.infer(text, lengths, **options)
        after = model.postprocess(mels, frames) if found.model == "tacotron" else mels
        return frames, after, mels, alignment

    frames, *arrays = run(functional.nested(found.tensors))
    return [np.asarray(x)[:, : int(frames[0])] for x in arrays]


@pytest.fixture
def coqui_folder(tmp_path):
    config = json.loads(str(CASES["coqui_forward/meta"]))["config"]
    config |= {"model": "tacotron", "audio": AUDIO, "characters": CHARACTERS, "use_phonemes": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_safetensors(tmp_path / "model.safetensors", part("coqui_forward", "w/"))
    return tmp_path


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_coqui_tacotron_speaks_as_recorded(coqui_folder):
    found = interop.read(coqui_folder)
    assert (found.model, found.mel.name, found.speakers) == ("tacotron", "coqui", ("default",))
    assert "vocoder" in found.missing
    assert build(found.text).encode(list("abi!")).tolist() == [37, 38, 45, 64]
    want = part("coqui_forward", "out.inference.")
    after, mels, alignment = speak(found, CASES["coqui_forward/in.text"][:1], max_frames=39)
    np.testing.assert_allclose(after, want["model_outputs"], atol=1e-5)
    np.testing.assert_allclose(mels, want["decoder_outputs"], atol=1e-5)
    np.testing.assert_allclose(alignment[:, ::3], want["alignments"], atol=1e-5)


def test_coqui_tacotron_of_several_speakers(coqui_folder):
    change(coqui_folder, use_d_vector_file=True, d_vector_dim=2, d_vector_file="speakers.json")
    vectors = {n: {"name": n, "embedding": [3.0, i]} for i, n in enumerate(("dan", "eve"))}
    (coqui_folder / "speakers.json").write_text(json.dumps(vectors))
    weights = part("coqui_forward", "w/")
    for name, where in (("attention_rnn.weight_ih", 2), ("attention.inputs_layer.linear_layer.weight", 2),
                        ("project_to_decoder_in.weight", 2), ("attention.ta.weight", 2)):  # fmt: skip
        x = weights[f"decoder.{name}"]
        weights[f"decoder.{name}"] = np.concatenate([x, np.zeros((len(x), where), np.float32)], axis=1)
    save_safetensors(coqui_folder / "model.safetensors", weights)
    found = interop.read(coqui_folder)
    assert (found.speakers, found.config.num_speakers, found.config.speaker_dim) == (("dan", "eve"), 2, 2)
    np.testing.assert_array_equal(found.tensors["speaker_embedding"], [[3, 0], [3, 1]])


def test_coqui_tacotron2_speaks_as_recorded(coqui_folder):
    with np.load(Path(__file__).parents[1] / "golden/tacotron2/coqui.npz") as file:
        case = {name.removeprefix("coqui/"): x for name, x in file.items()}
    values = json.loads(str(case["meta"]))["config"]
    config = values | {"model": "tacotron2", "audio": AUDIO | {"num_mels": 7}, "characters": CHARACTERS}
    (coqui_folder / "config.json").write_text(json.dumps(config | {"use_phonemes": False}))
    weights = {name.removeprefix("w/"): x for name, x in case.items() if name.startswith("w/")}
    save_safetensors(coqui_folder / "model.safetensors", weights)
    found = interop.read(coqui_folder)
    assert (found.kind, found.model, found.config.reduction_factor) == ("Tacotron 2 (coqui-tts)", "tacotron2", 2)
    mels, alignment = speak(found, case["in.text"][:1], max_frames=12)[-2:]
    np.testing.assert_allclose(mels, case["out.inference.model_outputs"], atol=1e-5)
    np.testing.assert_allclose(alignment[:, ::2], case["out.inference.alignments"], atol=1e-5)


def test_coqui_options_without_counterpart_are_named(coqui_folder):
    for name, value in (("attention_type", "graves"), ("prenet_type", "bn"), ("windowing", True), ("use_gst", True)):
        config = (coqui_folder / "config.json").read_text()
        change(coqui_folder, **{name: value})
        with pytest.raises(ValueError, match=name):
            interop.read(coqui_folder)
        (coqui_folder / "config.json").write_text(config)
    change(coqui_folder, audio=AUDIO | {"stats_path": "scale_stats.npy"})
    with pytest.raises(ValueError, match=r"stats_path='scale_stats.npy'.*--mel-spec"):
        interop.read(coqui_folder)
    change(coqui_folder, model="fast_pitch")
    with pytest.raises(ValueError, match="model='fast_pitch'.*'vits', 'glow_tts', 'tacotron', 'tacotron2'"):
        interop.read(coqui_folder)


def test_frames_of_coqui_in_decibels():
    """Against the arithmetic of its AudioProcessor, on a linear spectrogram."""
    spec = mel(Fields(AUDIO | {"preemphasis": 0.0})).replace(num_mels=None)
    wave = np.random.default_rng(0).standard_normal(400).astype(np.float32) * np.geomspace(1e-6, 1, 400, dtype="f")
    magnitudes = linear_spectrogram_np(wave, spec.replace(log=None, value_range=None))
    decibels = 20 * np.log10(np.maximum(1e-8, magnitudes)) - 20
    want = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)
    np.testing.assert_allclose(linear_spectrogram_np(wave, spec), want, atol=1e-4)
    assert mel(Fields(AUDIO | {"symmetric_norm": False, "max_norm": 1.0})).value_range == (0.0, 1.0)
    assert mel(Fields(AUDIO)).preemphasis == 0.97


@pytest.fixture
def rtvc_folder(tmp_path):
    save_safetensors(tmp_path / "synthesizer.safetensors", part("rtvc", "w/"))
    return tmp_path


def test_synthesizer_of_rtvc_speaks_as_recorded(rtvc_folder):
    path = rtvc_folder / "synthesizer.safetensors"
    assert interop.recognise(path) == "synthesizer (Real-Time-Voice-Cloning)"
    bare = interop.read(path)
    assert (bare.config.num_speakers, bare.config.reduction_factor) == (1, 2)
    assert "12 symbols" in bare.missing and bare.text is None
    embeddings = CASES["rtvc/in.speaker_embedding"]
    np.save(rtvc_folder / "embed-ada.npy", embeddings[0])
    assert interop.read(path).speakers == ("ada", "ada")
    np.save(rtvc_folder / "bob.npy", embeddings[1])
    found = interop.read(path)
    assert found.speakers == ("bob", "ada") and found.config.num_speakers == 2
    want = part("rtvc", "out.generate.")
    _, mels, alignment = speak(found, CASES["rtvc/in.x"][:1], max_frames=14, speaker=jnp.array([1]))
    assert mels.shape[1] == 14
    np.testing.assert_allclose(mels, want["linear"][:1].swapaxes(1, 2), atol=1e-5)
    np.testing.assert_allclose(alignment[:, ::2], want["attention"][:1], atol=1e-5)
    np.save(rtvc_folder / "wrong.npy", np.zeros(3))
    with pytest.raises(ValueError, match="wrong.npy holds 3 numbers: an embedding of this model has 4"):
        interop.read(path)


def test_text_of_rtvc():
    assert len(RTVC) == 66
    front_end = build(TextSpec("characters", symbols=RTVC, eos="~", cleaner="english_cleaners"))
    (sentence,) = front_end.sentences("Dr. Who: 2!")
    letters = "".join(RTVC[i] for i in front_end.encode(sentence.tokens))
    assert letters == "doctor who: two!~"
