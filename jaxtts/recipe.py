"""A recipe: everything that decides what a training run becomes, as data.

A file `configs/<model>_<corpus>.py` has `get_config() -> Recipe`; the run stores it as JSON in each checkpoint.
"""

import ast
import dataclasses
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtts import registry
from jaxtts.audio.spec import MelSpec, differing, mel_spec
from jaxtts.config import from_dict, to_dict
from jaxtts.data import Limits
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


@dataclass(frozen=True)
class DataConfig:
    """What a model is shown.

    Attributes:
        mel: how samples become frames.
        text: how text becomes identities (vocoders read none).
        batch_size: utterances or segments in a step, over all devices together.
        segment_length: vocoders see random cuts of this many samples; None gives whole utterances.
        buckets: number of batch shapes that whole utterances are sorted into; each is compiled once.
        held_out: number of utterances kept apart for evaluation.
        column: text of the LJSpeech layout, 'normalized' or 'raw', see `data.read_corpus`.
        limits: where an utterance stops being usable, see `data.check`.
    """

    mel: MelSpec = mel_spec("hifigan")
    text: TextSpec = TextSpec()
    batch_size: int = 32
    segment_length: int | None = None
    buckets: int = 6
    held_out: int = 64
    column: str = "normalized"
    limits: Limits = Limits()

    def __post_init__(self):
        for name in ("batch_size", "buckets"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: give at least 1")
        if self.held_out < 0:
            raise ValueError(f"data.held_out={self.held_out}: give 0 or more")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: the model's name in the registry.
        model: the model's Config.
        optim: an OptimConfig, or one for each net of a GAN ('generator', 'discriminator').
        data: see DataConfig.
        steps: length of the run.
        log_every, eval_every, sample_every, save_every: intervals in steps, see `train.loop.fit`.
        keep: number of checkpoints kept.
        seed: of parameters, order of the data and each step's randomness.
        fsdp: devices that share one copy of the state (1: each has its own), see `train.sharding`.
    """

    name: str
    model: Any
    optim: OptimConfig | dict[str, OptimConfig]
    data: DataConfig = field(default_factory=DataConfig)
    steps: int = 100_000
    log_every: int = 50
    eval_every: int = 1000
    sample_every: int = 1000
    save_every: int = 1000
    keep: int = 3
    seed: int = 0
    fsdp: int = 1

    def __post_init__(self):
        if self.name not in registry.MODELS:
            raise ValueError(f"name={self.name!r} is not a model; use one of {', '.join(registry.MODELS)}")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: give at least 1")
        if self.fsdp < 1:
            raise ValueError(f"fsdp={self.fsdp}: give at least 1")
        facts = {"num_symbols": len(self.data.text.symbols), "num_mels": self.data.mel.num_bins}
        for field_name, value in facts.items():
            if getattr(self.model, field_name, value) != value:
                raise ValueError(f"model.{field_name}={getattr(self.model, field_name)}: data has {value}")
        mel: MelSpec = getattr(self.model, "mel", self.data.mel)
        if mel != self.data.mel:
            fields = differing(mel, self.data.mel) or "name, padding or epsilon alone"
            raise ValueError(f"the model reads {mel.name!r} frames, data has {self.data.mel.name!r} frames ({fields})")

    def with_steps(self, steps: int) -> "Recipe":
        """The recipe for another number of steps; schedules that ended with the run still do."""
        optim = self.optim

        def stretched(o: OptimConfig) -> OptimConfig:
            return dataclasses.replace(o, total_steps=steps) if o.total_steps == self.steps else o

        optim = {k: stretched(o) for k, o in optim.items()} if isinstance(optim, dict) else stretched(optim)
        return dataclasses.replace(self, steps=steps, optim=optim)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        optim = self.optim
        optim = {net: to_dict(o) for net, o in optim.items()} if isinstance(optim, dict) else to_dict(optim)
        return to_dict(dataclasses.replace(self, optim=OptimConfig())) | {"optim": optim}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown model or field.
        """
        config, optim = registry.module(values["name"]).Config, values["optim"]
        several = all(isinstance(o, dict) for o in optim.values())
        made = (
            {net: from_dict(OptimConfig, o) for net, o in optim.items()} if several else from_dict(OptimConfig, optim)
        )
        model = from_dict(config, values["model"])
        return dataclasses.replace(from_dict(cls, values | {"model": model, "optim": OptimConfig()}), optim=made)


def load(config: str | Path) -> Recipe:
    """The recipe of a file, or of a name in the folder configs/ (beside the package, or here).

    Raises:
        ValueError: no such file, or it has no `get_config()`.
    """
    path = Path(config)
    folders = [Path("configs"), Path(__file__).parents[1] / "configs"]
    if path.suffix != ".py":
        known = sorted({p.stem for folder in folders for p in folder.glob("*.py")})
        found = [folder / f"{config}.py" for folder in folders if (folder / f"{config}.py").is_file()]
        if not found:
            raise ValueError(
                f"config={str(config)!r} is no recipe: give a path to one, or {', '.join(known) or 'none'}"
            )
        path = found[0]
    if not path.is_file():
        raise ValueError(f"config={str(config)!r}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config(), which must return the Recipe")
    return module.get_config()


def override(config: Any, path: str, value: Any, _whole: str = "") -> Any:
    """A copy of nested dataclasses (and dicts) with one field changed.

    Args:
        config: for example a Recipe.
        path: dotted name, `model.hidden` or `optim.generator.learning_rate`.
        value: the new value, or its text as typed on a command line.

    Raises:
        ValueError: no such field, or a value of another type; the message names the field.
    """
    whole = _whole or path
    name, _, below = path.partition(".")
    fields = (
        config if isinstance(config, dict) else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    )
    if name not in fields:
        raise ValueError(f"{whole}: there is no field {name!r} among {', '.join(fields)}")
    old = fields[name]
    if below:
        if not (dataclasses.is_dataclass(old) or isinstance(old, dict)):
            raise ValueError(f"{whole}: {name!r} is {old!r} and has no fields")
        new = override(old, below, value, whole)
    else:
        new = _parsed(value, old, whole)
    return config | {name: new} if isinstance(config, dict) else dataclasses.replace(config, **{name: new})


def _parsed(value: Any, old: Any, name: str) -> Any:
    if isinstance(value, str) and not isinstance(old, str):
        try:
            value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
        except (ValueError, SyntaxError):
            pass_through = old is None  # an optional name
            if not pass_through:
                raise ValueError(f"{name}={value!r}: give a value like {old!r}") from None
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise ValueError(f"{name}={value!r}: give a value like {old!r}")
    return value
