"""Checkpoints of other toolkits, recorded by tests/golden/interop/record.py, speak and tokenize as those do."""

import json
import shutil
import struct
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts import cli, interop, registry
from jaxtts.interop import coqui, huggingface
from jaxtts.interop.foreign import Source, parameters
from jaxtts.nn import functional
from jaxtts.text import TextSpec, build
from jaxtts.weights import read_weights
from jaxtts.weights.safetensors import save_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = GOLDEN / "interop"
TOKENS = json.loads((FOLDERS / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def spoken():
    with np.load(FOLDERS / "spoken.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def cases():
    with np.load(GOLDEN / "vits" / "cases.npz") as file:
        return {n.removeprefix("stochastic/"): x for n, x in file.items() if n.startswith("stochastic/")}


@pytest.fixture
def copy(tmp_path):
    def copied(name: str) -> Path:
        return Path(shutil.copytree(FOLDERS / name, tmp_path / name))

    return copied


def speak(found: interop.Foreign, ids: np.ndarray, frames: int, speaker: int | None = None) -> np.ndarray:
    """The wave without noise, float32 [N]."""
    found = found.folded()
    graph, _, _ = functional.structure(
        lambda: registry.module(found.model).Model(found.config, rngs=functional.rngs_for_shapes())
    )
    text = jnp.asarray(ids, jnp.int32)[None]
    options = {"max_frames": frames, "length_scale": found.defaults["length_scale"]}
    options |= {} if speaker is None else {"speaker": jnp.array([speaker])}

    @jax.jit
    def run(params):
        wave, lengths, _ = functional.merge(graph, params).infer(text, jnp.array([text.shape[1]]), **options)
        return wave[0], lengths[0]

    with jax.default_matmul_precision("highest"):
        wave, length = run(functional.nested(found.tensors))
    return np.asarray(wave)[: int(length) * found.mel.hop_length]


def same(found: interop.Foreign, other: interop.Foreign) -> bool:
    return found.tensors.keys() == other.tensors.keys() and all(
        np.array_equal(x, other.tensors[name]) for name, x in found.tensors.items()
    )


def test_hugging_face_folder_speaks_as_transformers(spoken):
    found = interop.read(FOLDERS / "hf")
    assert (found.model, found.mel.sample_rate, found.mel.hop_length, found.missing) == ("vits", 16000, 8, "")
    assert found.defaults == {"noise_scale": 0.667, "duration_noise_scale": 0.8, "length_scale": 1.25}
    front_end = build(found.text)
    (sentence,) = front_end.sentences("hello there")
    assert np.array_equal(front_end.encode(sentence.tokens), spoken["hf/ids"])
    want = spoken["hf/wave"]
    wave = speak(found, spoken["hf/ids"], len(want) // 8 + 5, speaker=2)
    assert wave.shape == want.shape and np.std(want) > 0.01
    np.testing.assert_allclose(wave, want, atol=1e-5)


def test_both_spellings_of_weight_norm_and_of_the_file(copy):
    folder = copy("hf")
    spelled = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = read_weights(folder / "model.safetensors")
    for new, old in spelled.items():
        weights = {name.replace(new, old): x for name, x in weights.items()}
    save_safetensors(folder / "model.safetensors", weights)
    assert same(interop.read(folder), interop.read(FOLDERS / "hf"))
    assert same(interop.read(folder / "model.safetensors"), interop.read(FOLDERS / "hf"))


@pytest.mark.parametrize("name", TOKENS["hf"])
def test_identities_of_transformers(name, tmp_path):
    for file, content in TOKENS["hf"][name]["files"].items():
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    vocabulary = TOKENS["hf"][name]["files"]["vocab.json"]
    spec = huggingface.tokenizer(vocabulary, Source(tmp_path, tmp_path, None, tmp_path, {}), len(vocabulary) + 2)
    if spec.romanise and find_spec("uroman") is None:
        with pytest.raises(ValueError, match=r"jaxtts\[uroman\]"):
            build(spec).sentences("привет мир")
        TOKENS["hf"][name]["ids"] = {t: ids for t, ids in TOKENS["hf"][name]["ids"].items() if t.isascii()}
    check(spec, TOKENS["hf"][name]["ids"])


@pytest.mark.parametrize("name", TOKENS["coqui"])
def test_identities_of_coqui(name):
    recorded = TOKENS["coqui"][name]
    config = recorded["config"]
    count = len(config["characters"]["characters"] + config["characters"]["punctuations"]) + 4
    spec, missing = coqui.front_end(config, len(coqui.symbols_from_coqui(config)), "en")
    assert spec is not None and not missing and len(spec.symbols) <= count
    check(spec, recorded["ids"])


def check(spec: TextSpec, ids: dict[str, list[int]]) -> None:
    front_end, spoken_texts = build(spec), 0
    for text, want in ids.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                sentences = front_end.sentences(text)
            except ValueError as error:
                assert "nothing to speak" in str(error), text
                continue
        got = [front_end.encode(s.tokens) for s in sentences]
        assert np.concatenate(got).tolist() == want, text
        assert all(len(front_end.places(s.tokens)) == len(x) for s, x in zip(sentences, got)), text
        assert TextSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        spoken_texts += 1
    assert spoken_texts >= 15


def test_what_is_left_out_is_named():
    front_end = build(interop.read(FOLDERS / "hf").text)
    with pytest.warns(UserWarning, match="U\\+0436"):
        (sentence,) = front_end.sentences("a Ж b, c")  # the comma goes in silence
    assert "".join(sentence.tokens) == "a  b c"
    with pytest.raises(ValueError, match="U\\+0436"):
        front_end.sentences("a Ж b", strict=True)


@pytest.mark.parametrize("language", ["en", "fr-fr"])
def test_coqui_folder_speaks_as_coqui(spoken, language):
    found = interop.read(FOLDERS / "coqui", language=language)
    assert found.speakers == ("ann", "cem", "bob") and found.mel.sample_rate == 8000
    assert found.text is not None and found.text.language == language
    ids = spoken["coqui/ids"]
    for speaker in ("bob", "cem"):
        want = spoken[f"coqui/{speaker}.{language}"]
        wave = speak(found, ids, 64, speaker=found.speakers.index(speaker))
        assert wave.shape == want.shape and np.std(want) > 0.01
        np.testing.assert_allclose(wave, want, atol=1e-5)


def test_coqui_language_must_be_one_of_its_own():
    assert interop.read(FOLDERS / "coqui").text.language == "fr-fr"  # number 0
    with pytest.raises(ValueError, match="fr-fr, en"):
        interop.read(FOLDERS / "coqui", language="de")


def test_coqui_d_vectors_become_speakers(copy):
    folder = copy("coqui")
    config = json.loads((folder / "config.json").read_text())
    vectors = {f"{n}_{i}.wav": {"name": n, "embedding": [1.0, i, 2.0, 3.0]} for n in ("dan", "eve") for i in (0, 2)}
    (folder / "speakers.json").write_text(json.dumps(vectors))
    changes = {"use_speaker_embedding": False, "use_d_vector_file": True, "d_vector_dim": 4, "speakers_file": None,
               "d_vector_file": ["/elsewhere/speakers.json"]}  # fmt: skip
    config["model_args"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    found = interop.read(folder)
    mean = np.array([1, 1, 2, 3]) / np.sqrt(15)
    assert found.speakers == ("dan", "eve")
    np.testing.assert_allclose(found.tensors["speaker_embedding"], [mean, mean], rtol=1e-6)
    config["model_args"]["d_vector_dim"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"d-vectors of shape \(4,\), not \(5,\)"):
        interop.read(folder)


def test_piper_checkpoint_speaks_as_its_graph(cases):
    found = interop.read(FOLDERS / "piper")
    assert found.defaults == {"noise_scale": 0.6, "duration_noise_scale": 0.7, "length_scale": 1.1}
    assert (found.mel.sample_rate, found.mel.hop_length, found.missing) == (8000, 8, "")
    want = cases["out.infer0.audio"][:, 0]
    length = int(cases["in.x_lengths"].max())
    row = int(cases["in.x_lengths"].argmax())
    wave = speak(found, cases["in.x"][row, :length], 32)
    np.testing.assert_allclose(wave, want[row, : len(wave)], atol=1e-5)
    front_end = build(found.text)  # a cedilla is a code point of its own; ^ _ and _ behind each symbol, then $
    assert front_end.encode(list("ab")).tolist() == [1, 0, 8, 0, 9, 0, 2]
    assert found.text.symbols[11] == "\u0327"


def test_jaywalnut310_checkpoint_is_the_same_graph(cases, tmp_path):
    config = json.loads(str(cases["meta"]))["config"]
    sizes = {n: x for n, x in config.items() if not n.startswith(("infer", "n_vocab", "spec", "segment", "n_speakers"))}
    values = {
        "train": {"segment_size": 32, "c_kl": 1.0},
        "data": {"text_cleaners": ["english_cleaners2"], "sampling_rate": 8000, "filter_length": 16, "hop_length": 8,
                 "win_length": 16, "n_mel_channels": 4, "mel_fmin": 0.0, "mel_fmax": None, "add_blank": True,
                 "n_speakers": 0},
        "model": sizes,
    }  # fmt: skip
    (tmp_path / "tiny_base.json").write_text(json.dumps(values))
    for step in (9, 10):
        weights = {n.removeprefix("w/"): x * (step == 10) for n, x in cases.items() if n.startswith("w/")}
        save_safetensors(tmp_path / f"G_{step}.pth", weights)
    found = interop.read(tmp_path)
    assert same(found, interop.read(FOLDERS / "piper"))
    assert found.text is None and "12 symbols" in found.missing  # not the reference's 178
    values["symbols"] = list("_ abcdefghij")
    (tmp_path / "tiny_base.json").write_text(json.dumps(values))
    text = interop.read(tmp_path / "G_10.pth").text
    assert text is not None and (text.frontend, text.blank, text.cleaner) == ("espeak", "_", "english_cleaners2")
    values["data"]["text_cleaners"] = ["korean_cleaners"]
    (tmp_path / "tiny_base.json").write_text(json.dumps(values))
    assert "korean_cleaners" in interop.read(tmp_path).missing


def test_folded_has_the_names_of_a_model_without_weight_norm():
    found = interop.read(FOLDERS / "hf")
    assert found.folded().tensors.keys() == parameters("vits", replace(found.config, weight_norm=False)).keys()


def test_import_weights_writes_what_reads_back(tmp_path, capsys):
    for name in ("hf", "piper"):
        assert cli.main(["import-weights", str(FOLDERS / name), str(tmp_path / name)]) == 0
        found, want = interop.read(tmp_path / name), interop.read(FOLDERS / name).folded()
        assert same(found, want) and found.config == want.config
        facts = ("model", "mel", "text", "speakers", "defaults", "missing")
        assert all(getattr(found, fact) == getattr(want, fact) for fact in facts)
        assert interop.recognise(tmp_path / name) == "jaxtts"


def refused(path: Path, *words: str, **options) -> None:
    with pytest.raises(ValueError) as error:
        interop.read(path, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_cannot_speak_says_what_it_lacks(copy):
    folder = copy("hf")
    (folder / "vocab.json").unlink()
    found = interop.read(folder)
    assert found.text is None and "vocab.json" in found.missing


def test_refusals(copy, tmp_path):
    refused(tmp_path / "absent", "there is no")
    refused(tmp_path, "no config.json")
    (tmp_path / "voice.onnx").write_bytes(b"\x08\x07")
    refused(tmp_path / "voice.onnx", "ONNX", ".ckpt")
    refused(tmp_path, "ONNX")
    for name, edit, words in (
        ("hf", {"model_type": "bark"}, ["'bark'"]),
        ("hf", {"hidden_act": "gelu"}, ["hidden_act", "'relu'"]),
        ("hf", {"hidden_size": 10**12}, ["hidden_size"]),
        ("hf", {"num_hidden_layers": 10**5}, ["num_hidden_layers"]),
        ("hf", {"upsample_rates": []}, ["upsample_rates"]),
        ("hf", {"upsample_rates": "44"}, ["upsample_rates"]),
        ("hf", {"flow_size": 6}, ["do not fit", "misshapen"]),
        ("hf", {"num_attention_heads": 3}, ["num_heads=3"]),
        ("coqui", {"model": "xtts"}, ["'xtts'"]),
        ("coqui", {"model_args": None}, ["upsample_rates", "hop 8"]),
        ("piper", {"num_speakers": 4}, ["missing"]),
        ("piper", {"phoneme_id_map": {"_": [1, 2]}}, ["'_'"]),
        ("piper", {"phoneme_id_map": {"_": [0]}}, ["^ $"]),
    ):
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        shutil.copytree(FOLDERS / name, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | edit))
        refused(folder, *words)


@pytest.mark.parametrize("name", ["hf", "coqui", "piper"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": 1}'])
def test_configurations_that_are_none(copy, name, content):
    folder = copy(name)
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json")


@pytest.mark.parametrize(
    ("name", "file"), [("hf", "model.safetensors"), ("coqui", "best_model.pth"), ("piper", "epoch=1-step=9.ckpt")]
)
def test_weights_that_are_cut_or_absent(copy, name, file):
    folder = copy(name)
    content = (folder / file).read_bytes()
    for size in (0, 5, 100, len(content) // 2, len(content) - 1):
        (folder / file).write_bytes(content[:size])
        refused(folder, file)
    (folder / file).unlink()
    refused(folder, "no weights")


def test_header_of_absurd_size(copy):
    folder = copy("hf")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{" * 100)
    refused(folder, "model.safetensors")


@pytest.mark.parametrize(
    "vocabulary", [{"a": "1"}, {"a": -1}, {"a": 1.5}, {"a": 10**9}, {"a": 3, "b": 3}, {"a": None}, {"a": [1]}]
)
def test_damaged_vocabularies(copy, vocabulary):
    folder = copy("hf")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    refused(folder, "vocab.json")


def test_command_line_says_one_sentence(copy, tmp_path, capsys):
    folder = copy("hf")
    (folder / "config.json").write_text("{")
    assert cli.main(["import-weights", str(folder), str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxtts: ") and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nvidia_checkpoints_need_no_configuration(tmp_path):
    cases = np.load(FOLDERS.parent / "tacotron2/cases.npz")
    path = tmp_path / "tacotron2_statedict.pt"
    save_safetensors(path, {n.removeprefix("w/"): cases[n] for n in cases.files if n.startswith("w/")})
    found = interop.read(path)
    assert (found.model, found.mel.name) == ("tacotron2", "tacotron2")
    assert found.tensors.keys() == parameters("tacotron2", found.config).keys()
    assert found.text is None and "list of its 14 symbols" in found.missing
    cases = np.load(FOLDERS.parent / "waveglow/cases.npz")
    case = cases.files[0].partition("/")[0]
    weights = {n.removeprefix(f"{case}/w/"): cases[n] for n in cases.files if n.startswith(f"{case}/w/")}
    save_safetensors(tmp_path / "waveglow.pt", {f"module.{n}": x for n, x in weights.items()})
    found = interop.read(tmp_path / "waveglow.pt")
    assert found.model == "waveglow"
    assert found.tensors.keys() == parameters("waveglow", found.config).keys()
    older = {n.replace(".cond_layer.", ".cond_layers.0."): x for n, x in weights.items()}
    save_safetensors(tmp_path / "waveglow.pt", older)
    refused(tmp_path / "waveglow.pt", "older WaveGlow")
    save_safetensors(tmp_path / "else.pt", {"weight": np.zeros(3, np.float32)})
    refused(tmp_path / "else.pt", "no config.json")


def test_wavernn_needs_no_configuration(tmp_path):
    recorded = np.load(GOLDEN / "wavernn/cases.npz")
    weights = {n.removeprefix("raw/w/"): recorded[n] for n in recorded.files if n.startswith("raw/w/")}
    found = interop.read(GOLDEN / "wavernn/vocoder.pt")
    assert (found.model, found.config.output.num_classes, found.text) == ("wavernn", 32, None)
    assert interop.recognise(GOLDEN / "wavernn/vocoder.pt") == "WaveRNN (fatchord, Real-Time-Voice-Cloning)"
    assert found.tensors.keys() == parameters("wavernn", found.config).keys()
    path = tmp_path / "latest_weights.pyt"
    save_safetensors(path, weights)
    again = interop.read(path)
    assert again.config == found.config and "acoustic model" in again.missing
    for name, tensor in again.tensors.items():
        np.testing.assert_array_equal(tensor, found.tensors[name], err_msg=name)
    with pytest.raises(ValueError, match="must multiply to the hop 275"):
        interop.read(path, mel_spec="wavernn_lj")
