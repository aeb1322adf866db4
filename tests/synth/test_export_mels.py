"""A corpus's mels as a model makes them, and a vocoder that is trained on them."""

import hashlib
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import soundfile
from conftest import export_model
from flax import nnx

from jaxtts.audio.spec import MelSpec
from jaxtts.cli import main
from jaxtts.data import Dataset
from jaxtts.models import glow_tts, tacotron2, vocos
from jaxtts.nn import functional
from jaxtts.synth.folder import read_part
from jaxtts.synth.teacher_forced import TeacherForced
from jaxtts.text import TextSpec

MEL, TEXT = vocos.Config.tiny().mel, TextSpec("characters")
RECIPE = """
from jaxtts.models.vocos import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig

def get_config():
    config = Config.tiny()
    data = DataConfig(config.mel, TextSpec("characters"), batch_size=4, segment_length=256, held_out=2)
    optim = OptimConfig(learning_rate=1e-3)
    return Recipe("vocos", config, optim, data, steps=2, log_every=1, eval_every=2, sample_every=2)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus of ten utterances of two speakers, and models of its mels and symbols with random weights."""
    root, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (root / "corpus" / speaker / "wavs").mkdir(parents=True)
        lines = []
        for i in range(5):
            wave = np.sin(np.arange(int(rng.integers(3000, 5000))) * rng.uniform(0.1, 0.5)) * 0.5
            wave += rng.normal(size=len(wave)) * 0.05
            soundfile.write(root / "corpus" / speaker / "wavs" / f"{speaker}{i}.wav", wave, 8000)
            lines.append(f"{speaker}{i}|Hello there.|Hello {'there ' * (i + 1)}.\n")
        (root / "corpus" / speaker / "metadata.csv").write_text("".join(lines))
    facts = {"mel": MEL.to_dict(), "text": TEXT.to_dict()}
    sizes = {"num_symbols": len(TEXT.symbols), "num_mels": MEL.num_bins}
    one = tacotron2.Config.tiny(**sizes, reduction_factor=2, prenet_dropout=0.5)
    export_model(root / "tacotron2", "tacotron2", tacotron2, one, **facts)
    two = tacotron2.Config.tiny(**sizes, num_speakers=2, speaker_dim=4)
    export_model(root / "two", "tacotron2", tacotron2, two, speakers=["bob", "ann"], **facts)
    export_model(root / "glow", "glow_tts", glow_tts, glow_tts.Config.tiny(**sizes), **facts)
    (root / "mine.py").write_text(RECIPE)
    return root


def exported(home, run, out, *options):
    return main(["export-mels", str(home / run), "--data", str(home / "corpus"), "--out", str(out), "--jobs", "1"] + [
        str(o) for o in options
    ])  # fmt: skip


def prepared(home):
    (path,) = (home / "prepared" / "corpus").glob("corpus-*/*/index.json")
    return Dataset.open(path.parent)


@pytest.mark.parametrize("run", ["tacotron2", "glow"])
def test_mels_are_those_of_the_model(home, run, tmp_path, capsys):
    assert exported(home, run, tmp_path / "mels", "--batch-size", 4) == 0
    assert "10 mels of" in capsys.readouterr().out
    dataset = prepared(home)
    index = json.loads((tmp_path / "mels" / "index.json").read_text())
    assert index["frames"] == dict(zip(dataset.ids.tolist(), dataset.frames.tolist())) and index["count"] == 10
    assert MelSpec.from_dict(index["mel"]) == MEL and index["model"] == {"glow": "glow_tts"}.get(run, run)
    part, _ = read_part(home / run, "acoustic")
    model = TeacherForced(part)
    for place in (0, 7):
        record = dataset[place]
        mel = np.load(tmp_path / "mels" / f"{str(record['id']).replace('/', '%2F')}.npy")
        assert mel.dtype == np.float32 and mel.shape == record["mel"].shape
        batch = {
            "text": record["tokens"][None], "text_lengths": np.array([len(record["tokens"])], np.int32),
            "mel": record["mel"][None], "mel_lengths": np.array([len(mel)], np.int32),
            "speaker": np.zeros(1, np.int32),
        }  # fmt: skip
        seed = np.frombuffer(hashlib.sha256(f"0 {record['id']}".encode()).digest()[:4], "<u4")
        (alone,) = model.mels(batch, seed)
        np.testing.assert_allclose(mel, alone, rtol=0, atol=1e-4)
        other = model.mels(batch, seed + 1)[0]
        assert (np.abs(other - alone).max() > 1e-3) == (run == "tacotron2")


def test_the_flow_is_turned_round(home):
    """What a stored inverse gives is what the model itself gives; an odd frame at the end is not lost."""
    rng, config = np.random.default_rng(0), glow_tts.Config.tiny(num_mels=10, weight_norm=False)
    model = glow_tts.Model(config, rngs=nnx.Rngs(3))
    params = functional.split(model)[1]
    inverted = functional.named(functional.store_inverse(jax.tree.map(np.asarray, params)))
    stored, _ = read_part(home / "glow", "acoustic")
    part = replace(stored, config={**vars(config), "inverse_only": True}, tensors=inverted)
    text, mel = rng.integers(1, 12, (1, 9)).astype(np.int32), rng.standard_normal((1, 41, 10)).astype(np.float32)
    batch = {"text": text, "text_lengths": np.array([9], np.int32), "mel": mel, "mel_lengths": np.array([41], np.int32)}
    expected = model.teacher_forced(*batch.values())[0]
    (found,) = TeacherForced(part).mels(batch | {"speaker": np.zeros(1, np.int32)}, np.zeros(1, np.uint32))
    assert found.shape == (41, 10) and np.abs(found[-1]).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_it_goes_on_where_it_stopped(home, tmp_path, monkeypatch, capsys):
    inner, calls = TeacherForced.mels, []

    def stops(self, batch, seeds):
        calls.append(batch["ids"])
        if len(calls) == 2:
            raise OSError("the power is gone")
        return inner(self, batch, seeds)

    monkeypatch.setattr(TeacherForced, "mels", stops)
    assert exported(home, "tacotron2", tmp_path / "a", "--batch-size", 4) == 2
    assert len(list((tmp_path / "a").glob("*.npy"))) == 4 and not (tmp_path / "a" / "index.json").exists()
    train = ["train", str(home / "mine.py"), "--data", str(home / "corpus"), "--workdir", str(home / "w")]
    assert main([*train, "--mels", str(tmp_path / "a"), "--jobs", "1"]) == 2
    assert "its export has not ended" in capsys.readouterr().err
    (tmp_path / "a" / f"{calls[0][0].replace('/', '%2F')}.npy").write_bytes(b"half")
    monkeypatch.setattr(TeacherForced, "mels", inner)
    assert exported(home, "tacotron2", tmp_path / "a", "--batch-size", 4) == 0
    assert "7 of them new" in capsys.readouterr().out
    assert exported(home, "tacotron2", tmp_path / "b", "--batch-size", 10) == 0
    names = sorted(p.name for p in (tmp_path / "b").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "a").iterdir()) and len(names) == 11
    for name in names[:-1]:
        if name.endswith(".npy"):
            one, other = (np.load(tmp_path / folder / name) for folder in "ab")
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    assert exported(home, "tacotron2", tmp_path / "b") == 0 and "0 of them new" in capsys.readouterr().out
    assert exported(home, "glow", tmp_path / "b") == 2
    assert "mels of another origin (its model is tacotron2, here it is glow_tts)" in capsys.readouterr().err


def test_speakers_are_matched_by_name(home, tmp_path, capsys):
    assert exported(home, "two", tmp_path / "two", "--split", "held-out", "--held-out", 3) == 0
    assert len(list((tmp_path / "two").glob("*.npy"))) == 3
    assert exported(home, "two", tmp_path / "two", "--split", "training", "--held-out", 3) == 0
    assert json.loads((tmp_path / "two" / "index.json").read_text())["count"] == 10
    strangers = home / "strangers"
    shutil.copytree(home / "two", strangers)
    config = json.loads((strangers / "config.json").read_text()) | {"speakers": ["bob", "eve"]}
    (strangers / "config.json").write_text(json.dumps(config))
    assert exported(home, "strangers", tmp_path / "x") == 2
    assert "does not know the speaker 'ann'; it has bob, eve" in capsys.readouterr().err


def test_a_vocoder_is_trained_on_them(home, tmp_path, capsys):
    out = tmp_path / "mels"
    assert exported(home, "tacotron2", out) == 0
    dataset = prepared(home).with_mels(out)
    record, name = dataset[3], str(dataset.ids[3])
    path = out / f"{name.replace('/', '%2F')}.npy"
    np.testing.assert_array_equal(record["mel"], np.load(path))
    train = ["train", str(home / "mine.py"), "--data", str(home / "corpus"), "--jobs", "1", "--steps", "2"]
    for workdir, options in (("plain", []), ("forced", ["--mels", str(out)])):
        assert main([*train, "--workdir", str(home / workdir), *options]) == 0
    assert "lacks 0 of 10 utterances" in capsys.readouterr().err
    losses = [
        [json.loads(x).get("loss/mel") for x in (home / w / "metrics.jsonl").read_text().splitlines()]
        for w in ("plain", "forced")
    ]
    assert losses[0][0] != losses[1][0]

    index = json.loads((out / "index.json").read_text())

    def refused(message, **changes):
        (out / "index.json").write_text(json.dumps(index | changes))
        assert main([*train, "--workdir", str(home / "no"), "--mels", str(out)]) == 2
        assert message in capsys.readouterr().err

    frames = index["frames"]
    other = MEL.replace(name="other", fmax=3000.0).to_dict()
    refused("holds 'other' frames, and these are to be 'tiny' frames", mel=other)
    longer = frames | {name: frames[name] + 1}
    refused(f"the mel of {name!r} has {frames[name] + 1} frames and its recording {frames[name]}", frames=longer)
    refused("none is among these 10", frames={"someone": 3})
    some = {n: c for n, c in frames.items() if n != name}
    (out / "index.json").write_text(json.dumps(index | {"frames": some}))
    assert main([*train, "--workdir", str(home / "some"), "--mels", str(out)]) == 0
    assert "lacks 1 of 10 utterances" in capsys.readouterr().err
    (out / "index.json").write_text(json.dumps(index))
    np.save(path, np.zeros((3, 10), np.float32))
    with pytest.raises(ValueError, match=r"holds float32 \[3, 10\], not float32"):
        dataset[3]


def test_frames_that_are_padded_otherwise(home, tmp_path):
    """A centred spec gives one frame more than the corpus has; it is cut off, not refused."""
    dataset, out = prepared(home), tmp_path / "mels"
    out.mkdir()
    centred = MEL.replace(name="centred", padding="center")
    frames = {str(n): centred.num_frames(int(s)) for n, s in zip(dataset.ids, dataset.samples)}
    (out / "index.json").write_text(json.dumps({"mel": centred.to_dict(), "frames": frames}))
    for name, count in frames.items():
        np.save(out / f"{name.replace('/', '%2F')}.npy", np.arange(count * 10, dtype=np.float32).reshape(count, 10))
    record = dataset.with_mels(out)[0]
    count = len(record["mel"])
    assert frames[str(dataset.ids[0])] == count + 1 and record["mel"][-1, 0] == 10 * (count - 1)


def test_bad_invocations(home, tmp_path, capsys, runs):
    assert exported(home, "tacotron2", tmp_path / "x", "--batch-size", 0) == 2
    assert "--batch-size 0" in capsys.readouterr().err
    assert exported(home, "../nope", tmp_path / "x") == 2
    assert main(["export-mels", str(runs / "scripted"), "--data", str(home / "corpus"), "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "scripted cannot be told a recording's frames; glow_tts, " in told and "tacotron2 can" in told
    assert main(["export-mels", str(runs / "vocos"), "--data", str(home / "corpus"), "--out", str(tmp_path)]) == 2
    assert "not 'acoustic'" in capsys.readouterr().err
    train = ["train", "glow_tts_voice", "--data", str(home / "corpus"), "--workdir", str(tmp_path / "w")]
    assert main([*train, "--mels", str(tmp_path / "x")]) == 2
    assert "only vocoders are trained on mels of a model, not glow_tts" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
