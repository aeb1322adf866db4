"""What a checkpoint of another toolkit comes to, and the files it came from."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts import registry
from jaxtts.audio.spec import MelSpec
from jaxtts.nn.functional import fold_weight_norm, merged, named, nested, rngs_for_shapes, structure
from jaxtts.text import TextSpec
from jaxtts.weights import read_weights
from jaxtts.weights.torch_file import read_torch, state_dict

_MOST_JSON = 64 * 2**20
_MOST_YAML = 2**20
_SIDE_FILES = (
    "vocab",
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "preprocessor",
    "generation",
    "speaker",
    "language",
)


@dataclass(frozen=True)
class Foreign:
    """A checkpoint in our terms.

    Attributes:
        kind: the toolkit and model, for people.
        name: of the folder or file.
        model: the model's name in the registry.
        config: its Config, with `weight_norm` as the tensors have it.
        mel: the frames that it reads or makes, and its sample rate.
        text: how it wants its text; None for a vocoder, or if no front end here reads as it was taught.
        speakers: names in the order of the embedding.
        tensors: dotted name -> array, all that `Model(config)` has.
        defaults: its own noise_scale, duration_noise_scale and length_scale, as far as it has them.
        missing: what it lacks to speak alone, to follow "it lacks"; empty if it does.
    """

    kind: str
    name: str
    model: str
    config: Any
    mel: MelSpec
    text: TextSpec | None
    speakers: tuple[str, ...]
    tensors: dict[str, np.ndarray] = field(repr=False)
    defaults: dict[str, float] = field(default_factory=dict)
    missing: str = ""

    def folded(self) -> "Foreign":
        """The same with weight norm folded into the kernels, for speaking."""
        if not getattr(self.config, "weight_norm", False):
            return self
        tensors = {name: np.asarray(x) for name, x in named(fold_weight_norm(nested(self.tensors))).items()}
        return replace(self, tensors=tensors, config=replace(self.config, weight_norm=False))


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies.

    Attributes:
        path: what the user named.
        folder: where its files lie.
        weights: the weights, if the user named a file.
        config: its configuration file, or the weights where there is none.
        values: what that holds; nothing where there is none.
        language, mel: what the user chose.
    """

    path: Path
    folder: Path
    weights: Path | None
    config: Path
    values: dict[str, Any] = field(repr=False)
    language: str | None = None
    mel: MelSpec | None = None

    @property
    def name(self) -> str:
        """What to call the voice."""
        return (self.path if self.path.is_dir() else self.path.parent).resolve().name or "voice"

    def file(self, *patterns: str) -> Path:
        """The weights: the file named by the user, else the newest of the first pattern that matches anything.

        Raises:
            ValueError: there are none; the message names what was looked for.
        """
        if self.weights is not None:
            return self.weights
        for pattern in patterns:
            if found := sorted((p for p in self.folder.glob(pattern) if p.is_file()), key=_age):
                return found[-1]
        raise ValueError(f"{self.folder} has no weights: there is none of {', '.join(patterns)}")

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the weights, None if there is no such file."""
        path = self.folder / Path(name).name
        return read_json(path) if path.is_file() else None


def statistics(source: Source, count: int, stem: str, hint: str) -> dict[str, tuple[float, ...]]:
    """`mean` and `scale` of each of `count` bins, as a MelSpec has them, beside the weights.

    Args:
        stem: of a file .npz of both by these names, or .npy of the two [2, count].
        hint: how to make the .npz out of what the toolkit writes.

    Raises:
        ValueError: there is neither, or it holds something else.
    """
    path = next((p for p in (source.folder / f"{stem}.npz", source.folder / f"{stem}.npy") if p.is_file()), None)
    if path is None:
        raise ValueError(
            f"{source.folder} has no {stem}.npz, the mean and scale of each bin that this vocoder's frames are "
            f"normalised by: {hint}"
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                rows = file["mean"], file["scale"]
        else:
            rows = tuple(np.load(path, allow_pickle=False))
        mean, scale = (np.asarray(row, np.float64).ravel() for row in rows)
    except (ValueError, EOFError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not hold the mean and the scale of each bin ({error})") from None
    if mean.size != count or scale.size != count:
        raise ValueError(f"{path} is of {mean.size} and {scale.size} bins, this model's frames have {count}")
    if not (np.isfinite(mean) & np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"{path}: each mean must be finite and each scale above 0")
    return {"mean": tuple(mean.tolist()), "scale": tuple(scale.tolist())}


def _age(path: Path) -> tuple[list[int], str]:
    """Numbers in a file's name, such as its step, order it among others."""
    return [int(n) for n in re.findall(r"\d{1,18}", path.name)], path.name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: no JSON, or no object; the message names the file.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(values).__name__}")
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    """The same of a YAML file, whose tags make no objects."""
    import yaml

    try:
        if path.stat().st_size > _MOST_YAML:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not plain YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no table but a {type(values).__name__}")
    return values


def locate(
    path: Path, config: Path | None = None, *, language: str | None = None, mel: MelSpec | None = None
) -> Source:
    """Finds the configuration of a checkpoint: `config`, `FILE.json`, config.json, the only other JSON file there, or
    config.yml.

    Some toolkits write none: a file of weights is located without.

    Raises:
        ValueError: nothing there, or a folder without a configuration.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}")
    if path.suffix == ".onnx" or (path.is_dir() and not config and _only_onnx(path)):
        raise ValueError(
            f"{path} is an ONNX file, whose weights are part of a frozen graph: "
            "give the training checkpoint (.ckpt for Piper) with its config.json"
        )
    folder = path if path.is_dir() else path.parent
    if config is None:
        beside = [] if path.is_dir() else [path.with_name(path.name + ".json"), path.with_suffix(".json")]
        others = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(_SIDE_FILES)]
        candidates = [*beside, folder / "config.json", *(others if len(others) == 1 else []), folder / "config.yml"]
        config = next((p for p in candidates if p.is_file()), None)
        if config is None and not path.is_dir() and not others:
            return Source(path, folder, path, path, {}, language, mel)
        if config is None:
            found = f"; it has {', '.join(p.name for p in others[:10])}" if others else ""
            raise ValueError(f"{folder} has no config.json{found}: give the checkpoint's own config with --config")
    values = (_read_yaml if config.suffix in (".yml", ".yaml") else read_json)(config)
    return Source(path, folder, None if path.is_dir() else path, config, values, language, mel)


def _only_onnx(folder: Path) -> bool:
    weights = {p.suffix for p in folder.iterdir()} & {".onnx", ".ckpt", ".pth", ".pt", ".safetensors", ".bin"}
    return weights == {".onnx"}


def checkpoint(path: Path, *keys: str) -> tuple[dict[str, np.ndarray], Any]:
    """The tensors of a file, of a PyTorch one those under `keys` (if it has them), and all that it holds.

    Raises:
        ValueError: damaged, or without tensors; the message names the file.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or path.suffix == ".safetensors":
        return dict(read_weights(path)), None
    whole = read_torch(path)
    try:
        return state_dict(whole, *keys), whole
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parameters(model: str, config: Any) -> dict[str, Any]:
    """Dotted name -> shape and type of each parameter of a model, which is not built, and of its batch statistics."""
    _, params, rest = structure(lambda: registry.module(model).Model(config, rngs=rngs_for_shapes()))
    return named(merged(params, rest))


def flat(tree: Any) -> dict[str, np.ndarray]:
    """A converter's nested parameters under dotted names."""
    return {name: np.asarray(x) for name, x in named(tree).items()}


def speaker_names(found: Any, count: int) -> tuple[str, ...]:
    """The names of `count` speakers out of a list, or a dict from names to numbers; numbers where it names none."""
    names = [str(n) for n in range(count)]
    if isinstance(found, Mapping):
        for name, number in found.items():
            if type(number) is int and 0 <= number < count:
                names[number] = str(name)
    elif isinstance(found, Sequence) and not isinstance(found, str) and len(found) == count:
        names = [str(name) for name in found]
    return tuple(names) if count > 1 else ("default",)


Reader = Callable[[Source], Foreign]
