"""Voices as programs: the same sound without flax and without the models' code."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from jaxtts import cli
from jaxtts.synth import exported, load, write_voice
from jaxtts.synth.voice import FaultySpeech
from jaxtts.weights.safetensors import read_safetensors

TEXT = "Hello there, Ann. Yes!"
OPTIONS = {
    "pair": {"seed": 3, "length_scale": 1.1},
    "whole": {"seed": 3, "speaker": "bob", "noise_scale": 0.3, "duration_noise_scale": 0.6},
    "attention": {"seed": 3, "max_frames": 200, "sigma": 0.5, "denoise": 0.1},
}


@pytest.fixture(scope="module")
def voices(runs, voice_folder):
    """Name -> folder of a voice, beside which NAME.export lies."""
    write_voice(runs / "manywhole", model=runs / "vits2")
    write_voice(runs / "attention", runs / "tacotron2", runs / "waveglow")
    folders = {"pair": voice_folder, "whole": runs / "manywhole", "attention": runs / "attention"}
    for folder in folders.values():
        assert cli.main(["export", str(folder), f"{folder}.export"]) == 0
    return folders


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_process_without_flax_says_the_same(voices, kind, tmp_path):
    code = (
        "import sys, numpy as np\n"
        "sys.modules['flax'] = sys.modules['jaxtts.models'] = sys.modules['jaxtts.nn'] = None  # importing them fails\n"
        "from jaxtts.synth.exported import load\n"
        f"audio = load({str(voices[kind]) + '.export'!r}).synthesize({TEXT!r}, **{OPTIONS[kind]!r})\n"
        "np.save('said.npy', audio.samples)\n"
        "loaded = [m for m in sys.modules if m.split('.')[0] in ('flax', 'optax', 'orbax', 'tensorflow_datasets')]\n"
        "assert loaded == ['flax'], loaded\n"
        "print(*(w.text for w in audio.timestamps))\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Hello", "there,", "Ann.", "Yes!"]
    expected = load(voices[kind]).synthesize(TEXT, **OPTIONS[kind]).samples
    np.testing.assert_allclose(np.load(tmp_path / "said.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_export_is_a_voice_like_any_other(voices, kind, tmp_path):
    voice, program = load(voices[kind]), load(f"{voices[kind]}.export")
    options = {"seed": 1, "retries": 0} | ({"max_frames": 200} if kind == "attention" else {})
    for one, other in zip(voice.synthesize([TEXT, "Yes."], **options), program.synthesize([TEXT, "Yes."], **options)):
        np.testing.assert_allclose(one.samples, other.samples, rtol=0, atol=1e-5)
        assert [s.complaints for s in one.segments] == [s.complaints for s in other.segments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaultySpeech)
        chunks = [c.samples for c in program.stream(TEXT, **options)]
    np.testing.assert_allclose(np.concatenate(chunks), voice.synthesize(TEXT, **options).samples, rtol=0, atol=1e-4)
    if kind == "whole":
        samples = 0.1 * np.random.default_rng(0).standard_normal(3000).astype(np.float32)
        heard = [v.convert(samples, 8000, source="ann", target="bob").samples for v in (voice, program)]
        np.testing.assert_allclose(*heard, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="is an export already"):
        exported.export(program, tmp_path / "again")


@pytest.mark.parametrize("kind", OPTIONS)
def test_another_program_finds_what_it_needs(voices, kind):
    """export.json and weights.safetensors, and nothing of this package, suffice to run `synthesize`."""
    folder, voice = voices[kind].with_name(f"{voices[kind].name}.export"), load(voices[kind])
    (piece,) = voice._pieces(voice.front_end.sentences("Hello there."), voice._manner(seed=5))
    frames, symbols, channels = 256, len(piece.ids), voice._speaker.channels
    noise = np.random.default_rng((5, 0)).standard_normal((1, frames, channels), np.float32)
    given = {
        "text": piece.ids[None], "text_lengths": [symbols], "speaker": [0], "noise": noise,
        "noise_scale": [piece.manner.noise_scale], "length_scale": piece.scales[None],
        "duration_noise": np.random.default_rng((5, 0, 1)).standard_normal((1, symbols, 2), np.float32),
        "duration_noise_scale": [piece.manner.duration_noise_scale],
        "seeds": np.random.SeedSequence((5, 0, 2, 0)).generate_state(1), "room": np.zeros(frames, bool),
        "vocoder_noise": voice._speaker.noise(frames, (5, 0, 3), None)[None],
    }  # fmt: skip
    described = json.loads((folder / "export.json").read_text())["programs"]["synthesize"]
    given |= read_safetensors(folder / "weights.safetensors")
    arrays = [np.asarray(given[name], x["dtype"]) for name, x in described["arguments"].items()]
    program = jax.export.deserialize(bytearray((folder / "synthesize.stablehlo").read_bytes()))
    results = dict(zip(described["results"], program.call(*arrays)))
    bound = {"max_frames": frames, "retries": 0} if kind == "attention" else {}
    audio = voice.synthesize("Hello there.", seed=5, **bound)
    count = int(results["lengths"][0])
    assert count == audio.segments[0].frames and (count < frames - 1 or audio.truncated)
    np.testing.assert_array_equal(results["durations"][0], audio.segments[0].durations)
    np.testing.assert_allclose(results["wave"][0, : count * 16], audio.samples, rtol=0, atol=1e-5)


def test_what_is_damaged_is_refused(voices, runs, tmp_path):
    def copied(name, content):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(f"{voices['pair']}.export", tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        return tmp_path / name

    with pytest.raises(ValueError, match="decode.stablehlo is not the file that export.json tells of"):
        copied("decode.stablehlo", b"no program")
        load(tmp_path / "decode.stablehlo").synthesize("A sentence that takes another bucket. " * 9)
    for content in (b"{", b"[]", b'{"format": 9, "programs": {}}', b'{"format": 1}'):
        with pytest.raises(ValueError, match="export.json is damaged"):
            exported.Exported(load(copied("export.json", content)).files)
    with pytest.raises(ValueError, match="holds no programs"):
        exported.load(voices["pair"])
    with pytest.raises(ValueError, match="platforms abacus are not known"):
        exported.export(load(voices["pair"]), tmp_path / "x", ["cpu", "abacus"])


def test_griffin_lim_is_not_exported(runs, tmp_path):
    with pytest.raises(ValueError, match="Griffin-Lim for a vocoder, which is no model to export"):
        exported.export(load(acoustic=runs / "glow", vocoder="griffin-lim"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_exchanged_half_is_not_a_program(voices, runs):
    other = load(f"{voices['pair']}.export", vocoder=runs / "hifigan")
    assert other.files.programs is None and other.synthesize("Hello.").duration > 0
