"""A voice on disk: a folder with `voice.json`, `weights.safetensors` and a card, `README.md`.

`voice.json` says all that speaking needs (texts and mels as specs, models by name with their configurations), so that a
voice whose compiled functions are in the cache is read without importing a model. A voice has two parts, `acoustic` and
`vocoder`, or a single one, `model`, that goes from end to end. Tensors are named `<part>.<name>`, float16 or float32,
weight norm folded into the kernels and mixing matrices inverted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.config import to_dict
from jaxtts.registry import MODELS
from jaxtts.text import TextSpec
from jaxtts.weights.safetensors import read_safetensors, replacing, save_safetensors

FORMATS = {("acoustic", "vocoder"): 1, ("model",): 2}  # parts -> number in voice.json
GRIFFIN_LIM = "griffin-lim"  # in the place of a vocoder's path, and of its name
KINDS = {"acoustic": "acoustic", "vocoder": "vocoder", "model": "end-to-end"}  # part -> kind in the registry
_CALIBRATION = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background, and wait until it is dry.",
    "Rice is often served in round bowls; these days a chicken leg is a rare dish!",
    "When the sunlight strikes raindrops in the air, do they act as a prism and form a rainbow?",
)


@dataclass(frozen=True)
class Part:
    """One model of a voice: its name in the registry, configuration, mels and tensors."""

    model: str
    config: dict[str, Any]
    mel: MelSpec
    tensors: dict[str, np.ndarray] = field(repr=False)

    @property
    def traits(self) -> tuple[str, ...]:
        """See `registry.Entry`."""
        return MODELS[self.model].traits if self.model in MODELS else ()


@dataclass(frozen=True)
class VoiceFiles:
    """What a voice folder holds.

    Attributes:
        name: how the voice is called.
        text: how it wants its text.
        parts: its models in the order of the data, 'acoustic' and 'vocoder', or 'model' alone.
        speakers: names in the order of the speaker embedding; one for a single-speaker voice.
        noise_scale, duration_noise_scale, length_scale: defaults of `Voice.synthesize`.
        sentence_pause: seconds of silence between sentences.
        frames_per_symbol: the most frames that a symbol takes on average over a sentence; picks the frame bucket.
        card: free facts about the voice (corpus, licence, training).
        programs: where programs made of its models lie, see `exported`; None: nowhere.
    """

    name: str
    text: TextSpec
    parts: dict[str, Part]
    speakers: tuple[str, ...] = ("default",)
    noise_scale: float = 0.667
    duration_noise_scale: float = 0.8
    length_scale: float = 1.0
    sentence_pause: float = 0.25
    frames_per_symbol: float = 6.0
    card: dict[str, Any] = field(default_factory=dict)
    programs: Path | None = None

    @property
    def first(self) -> Part:
        """The model that reads the text."""
        return next(iter(self.parts.values()))

    @property
    def mel(self) -> MelSpec:
        """The frames of what makes the wave, with its sample rate and hop."""
        return next(reversed(self.parts.values())).mel

    @property
    def stochastic_durations(self) -> bool:
        """Whether noise decides how long symbols last."""
        return bool(self.first.config.get("stochastic_durations"))

    @property
    def autoregressive(self) -> bool:
        """Whether the acoustic model ends by itself, and may fail to."""
        return "autoregressive" in self.first.traits

    @property
    def vocoder(self) -> Part | None:
        """The model that reads mels; an end-to-end voice has none, nor does Griffin-Lim count."""
        part = self.parts.get("vocoder")
        return part if part and part.model != GRIFFIN_LIM else None


_SCALARS = ("noise_scale", "duration_noise_scale", "length_scale", "sentence_pause", "frames_per_symbol")


def read(path: str | Path) -> VoiceFiles:
    """Reads whatever speaks by itself: a voice folder, or an end-to-end model as training or another toolkit left it.

    Raises:
        ValueError: there is no such thing, it is damaged, or it needs a vocoder.
    """
    path = Path(path)
    if (path / "voice.json").is_file() or not path.exists():
        return read_voice(path)
    part, about = read_part(path, "model")
    return VoiceFiles((path if path.is_dir() else path.parent).resolve().name, parts={"model": part}, **about)


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
        names = next((names for names, number in FORMATS.items() if meta["format"] == number), None)
        if names is None:
            raise ValueError(f"its format is {meta['format']!r}, this version reads {list(FORMATS.values())}")
        tensors = read_safetensors(folder / "weights.safetensors")
        parts = {
            name: _for_inference(
                Part(x["model"], dict(x["config"]), MelSpec.from_dict(x["mel"]), _below(tensors, name))
            )
            for name, x in ((name, meta[name]) for name in names)
        }
        scalars = {key: float(meta[key]) for key in _SCALARS if key in meta}
        speakers = tuple(map(str, meta.get("speakers", ("default",))))
        text, card = TextSpec.from_dict(meta["text"]), dict(meta.get("card", {}))
        programs = folder if (folder / "export.json").is_file() else None
        return VoiceFiles(str(meta["name"]), text, parts, speakers, **scalars, card=card, programs=programs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} at {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_part(path: str | Path, name: str, mel: MelSpec | None = None) -> tuple[Part, dict[str, Any]]:
    """One model: of a voice folder, as training left it (`config.json` and `model.safetensors`), or another toolkit's.

    Args:
        path: for a vocoder also 'griffin-lim'.
        name: 'acoustic', 'vocoder' or 'model'.
        mel: what Griffin-Lim reads; models know it themselves.

    Returns:
        The model in the form for inference, and what else is said there, as VoiceFiles calls it: `speakers`, for a
        model that reads text `text`, perhaps `noise_scale` and the like.

    Raises:
        ValueError: there is no such model there.
    """
    path = Path(path)
    if name == "vocoder" and str(path) == GRIFFIN_LIM:
        assert mel is not None
        return Part(GRIFFIN_LIM, {"mel": mel.to_dict()}, mel, {}), {}
    if (path / "voice.json").is_file():
        voice = read_voice(path)
        if name not in voice.parts:
            raise ValueError(f"voice {str(path)!r} has no {name}: it is made of {' and '.join(voice.parts)}")
        scalars = {key: getattr(voice, key) for key in _SCALARS}
        return voice.parts[name], {"text": voice.text, "speakers": voice.speakers, **scalars}
    from jaxtts import interop  # imports flax

    try:
        found = interop.read(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a voice folder, since it has no voice.json, nor a checkpoint: {error}"
        ) from error
    if MODELS[found.model].kind != KINDS[name]:
        lacking = f"; it lacks {found.missing}" if found.missing else ""
        raise ValueError(
            f"{path} holds {found.model}, of the kind {MODELS[found.model].kind!r}, not {KINDS[name]!r}{lacking}"
        )
    if name == "model" and found.text is None:
        raise ValueError(f"{path} does not speak: it lacks {found.missing or 'the spec of its text'}")
    config = to_dict(found.config)
    count, speakers = config.get("num_speakers", 1), found.speakers
    speakers = speakers if len(speakers) == count else tuple(map(str, range(count)))
    about = {"text": found.text, "speakers": speakers, **found.defaults}
    return _for_inference(Part(found.model, config, found.mel, found.tensors)), about


def write_voice(
    folder: str | Path,
    acoustic: str | Path | None = None,
    vocoder: str | Path | None = None,
    *,
    model: str | Path | None = None,
    name: str | None = None,
    speakers: Sequence[str] | None = None,
    noise_scale: float | None = None,
    duration_noise_scale: float | None = None,
    length_scale: float | None = None,
    sentence_pause: float | None = None,
    card: dict[str, Any] | None = None,
    readme: str | None = None,
    dtype: str = "float16",
) -> VoiceFiles:
    """Assembles a voice folder from exported models, and measures how many frames a symbol takes.

    Args:
        folder: made if absent.
        acoustic, vocoder: folders that training wrote (`config.json`, `model.safetensors`), voice folders, or what
            another toolkit left.
        model: the same, of an end-to-end model, in place of those two.
        name: default: the folder's name.
        noise_scale, duration_noise_scale, length_scale, sentence_pause: defaults of the voice, see VoiceFiles.
        card: facts to keep in voice.json and, without `readme`, to list in the card.
        readme: the card, Markdown.
        dtype: float16 or float32.

    Raises:
        ValueError: the two do not fit, or one cannot be read.
    """
    from jaxtts.synth.voice import Voice  # Voice is made of VoiceFiles

    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype={dtype!r}: use 'float16' or 'float32'")
    given = {"acoustic": acoustic, "vocoder": vocoder, "model": model}
    paths = {part: path for part, path in given.items() if path is not None}
    if tuple(paths) not in FORMATS:
        raise ValueError("a voice is made of an acoustic model and a vocoder, or of an end-to-end model alone")
    if str(vocoder) == GRIFFIN_LIM:
        raise ValueError(f"vocoder={GRIFFIN_LIM!r} is no model that a voice can hold: give it to `say` or `load`")
    folder = Path(folder)
    files = assemble(name or folder.name, paths)
    chosen = {
        "noise_scale": noise_scale, "duration_noise_scale": duration_noise_scale, "length_scale": length_scale,
        "sentence_pause": sentence_pause, "card": card, "speakers": tuple(speakers) if speakers else None,
    }  # fmt: skip
    parts = {part: _cast(x, dtype) for part, x in files.parts.items()}
    files = replace(files, parts=parts, **{field: x for field, x in chosen.items() if x is not None})
    if files.text.language.startswith("en"):
        audios = Voice(files).synthesize(list(_CALIBRATION), length_scale=1.0)
        rates = [s.frames / len(s.symbols) for audio in audios for s in audio.segments if not s.truncated]
        files = replace(files, frames_per_symbol=round(float(max(rates)), 2)) if rates else files
    save_voice(folder, files, readme)
    return files


def assemble(name: str, paths: Mapping[str, str | Path]) -> VoiceFiles:
    """A voice of models that lie in different places: part -> path, see `read_part`.

    Raises:
        ValueError: one cannot be read, or the first does not say how it wants its text.
    """
    found: dict[str, tuple[Part, dict[str, Any]]] = {}
    for part, path in paths.items():
        found[part] = read_part(path, part, found["acoustic"][0].mel if part == "vocoder" else None)
    about = next(iter(found.values()))[1]
    if about.get("text") is None:
        path = next(iter(paths.values()))
        raise ValueError(f"{path}: config.json does not say how the model wants its text (no 'text')")
    return VoiceFiles(name, parts={part: x for part, (x, _) in found.items()}, **about)


def save_voice(folder: str | Path, files: VoiceFiles, readme: str | None = None) -> None:
    """Writes a voice folder: each file whole or not at all, the weights before the voice.json that needs them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(
        folder / "weights.safetensors",
        {f"{name}.{n}": x for name, part in files.parts.items() for n, x in part.tensors.items()},
    )
    meta = {
        "format": FORMATS[tuple(files.parts)],
        "name": files.name,
        "sample_rate": files.mel.sample_rate,
        "speakers": list(files.speakers),
        **{key: getattr(files, key) for key in _SCALARS},
        "card": files.card,
        "text": files.text.to_dict(),
        **{n: {"model": x.model, "config": x.config, "mel": x.mel.to_dict()} for n, x in files.parts.items()},
    }
    with replacing(folder / "README.md") as file:
        file.write((readme or _card(files)).encode())
    with replacing(folder / "voice.json") as file:
        file.write((json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode())


def _card(files: VoiceFiles) -> str:
    facts = {
        "models": " and ".join(part.model for part in files.parts.values()),
        "language": files.text.language,
        "sample rate": f"{files.mel.sample_rate} Hz",
        "speakers": ", ".join(files.speakers),
    } | files.card
    return f"# {files.name}\n\n" + "".join(f"- {key}: {value}\n" for key, value in facts.items())


def _below(tensors: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    found = {n.removeprefix(f"{part}."): x for n, x in sorted(tensors.items()) if n.startswith(f"{part}.")}
    if not found:
        raise ValueError(f"weights.safetensors holds no tensor named {part}.*")
    return found


def _cast(part: Part, dtype: str) -> Part:
    tensors = {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in part.tensors.items()}
    if bad := [n for n, x in tensors.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]:
        raise ValueError(f"{part.model}: values beyond the range of {dtype} in {', '.join(bad)}; use float32")
    return replace(part, tensors=tensors)


def _for_inference(part: Part) -> Part:
    """Weight norm folded into kernels and mixing matrices inverted, where that has not been done yet."""
    leaves = {name.rpartition(".")[2] for name in part.tensors}
    flags = {"weight_norm": False} if "v" in leaves else {}
    flags |= {"inverse_only": True} if "weight" in leaves else {}
    if not flags:
        return part
    from jaxtts.nn.functional import fold_weight_norm, named, nested, store_inverse  # imports flax

    tensors = named(store_inverse(fold_weight_norm(nested(part.tensors))))
    return replace(part, tensors={n: np.asarray(x) for n, x in tensors.items()}, config=part.config | flags)
