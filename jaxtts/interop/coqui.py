"""Folders of coqui-tts: VITS, Glow-TTS, Tacotron 1 and 2: `config.json`, `*.pth`, files of speakers and languages.

What a model is conditioned on beyond its text becomes a row of the speaker table: the speaker's embedding, or the mean
of a speaker's d-vectors. Of a model of several languages one is chosen; its embedding, which is the same for every
symbol, goes into the symbols' embeddings and the duration predictor's biases, and nothing is left of it as an input.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, read_json, speaker_names
from jaxtts.interop.jaywalnut310 import NO_VOCODER
from jaxtts.models.glow_tts import convert as glow_tts
from jaxtts.models.tacotron import convert as tacotron
from jaxtts.models.tacotron2 import convert as tacotron2
from jaxtts.models.vits import convert as vits
from jaxtts.text import TextSpec, symbols_from_coqui
from jaxtts.text.cleaners import COQUI
from jaxtts.weights.fields import Fields
from jaxtts.weights.torch_file import read_torch

TITLE = "VITS, Glow-TTS or Tacotron (coqui-tts)"
_FILES = ("best_model.pth", "model_file.pth", "model.pth", "best_model*.pth", "checkpoint_*.pth", "*.pth", "*.pth.tar",
          "*.safetensors")  # fmt: skip
_SIDE = ("speakers", "language_ids", "d_vectors")


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is the config.json of any model of coqui-tts (of its Glow-TTS, the sizes alone will do)."""
    named = isinstance(values.get("model"), str) and bool({"audio", "characters", "model_args"} & set(values))
    return named or glow_tts.is_coqui(values)


def read(source: Source) -> Foreign:
    """Reads a folder.

    Raises:
        ValueError: another model, an option that has no counterpart here, or damaged.
    """
    model = source.values.get("model", "glow_tts")
    readers = {"vits": _read_vits, "glow_tts": _read_glow, "tacotron": _read_tacotron, "tacotron2": _read_tacotron}
    if model not in readers:
        known = ", ".join(map(repr, readers))
        raise ValueError(f"{source.config} is of model={model!r} of coqui-tts: supported are {known}")
    if source.weights is None:
        files = [p for pattern in _FILES for p in source.folder.glob(pattern) if not p.name.startswith(_SIDE)]
        if not files:
            raise ValueError(f"{source.folder} has no weights: there is none of {', '.join(_FILES)}")
        source = replace(source, weights=files[0])
    path = source.file()
    weights, whole = checkpoint(path)
    if isinstance(whole, dict) and isinstance(whole.get("model"), dict):
        weights, _ = checkpoint(path, "model")
        if type(whole.get("r")) is int:  # of a training that went from many frames a step to few
            source = replace(source, values={**source.values, "r": whole["r"]})
    return readers[model](source, weights)


def _read_vits(source: Source, weights: dict[str, np.ndarray]) -> Foreign:
    v = Fields(source.values, str(source.config))
    args = v.section("model_args")
    weights = {name: x for name, x in weights.items() if "speaker_encoder" not in name}
    names = _speakers(source, args, weights)
    languages = _languages(source, args) if args.flag("use_language_embedding") else {}
    language = source.language
    if languages:
        language = language or next(iter(languages))
        if language not in languages:
            raise ValueError(f"language={language!r} is not one of this model's: {', '.join(languages)}")
        weights = _speaking(weights, languages[language])
    elif language is not None:
        raise ValueError(f"language={language!r} was asked for, and {source.config} is of a model of one language")
    config = vits.coqui_config_from(source.values, weights)
    if config.speaker_dim and not args.flag("condition_dp_on_speaker", True):
        weights = _unconditioned(weights, config.speaker_dim)
    tensors = flat(vits.coqui_convert(weights, config))
    text, missing = front_end(source.values, config.num_symbols, language)
    defaults = {
        "noise_scale": args.real("inference_noise_scale", 0.667),
        "duration_noise_scale": args.real("inference_noise_scale_dp", 1.0),
        "length_scale": args.real("length_scale", 1.0),
    }
    return Foreign("VITS (coqui-tts)", source.name, "vits", config, config.mel, text, names, tensors, defaults, missing)


def _read_glow(source: Source, weights: dict[str, np.ndarray]) -> Foreign:
    args = Fields(source.values, str(source.config))
    names = _speakers(source, args, weights)
    values = {**source.values, "use_d_vector_file": False, "use_speaker_embedding": "emb_g.weight" in weights}
    config = glow_tts.config_from(values, weights)
    tensors = flat(glow_tts.convert(weights, config))
    text, missing = front_end(source.values, config.num_symbols, source.language)
    defaults = {
        "noise_scale": args.real("inference_noise_scale", 0.0),
        "length_scale": args.real("length_scale", 1.0),
    }
    return Foreign("Glow-TTS (coqui-tts)", source.name, "glow_tts", config, source.mel or mel(args.section("audio")),
                   text, names, tensors, defaults, missing or NO_VOCODER)  # fmt: skip


def _read_tacotron(source: Source, weights: dict[str, np.ndarray]) -> Foreign:
    args = Fields(source.values, str(source.config))
    names = _speakers(source, args, weights, "speaker_embedding.weight", normal=False)
    frames = source.mel or mel(args.section("audio"))
    model = str(source.values["model"])
    if model == "tacotron":
        config = tacotron.coqui_config_from(source.values, weights, frames)
        tensors, title = tacotron.convert(weights, config), "Tacotron (coqui-tts)"
    else:
        config = tacotron2.coqui_config_from(source.values, weights)
        tensors, title = tacotron2.convert(weights, config), "Tacotron 2 (coqui-tts)"
    text, missing = front_end(source.values, config.num_symbols, source.language)
    return Foreign(title, source.name, model, config, frames, text, names, flat(tensors),
                   missing=missing or NO_VOCODER)  # fmt: skip


def _speakers(
    source: Source, args: Fields, weights: dict[str, np.ndarray], name: str = "emb_g.weight", normal: bool = True
) -> tuple[str, ...]:
    """The names in the order of the table `name`, which is filled with the d-vectors of a model that reads those.

    A table of one row is given it twice: `num_speakers=1` stands for a model that knows no speakers.
    """
    table = weights.get(name)
    if args.flag("use_d_vector_file"):
        files = args.values.get("d_vector_file")
        files = [files] if isinstance(files, str) else files if isinstance(files, list) else []
        vectors = _d_vectors(source, [str(f) for f in files])
        if wrong := {x.shape for x in vectors.values()} - {(args.whole("d_vector_dim"),)}:
            raise ValueError(f"{source.folder}: d-vectors of shape {min(wrong)}, not ({args.whole('d_vector_dim')},)")
        names, table = tuple(vectors), np.stack(list(vectors.values()))
        if normal:
            table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    elif table is not None:
        listed = source.values.get("speakers")
        file = _beside(source, args.values.get("speakers_file"), "speakers.json", "speakers.pth", "speaker_ids.json")
        names = speaker_names(listed or (_load(file) if file else None), len(table))
        names = tuple(map(str, listed or names)) if len(table) == 1 else names
    else:
        return ("default",)
    if len(table) == 1:
        names, table = names * 2, np.repeat(table, 2, axis=0)
    weights[name] = table
    return names


def _d_vectors(source: Source, files: list[str]) -> dict[str, np.ndarray]:
    """Speaker -> the mean of its embeddings, float32, in the order in which the files name them."""
    paths = [p for p in (_beside(source, f) for f in files) if p is not None]
    paths = paths or [p for p in [_beside(source, "speakers.pth", "speakers.json", "d_vectors.pth")] if p is not None]
    if not paths:
        raise ValueError(f"{source.folder} has no file of d-vectors, which this model needs: speakers.pth, .json ...")
    found: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for entry in _load(path).values():
            if not isinstance(entry, dict) or not {"name", "embedding"} <= set(entry):
                raise ValueError(f"{path} holds no d-vectors: its entries lack 'name' and 'embedding'")
            found.setdefault(str(entry["name"]), []).append(np.ravel(np.asarray(entry["embedding"], np.float32)))
    return {name: np.asarray(np.mean(vectors, axis=0), np.float32) for name, vectors in found.items()}


def _languages(source: Source, args: Fields) -> dict[str, int]:
    file = _beside(source, args.values.get("language_ids_file"), "language_ids.json")
    listed = source.values.get("languages")
    if file is None and not (isinstance(listed, list) and listed):
        raise ValueError(f"{source.folder} has no language_ids.json, which this model of several languages needs")
    if file is None:
        return {str(name): number for number, name in enumerate(listed or [])}
    found = {str(name): number for name, number in _load(file).items() if type(number) is int}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _beside(source: Source, *names: Any) -> Path | None:
    """The first of some files that lies in the folder; of the paths that a trainer wrote down, the name counts."""
    paths = (source.folder / Path(name.replace("\\", "/")).name for name in names if isinstance(name, str) and name)
    return next((path for path in paths if path.is_file()), None)


def _load(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.suffix == ".json" else read_torch(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no table of names")
    return found


def _speaking(weights: dict[str, np.ndarray], language: int) -> dict[str, np.ndarray]:
    """The tensors of the model when it speaks one language.

    The text encoder reads [sqrt(H) * symbol, language], of width H + L: a table that already holds both, over the
    root that our encoder scales it with. The duration predictor adds a projection of the language to what it reads.
    """
    weights = dict(weights)
    table = weights.pop("emb_l.weight")
    if not 0 <= language < len(table):
        raise ValueError(f"language_ids.json gives the number {language}, the checkpoint has {len(table)} languages")
    symbols, row = weights["text_encoder.emb.weight"], table[language]
    width = symbols.shape[1] + len(row)
    both = np.concatenate([symbols * math.sqrt(symbols.shape[1]), np.tile(row, (len(symbols), 1))], axis=1)
    weights["text_encoder.emb.weight"] = (both / math.sqrt(width)).astype(np.float32)
    dp = "duration_predictor"
    shift = weights.pop(f"{dp}.cond_lang.weight")[:, :, 0] @ row + weights.pop(f"{dp}.cond_lang.bias")
    onto = next((n for n in (f"{dp}.pre.bias", f"{dp}.cond.bias") if n in weights), None)
    if onto is None:
        raise ValueError("a plain duration predictor (use_sdp=false) of several languages and one speaker: unsupported")
    weights[onto] = weights[onto] + shift
    return weights


def _unconditioned(weights: dict[str, np.ndarray], channels: int) -> dict[str, np.ndarray]:
    """Of a duration predictor that is not told the speaker: the layer that would, adding nothing."""
    if f"{(dp := 'duration_predictor')}.pre.weight" in weights:
        width = len(weights[f"{dp}.pre.weight"])
    else:
        width = weights[f"{dp}.conv_1.weight"].shape[1]
    zeros = np.zeros((width, channels, 1), np.float32)
    return {**weights, f"{dp}.cond.weight": zeros, f"{dp}.cond.bias": zeros[:, 0, 0]}


def front_end(values: Mapping[str, Any], count: int, language: str | None = None) -> tuple[TextSpec | None, str]:
    """The alphabet and cleaning that a config.json asks for, or what is missing for it.

    Raises:
        ValueError: it lists another number of symbols than the checkpoint has.
    """
    v = Fields(values)
    characters = v.section("characters")
    symbols = symbols_from_coqui(values)
    if len(symbols) != count:
        raise ValueError(f"the config lists {len(symbols)} symbols, the checkpoint has {count}")
    cleaner = v.values.get("text_cleaner")
    phonemes = v.flag("use_phonemes")
    if cleaner is not None and cleaner not in COQUI:
        return None, f"a front end for text_cleaner={cleaner!r}: there is one for {', '.join(COQUI)}"
    if phonemes and v.values.get("phonemizer") not in (None, "", "espeak"):
        return None, f"a front end for phonemizer={v.values['phonemizer']!r}: there is one for 'espeak'"
    spoken = language or str(v.values.get("phoneme_language") or ("en-us" if phonemes else "und"))
    spoken = {"en": "en-us", "zh-cn": "cmn"}.get(spoken, spoken) if phonemes else spoken
    vits_alphabet = str(characters.values.get("characters_class")).endswith("VitsCharacters")
    blank = "<BLNK>" if vits_alphabet else characters.values.get("blank")
    ends = v.flag("enable_eos_bos_chars")
    return TextSpec(
        "espeak" if phonemes else "characters", spoken, symbols,
        blank=(blank or symbols[0]) if v.flag("add_blank") else None,
        bos=characters.values.get("bos") if ends else None,
        eos=characters.values.get("eos") if ends else None,
        cleaner=f"coqui_{cleaner or 'no_cleaners'}",
    ), ""  # fmt: skip


def mel(audio: Fields) -> MelSpec:
    """The frames of an audio section: natural logarithms, or decibels scaled to a range.

    Raises:
        ValueError: neither.
    """
    values, scaled = audio.values, audio.flag("signal_norm")
    expected = (("spec_gain", 1.0), ("log_func", "np.log"), ("preemphasis", 0.0))
    if scaled:
        expected = (("spec_gain", 20.0), ("log_func", "np.log10"), ("clip_norm", True), ("stats_path", None))
    foreign = [name for name, value in expected if values.get(name, value) != value]
    if not values or foreign:
        what = ", ".join(f"{name}={values[name]!r}" for name in foreign) or "no section 'audio'"
        raise ValueError(f"the config's mels are not among ours ({what}): name the nearest spec with --mel-spec")
    scale: dict[str, Any] = {}
    if scaled:
        top = audio.real("max_norm", 4.0)
        scale = dict(
            log="db", clip=1e-8, preemphasis=audio.real("preemphasis", 0.0), ref_db=audio.real("ref_level_db", 20.0),
            min_db=audio.real("min_level_db", -100.0),
            value_range=(-top if audio.flag("symmetric_norm", True) else 0.0, top),
        )  # fmt: skip
    return MelSpec(
        "coqui", audio.whole("sample_rate"), audio.whole("fft_size"), audio.whole("hop_length"),
        audio.whole("win_length"), audio.whole("num_mels", 80), audio.real("mel_fmin", 0.0),
        None if values.get("mel_fmax") is None else audio.real("mel_fmax"), padding="center", **scale,
    )  # fmt: skip
