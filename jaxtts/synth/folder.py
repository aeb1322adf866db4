"""A voice on disk: a folder with `voice.json`, `weights.safetensors` and a card, `README.md`.

`voice.json` says all that speaking needs (texts and mels as specs, models by name with their configurations), so that a
voice whose compiled functions are in the cache is read without importing a model. Tensors are named
`acoustic.<name>` and `vocoder.<name>`, float16 or float32, weight norm folded into the kernels and mixing matrices
inverted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.text import TextSpec
from jaxtts.weights.native import load_native
from jaxtts.weights.safetensors import read_safetensors, replacing, save_safetensors

FORMAT = 1
_CALIBRATION = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background, and wait until it is dry.",
    "Rice is often served in round bowls; these days a chicken leg is a rare dish!",
    "When the sunlight strikes raindrops in the air, do they act as a prism and form a rainbow?",
)


@dataclass(frozen=True)
class Half:
    """One of the two models of a voice: its name in the registry, configuration, mels and tensors."""

    model: str
    config: dict[str, Any]
    mel: MelSpec
    tensors: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class VoiceFiles:
    """What a voice folder holds.

    Attributes:
        name: how the voice is called.
        text: how it wants its text.
        acoustic, vocoder: its two models.
        speakers: names in the order of the speaker embedding; one for a single-speaker voice.
        noise_scale, length_scale: defaults of `Voice.synthesize`.
        sentence_pause: seconds of silence between sentences.
        frames_per_symbol: the most frames that a symbol takes on average over a sentence; picks the frame bucket.
        card: free facts about the voice (corpus, licence, training).
    """

    name: str
    text: TextSpec
    acoustic: Half
    vocoder: Half
    speakers: tuple[str, ...] = ("default",)
    noise_scale: float = 0.667
    length_scale: float = 1.0
    sentence_pause: float = 0.25
    frames_per_symbol: float = 6.0
    card: dict[str, Any] = field(default_factory=dict)


_SCALARS = ("noise_scale", "length_scale", "sentence_pause", "frames_per_symbol")


def read_voice(folder: str | Path) -> VoiceFiles:
    """Reads a voice folder.

    Raises:
        ValueError: a file is missing, damaged or of a newer format; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"voice {str(folder)!r} is not a folder with voice.json and weights.safetensors")
    path = folder / "voice.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a voice folder: it has no voice.json (`jaxtts export-voice` makes one)")
    if not (folder / "weights.safetensors").is_file():
        raise ValueError(f"{folder} is not a whole voice folder: it has no weights.safetensors")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError(f"its format is {meta['format']!r}, this version reads {FORMAT}")
        tensors = read_safetensors(folder / "weights.safetensors")
        acoustic, vocoder = (
            Half(part["model"], dict(part["config"]), MelSpec.from_dict(part["mel"]), _below(tensors, name))
            for name, part in (("acoustic", meta["acoustic"]), ("vocoder", meta["vocoder"]))
        )
        scalars = {key: float(meta[key]) for key in _SCALARS if key in meta}
        speakers = tuple(map(str, meta.get("speakers", ("default",))))
        text, card = TextSpec.from_dict(meta["text"]), dict(meta.get("card", {}))
        acoustic, vocoder = _for_inference(acoustic), _for_inference(vocoder)
        return VoiceFiles(str(meta["name"]), text, acoustic, vocoder, speakers, **scalars, card=card)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} at {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_half(folder: str | Path, part: str) -> tuple[Half, dict[str, Any]]:
    """One model: of a voice folder, or as training left it (`config.json` and `model.safetensors`).

    Args:
        part: 'acoustic' or 'vocoder'.

    Returns:
        The model in the form for inference, and what else its folder says (`text`, `speakers`).

    Raises:
        ValueError: there is no such model there.
    """
    folder = Path(folder)
    if (folder / "voice.json").is_file():
        voice = read_voice(folder)
        return getattr(voice, part), {"text": voice.text, "speakers": voice.speakers}
    if not (folder / "config.json").is_file():
        raise ValueError(f"{part} {str(folder)!r} is neither a voice folder nor a training folder with config.json")
    tensors, meta = load_native(folder)
    try:
        config = dict(meta["config"])
        mel = MelSpec.from_dict(meta.get("mel") or config["mel"])
        text = TextSpec.from_dict(meta["text"]) if meta.get("text") else None
        half = Half(str(meta["model"]), config, mel, tensors)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error}: it is not the export of a training run") from error
    speakers = meta.get("speakers") or ("default",)
    return _for_inference(half), {"text": text, "speakers": tuple(map(str, speakers))}


def write_voice(
    folder: str | Path,
    acoustic: str | Path,
    vocoder: str | Path,
    *,
    name: str | None = None,
    speakers: Sequence[str] | None = None,
    noise_scale: float = 0.667,
    length_scale: float = 1.0,
    sentence_pause: float = 0.25,
    card: dict[str, Any] | None = None,
    readme: str | None = None,
    dtype: str = "float16",
) -> VoiceFiles:
    """Assembles a voice folder from two exported models, and measures how many frames a symbol takes.

    Args:
        folder: made if absent.
        acoustic, vocoder: folders that training wrote (`config.json`, `model.safetensors`), or voice folders.
        name: default: the folder's name.
        card: facts to keep in voice.json and, without `readme`, to list in the card.
        readme: the card, Markdown.
        dtype: float16 or float32.

    Raises:
        ValueError: the two do not fit, or one cannot be read.
    """
    from jaxtts.synth.voice import Voice  # Voice is made of VoiceFiles

    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype={dtype!r}: use 'float16' or 'float32'")
    folder = Path(folder)
    (acoustic_half, about), (vocoder_half, _) = read_half(acoustic, "acoustic"), read_half(vocoder, "vocoder")
    if about["text"] is None:
        raise ValueError(f"{acoustic}: config.json does not say how the model wants its text (no 'text')")
    files = VoiceFiles(
        name or folder.name, about["text"], _cast(acoustic_half, dtype), _cast(vocoder_half, dtype),
        tuple(speakers or about["speakers"]), noise_scale, length_scale, sentence_pause, card=dict(card or {}),
    )  # fmt: skip
    audios = Voice(files).synthesize(list(_CALIBRATION), length_scale=1.0)
    rates = [len(s.mel) / len(s.symbols) for audio in audios for s in audio.segments]
    files = replace(files, frames_per_symbol=round(float(max(rates)), 2))
    save_voice(folder, files, readme)
    return files


def save_voice(folder: str | Path, files: VoiceFiles, readme: str | None = None) -> None:
    """Writes a voice folder: each file whole or not at all, the weights before the voice.json that needs them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    halves = {"acoustic": files.acoustic, "vocoder": files.vocoder}
    save_safetensors(
        folder / "weights.safetensors",
        {f"{part}.{name}": x for part, half in halves.items() for name, x in half.tensors.items()},
    )
    meta = {
        "format": FORMAT,
        "name": files.name,
        "sample_rate": files.vocoder.mel.sample_rate,
        "speakers": list(files.speakers),
        **{key: getattr(files, key) for key in _SCALARS},
        "card": files.card,
        "text": files.text.to_dict(),
        **{p: {"model": h.model, "config": h.config, "mel": h.mel.to_dict()} for p, h in halves.items()},
    }
    with replacing(folder / "README.md") as file:
        file.write((readme or _card(files)).encode())
    with replacing(folder / "voice.json") as file:
        file.write((json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode())


def _card(files: VoiceFiles) -> str:
    facts = {
        "models": f"{files.acoustic.model} and {files.vocoder.model}",
        "language": files.text.language,
        "sample rate": f"{files.vocoder.mel.sample_rate} Hz",
        "speakers": ", ".join(files.speakers),
    } | files.card
    return f"# {files.name}\n\n" + "".join(f"- {key}: {value}\n" for key, value in facts.items())


def _below(tensors: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    found = {n.removeprefix(f"{part}."): x for n, x in sorted(tensors.items()) if n.startswith(f"{part}.")}
    if not found:
        raise ValueError(f"weights.safetensors holds no tensor named {part}.*")
    return found


def _cast(half: Half, dtype: str) -> Half:
    tensors = {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in half.tensors.items()}
    if bad := [n for n, x in tensors.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]:
        raise ValueError(f"{half.model}: values beyond the range of {dtype} in {', '.join(bad)}; use float32")
    return replace(half, tensors=tensors)


def _for_inference(half: Half) -> Half:
    """Weight norm folded into kernels and mixing matrices inverted, where that has not been done yet."""
    leaves = {name.rpartition(".")[2] for name in half.tensors}
    flags = {"weight_norm": False} if "v" in leaves else {}
    flags |= {"inverse_only": True} if "weight" in leaves else {}
    if not flags:
        return half
    from jaxtts.nn.functional import fold_weight_norm, named, nested, store_inverse  # imports flax

    tensors = named(store_inverse(fold_weight_norm(nested(half.tensors))))
    return replace(half, tensors={n: np.asarray(x) for n, x in tensors.items()}, config=half.config | flags)
