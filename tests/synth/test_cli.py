"""The command line: what people type, and every kind of bad input."""

import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from jaxtts import cli
from jaxtts.audio import io as sound


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """run(*argv, stdin=b'') -> (exit code, stdout bytes, stderr), in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv, stdin=None):
        stream = io.TextIOWrapper(io.BytesIO(stdin or b""), encoding="utf-8")
        stream.isatty = lambda: stdin is None
        monkeypatch.setattr(sys, "stdin", stream)
        code = cli.main([str(a) for a in argv])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def refused(result, tmp_path, *words):
    """One sentence on stderr, exit code 2, nothing on stdout and no file left."""
    code, out, err = result
    assert code == 2 and not out, (code, out, err)
    assert err.count("\n") == 1 and err.startswith("jaxtts: ") and "Traceback" not in err
    assert all(word in err for word in words), err
    assert not [p.name for p in tmp_path.iterdir() if p.suffix != ".keep"]


def test_say_writes_a_file(run, voice_folder, tmp_path):
    code, _, err = run("say", "Hello there.", "-o", "out.wav", "--voice", voice_folder)
    assert code == 0 and err.startswith("out.wav: ") and "voice voice" in err
    samples, rate = sound.load(tmp_path / "out.wav")
    assert rate == 8000 and len(samples) > 100
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--text", "Hello there.", "--out_path", "x.flac"],  # Coqui
        ["-f", "text.keep", "-o", "x.flac"],
        ["--input-file=text.keep", "--output_file=x.flac"],  # Piper
    ],
)
def test_say_knows_other_spellings(run, voice_folder, tmp_path, argv):
    (tmp_path / "text.keep").write_text("Hello there.")
    code, _, err = run("say", *argv, "-m", voice_folder, "--length_scale", "1.5", "-q")
    assert code == 0 and not err
    assert (tmp_path / "x.flac").is_file()


def test_say_reads_stdin_and_writes_stdout(voice_folder, tmp_path):
    command = [sys.executable, "-m", "jaxtts", "say", "--voice", str(voice_folder)]
    options = {"input": b"Hello there.", "capture_output": True, "cwd": tmp_path, "timeout": 120}
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    raw = subprocess.run([*command, "--output-raw"], **options, env=env)
    assert raw.returncode == 0, raw.stderr
    wav = subprocess.run([*command, "-", "-o", "-", "--seed", "0"], **options, env=env)
    assert wav.returncode == 0 and wav.stdout[:4] == b"RIFF"
    streamed, whole = (np.frombuffer(x, "<i2").astype(int) for x in (raw.stdout, wav.stdout[-len(raw.stdout) :]))
    assert len(raw.stdout) > 1000 and len(wav.stdout) - len(raw.stdout) < 100
    assert np.abs(streamed - whole).max() <= 4  # 1e-4


def test_say_streams(run, voice_folder, monkeypatch):
    """Raw samples come chunk by chunk, and one that is asked for with timestamps all at once."""
    from jaxtts.synth.voice import Voice

    chunks, written = [], []
    inner = Voice.stream_sentences
    monkeypatch.setattr(Voice, "stream_sentences", lambda *a, **k: (chunks.append(c) or c for c in inner(*a, **k)))
    monkeypatch.setattr("jaxtts.commands.say._write", lambda audio, raw: written.append((raw, len(audio.samples))))
    text = "Hello there. " * 4
    code, _, err = run("say", text, "--stream", "--voice", voice_folder, "--seed", "2")
    assert code == 0 and "standard output: " in err
    assert len(chunks) >= 4 and written == [(True, len(c.samples)) for c in chunks]
    total = sum(len(c.samples) for c in chunks)
    assert f" {total / 8000:.2f} s" in err
    written.clear()
    assert run("say", text, "--stream", "--timestamps", "t.srt", "--voice", voice_folder, "--seed", "2")[0] == 0
    assert written == [(True, total)]


def test_say_writes_timestamps(run, voice_folder, tmp_path):
    assert run("say", "Hello you. There!", "--timestamps", "t.json", "--voice", voice_folder)[0] == 0
    found = json.loads((tmp_path / "t.json").read_text())
    assert [w["text"] for s in found["sentences"] for w in s["words"]] == ["Hello", "you.", "There!"]
    code, _, err = run("say", "Hello.", "-o", "x.wav", "--timestamps", "t.txt", "--voice", voice_folder)
    assert code == 2 and "unknown suffix '.txt'" in err and not (tmp_path / "x.wav").exists()


def test_seed_decides(run, voice_folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("say", "Hello there.", "-o", f"{name}.wav", "--voice", voice_folder, "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / f"{n}.wav").read_bytes() for n in "abc")
    assert a == b != c


def test_plot(run, voice_folder, tmp_path):
    assert run("say", "Hello. You there!", "--plot", "x.png", "--voice", voice_folder)[0] == 0
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    code, _, err = run("say", "Hello.", "--plot", "y.jpg", "--voice", voice_folder)
    assert code == 2 and "'.jpg'" in err and [p.name for p in tmp_path.iterdir()] == ["x.png"]


SPOKEN = {
    "control": "Hel\x00lo \x07 the\x1bre\r\n\t.",
    "mixed scripts": "Hello мир 世界 and مرحبا.",
    "emoji inside": "Hello 😀 there.",
    "digits": "12345678901234567890 and 3.14",
    "one letter": "a",
    "markup": "a < b & c > d",
    "surrogate": "Hello \udce4 there.",
    "right to left": "\u202eHello\u202c there.",
}
UNSPOKEN = {
    "empty": "",
    "spaces": "  \n\t ",
    "emoji": "😀😀🎉",
    "punctuation": "?!...",
    "zero width": "\u200b\u200d\ufeff",
    "broken ssml": "<speak>Hello <break",
    "foreign ssml": "<speak>Hello <audio src='x'/></speak>",
    "entity bomb": '<!DOCTYPE a [<!ENTITY x "y">]><speak>&x;</speak>'.replace("<!DOCTYPE", "<speak><!DOCTYPE"),
}


@pytest.mark.parametrize("text", SPOKEN.values(), ids=SPOKEN)
def test_odd_texts_are_spoken(run, voice_folder, tmp_path, text):
    code, _, err = run("say", "--text", text, "-o", "out.wav", "--voice", voice_folder)
    assert code == 0, err
    assert "Traceback" not in err and len(sound.load(tmp_path / "out.wav")[0]) > 0


@pytest.mark.parametrize("text", UNSPOKEN.values(), ids=UNSPOKEN)
def test_texts_without_speech_are_refused(run, voice_folder, tmp_path, text):
    refused(run("say", "--text", text, "-o", "out.wav", "--voice", voice_folder), tmp_path)


def test_a_hundred_thousand_characters(run, voice_folder, tmp_path):
    text = ("The birch canoe slid on the smooth planks. " * 2400)[:100_000]
    code, _, err = run("say", "-", "-o", "out.wav", "--voice", voice_folder, stdin=text.encode())
    assert code == 0, err
    assert len(sound.load(tmp_path / "out.wav")[0]) / 8000 > 2400 * 0.25


def test_a_hundred_thousand_letters_without_a_space(run, voice_folder, tmp_path):
    code, out, err = run("say", "-", "-o", "out.wav", "--voice", voice_folder, stdin=b"a" * 100_000)
    assert code in (0, 2) and "Traceback" not in err and err.count("\n") == 1
    assert (tmp_path / "out.wav").is_file() == (code == 0)


def test_bad_invocations(run, voice_folder, tmp_path):
    voice = ["--voice", voice_folder]
    refused(run("say", *voice, "-o", "x.wav"), tmp_path, "no text")
    refused(run("say", "Hi.", *voice), tmp_path, "-o out.wav")
    refused(run("say", "Hi.", "--text", "Ho.", *voice, "-o", "x.wav"), tmp_path, "more than one text")
    refused(run("say", "Hi.", *voice, "-o", "x.xyz"), tmp_path, "'.xyz'")
    refused(run("say", "Hi.", *voice, "-o", "no/such/x.wav"), tmp_path, "does not exist")
    refused(run("say", "Hi.", *voice, "-o", "x.wav", "--length-scale", "0"), tmp_path, "length_scale=0.0")
    refused(run("say", "Hi.", *voice, "-o", "x.wav", "--seed", "x"), tmp_path, "--seed")
    refused(run("say", "Hi.", *voice, "-o", "x.wav", "--nope"), tmp_path, "--nope", "--help")
    refused(run("say", "-f", "missing.txt", *voice, "-o", "x.wav"), tmp_path, "missing.txt")
    refused(run("say", *voice, "-o", "x.wav", stdin=b"caf\xe9"), tmp_path, "not UTF-8")
    refused(run("say", "Hi.", "--voice", "nope", "-o", "x.wav"), tmp_path, "'nope'")
    refused(run("nope"), tmp_path, "'nope'", "say")
    assert run()[0] == 2


def test_a_pickle_is_not_opened(run, runs, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    for name in ("voice.keep", "weights.safetensors", "model.safetensors"):
        folder = runs / "evil"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(Evil()))
    (folder / "voice.json").write_text((runs / "voice" / "voice.json").read_text())
    (folder / "config.json").write_text((runs / "vocos" / "config.json").read_text())
    refused(run("say", "Hi.", "--voice", folder / "voice.keep", "-o", "x.wav"), tmp_path, "voice.keep")
    refused(run("say", "Hi.", "--voice", folder, "-o", "x.wav"), tmp_path, "safetensors")
    (folder / "voice.json").unlink()
    refused(run("vocode", "x.npy", "--vocoder", folder, "-o", "x.wav"), tmp_path, "safetensors")
    refused(run("import-weights", folder / "weights.safetensors", "out"), tmp_path, "safetensors")
    np.save(tmp_path / "mel.npy", np.array([Evil()]), allow_pickle=True)
    (tmp_path / "mel.npy").rename(runs / "evil.npy")
    refused(run("vocode", runs / "evil.npy", "--vocoder", runs / "vocos", "-o", "x.wav"), tmp_path, "evil.npy")


def test_a_vocoder_of_other_mels_is_refused(run, runs, voice_folder, tmp_path):
    result = run("say", "Hi.", "--voice", voice_folder, "--vocoder", runs / "other", "-o", "x.wav")
    refused(result, tmp_path, "'tiny'", "'other'")


def test_vocode(run, runs, tmp_path):
    rng = np.random.default_rng(0)
    sound.save(tmp_path / "in.wav", 0.1 * rng.standard_normal(4000).astype(np.float32), 8000)
    for vocoder in (runs / "vocos", runs / "hifigan", runs / "voice"):
        assert run("vocode", "in.wav", "-o", "out.wav", "--vocoder", vocoder)[0] == 0
        assert len(sound.load("out.wav")[0]) == 4000
    np.save("mel.npy", rng.standard_normal((10, 70)).astype(np.float32))  # [M, T], as others store it
    assert run("vocode", "mel.npy", "-o", "out.wav", "--model", runs / "vocos")[0] == 0
    assert len(sound.load("out.wav")[0]) == 70 * 16
    assert run("vocode", "in.wav", "-o", "out.wav", "--vocoder", "griffin-lim")[0] == 0
    np.save("mel.npy", np.zeros((3, 4)))
    code, _, err = run("vocode", "mel.npy", "-o", "no.wav", "--vocoder", runs / "vocos")
    assert code == 2 and "[3, 4]" in err and not os.path.exists("no.wav")


def test_vocoding_in_pieces_is_vocoding_whole(runs, monkeypatch):
    from jaxtts.synth import speak
    from jaxtts.synth.vocode import Vocoder

    mel = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    whole = {name: Vocoder(runs / name).wave(mel) for name in ("vocos", "waveglow")}
    monkeypatch.setattr(speak, "WINDOWS", (64,))
    for name, wave in whole.items():
        np.testing.assert_allclose(wave, Vocoder(runs / name).wave(mel), rtol=0, atol=1e-4)


def test_a_wavenet_reads_its_weights_in_fewer_bits(run, runs):
    np.save("mel.npy", np.random.default_rng(0).standard_normal((20, 10)).astype(np.float32))
    vocode, waves = ["vocode", "mel.npy", "--vocoder", runs / "wavenet", "-o", "out.wav", "--exact"], []
    for options in ([], ["--weights-dtype", "float32"], ["--weights-dtype", "int8"]):
        assert run(*vocode, *options)[0] == 0
        waves.append(sound.load("out.wav")[0])
    np.testing.assert_array_equal(waves[0], waves[1])
    assert waves[2].shape == waves[0].shape == (320,) and (waves[2] != waves[0]).any()
    code, _, err = run("vocode", "mel.npy", "--vocoder", runs / "vocos", "-o", "no.wav", "--weights-dtype", "int8")
    assert code == 2 and "weights_dtype='int8'" in err and not os.path.exists("no.wav")


def test_vocode_with_noise_and_without_hum(run, runs, tmp_path):
    np.save("mel.npy", np.random.default_rng(0).standard_normal((70, 10)).astype(np.float32))
    vocode, waves = ["vocode", "mel.npy", "--vocoder", runs / "waveglow", "-o"], []
    for options in ([], ["--seed", 0, "--sigma", 0.6], ["--seed", 1], ["--sigma", 1], ["--denoise", 0.3]):
        assert run(*vocode, "x.wav", *options)[0] == 0
        waves.append(sound.load("x.wav")[0])
    np.testing.assert_array_equal(waves[0], waves[1])
    assert all(np.abs(a - waves[0]).max() > 1e-3 for a in waves[2:])
    assert run("vocode", "mel.npy", "-o", "x.wav", "--vocoder", runs / "vocos", "--denoise", 0.3)[0] == 0
    for vocoder, option, word in (("vocos", "--sigma", "no noise"), ("griffin-lim", "--denoise", "no hum")):
        path = runs / vocoder if vocoder == "vocos" else vocoder
        np.save("mel.npy", np.zeros((70, 10 if vocoder == "vocos" else 80), np.float32))
        code, _, err = run("vocode", "mel.npy", "-o", "no.wav", "--vocoder", path, option, 0.5)
        assert code == 2 and word in err and not os.path.exists("no.wav")
    assert run("vocode", "mel.npy", "-o", "no.wav", "--vocoder", "griffin-lim", "--denoise", -1)[0] == 2


def test_say_tells_of_faults(run, runs, tmp_path):
    say = ["say", "the cat sat. the cat sat quickly there. the ox sat.", "--acoustic", runs / "scripted"]
    say += ["--vocoder", runs / "vocos", "--max-frames", "300"]
    code, _, err = run(*say, "-o", "x.wav")
    skip, end, stuck, written = err.splitlines()
    assert code == 3 and "'the cat sat quickly there.' skips 'quickly'" in skip and written.startswith("x.wav: ")
    assert "'the ox sat.' did not end by itself and is cut off after 300 frames" in end and "max_frames" in end
    assert "is stuck at, 'sat.'" in stuck
    assert len(sound.load("x.wav")[0]) > 300 * 16
    code, out, err = run(*say, "--stream", "-q")
    assert code == 3 and not err
    code, _, err = run(*say, "--stream")
    assert code == 3 and "skips 'quickly'" in err and "cut off after 300 frames" in err
    say[1] = "the cat sat."
    assert run(*say, "-o", "x.wav", "-q")[::2] == (0, "")
    assert run(*say, "--stream", "-q")[::2] == (0, "")
    flaky = [*say, "-o", "x.wav", "-q"]
    flaky[3] = runs / "flaky"
    assert {n: run(*flaky, "--retries", n, "--seed", 1)[0] for n in (0, 30)} == {0: 3, 30: 0}


def test_say_by_griffin_lim(run, runs, tmp_path):
    for acoustic in ("glow", "tacotron2"):
        options = ["--acoustic", runs / acoustic, "--vocoder", "griffin-lim", "-o", "x.wav"]
        assert run("say", "Hello there.", *options)[0] in (0, 3)
        assert np.abs(sound.load("x.wav")[0]).max() > 0
    code, _, err = run("say", "Hi.", *options, "--denoise", "1")
    assert code == 2 and "denoise=1.0" in err


def test_export_voice(run, runs, tmp_path):
    (tmp_path / "facts.keep").write_text(json.dumps({"corpus": "a test"}))
    code, out, _ = run(
        "export-voice", "ann", "--acoustic", runs / "glow", "--vocoder", runs / "vocos", "--card", "facts.keep"
    )
    assert code == 0 and "voice ann" in out
    assert "a test" in (tmp_path / "ann" / "README.md").read_text()
    assert run("say", "Hi.", "--voice", "./ann", "-o", "x.wav")[0] == 0
    code, _, err = run("export-voice", "bob", "--acoustic", runs / "glow", "--vocoder", runs / "other")
    assert code == 2 and "'other'" in err and not (tmp_path / "bob").exists()


def test_import_weights(run, tmp_path):
    from flax import nnx

    from jaxtts.models.hifigan import Config, Model
    from jaxtts.nn import functional
    from jaxtts.weights.safetensors import save_safetensors

    config = {
        "resblock": "1", "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4],
        "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    }  # fmt: skip
    ours = Config(upsample_channels=16, resblock_kernel_sizes=(3,), resblock_dilations=((1, 3),), weight_norm=False)
    _, params, _ = functional.split(Model(ours, rngs=nnx.Rngs(0)))
    torch_order = {"kernel": "weight", "bias": "bias"}
    tensors = {}
    for name, x in functional.named(params).items():
        module, _, kind = name.rpartition(".")
        axes = (1, 2, 0) if name.startswith("ups") else (2, 1, 0)  # [W, I, O] -> [I, O, W] or [O, I, W]
        tensors[f"{module}.{torch_order[kind]}"] = np.asarray(x) if x.ndim == 1 else np.transpose(x, axes)
    save_safetensors("g.safetensors", tensors)
    code, _, err = run("import-weights", "g.safetensors", "imported")
    assert code == 2 and "--config" in err
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = run("import-weights", "g.safetensors", "imported")
    assert code == 0 and "HiFi-GAN" in out, err
    tensors.pop("conv_pre.bias")
    save_safetensors("broken.safetensors", tensors)
    code, _, err = run("import-weights", "broken.safetensors", "broken")
    assert code == 2 and "conv_pre.bias" in err and not (tmp_path / "broken").exists()
    np.save("mel.npy", np.zeros((20, 80), np.float32))
    assert run("vocode", "mel.npy", "--vocoder", "imported", "-o", "x.wav")[0] == 0


def test_models_lists_the_registry(run, monkeypatch):
    from jaxtts.registry import MODELS

    monkeypatch.delitem(MODELS, "scripted", raising=False)  # a model of other tests, see scripted.py
    code, out, _ = run("models")
    assert code == 0 and all(name in out and entry.paper in out for name, entry in MODELS.items())


def test_doctor(run):
    code, out, _ = run("doctor")
    assert code == 0 and "convolution off by" in out and "cache" in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.count(f"jaxtts {command}") >= 2  # the usage and an example


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0 and all(command in out for command in cli.COMMANDS)


def test_end_to_end_voices(run, runs, voice_folder, tmp_path):
    code, out, _ = run("export-voice", "many", "--model", runs / "vits2", "--duration-noise-scale", "0.3")
    assert code == 0 and "voice many" in out
    assert json.loads((tmp_path / "many" / "voice.json").read_text())["duration_noise_scale"] == 0.3
    for voice in ("many", runs / "vits2"):
        options = ["--voice", voice, "--speaker", "bob", "--noise-w", "0.5", "-o", "bob.wav"]
        code, _, err = run("say", "Hello there.", *options)
        assert code == 0, err
    code, _, err = run("convert-voice", "bob.wav", "--to", "ann", "--voice", "many")
    assert code == 0 and "for one of bob's" in err
    bob, ann = (sound.load(tmp_path / f)[0] for f in ("bob.wav", "bob-ann.wav"))
    assert ann.shape == bob.shape and np.abs(ann - bob).max() > 1e-3
    assert run("convert-voice", "bob.wav", "--to", "1", "--from", "0", "--voice", "many", "-o", "x.flac", "-q")[2] == ""
    code, _, err = run("convert-voice", "bob.wav", "--to", "eve", "--voice", "many")
    assert code == 2 and "'eve'" in err
    code, _, err = run("say", "Hi.", "--voice", voice_folder, "--duration-noise-scale", "1", "-o", "x.wav")
    assert code == 2 and "duration_noise_scale=1.0" in err


def test_debug_shows_where(voice_folder):
    with pytest.raises(ValueError, match="nothing to speak"):
        cli.main(["say", "", "-o", "x.wav", "--voice", str(voice_folder), "--debug"])


def test_interruption(monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxtts.commands.models.run", interrupt)
    assert cli.main(["models"]) == 130


def test_say_stays_light():
    """What a warm start must not import."""
    code = "import sys, jaxtts.cli, jaxtts.commands.say, jaxtts.synth.voice; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert not {"flax", "optax", "orbax", "jax", "tyro", "matplotlib", "librosa", "scipy"} & set(loaded.stdout.split())
