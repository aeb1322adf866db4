"""What training, or `jaxtts import-weights`, wrote here: `config.json` and `model.safetensors`."""

from collections.abc import Mapping
from typing import Any

from jaxtts import registry
from jaxtts.audio.spec import MelSpec
from jaxtts.config import from_dict
from jaxtts.interop.foreign import Foreign, Source, parameters
from jaxtts.text import TextSpec
from jaxtts.weights.native import load_native

TITLE = "jaxtts"


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is our config.json."""
    return str(values.get("model")) in registry.MODELS and isinstance(values.get("config"), dict)


def read(source: Source) -> Foreign:
    """Reads the folder. Raises ValueError if its tensors are not those of its configuration."""
    tensors, values = load_native(source.folder)
    model = values["model"]
    config = from_dict(registry.module(model).Config, values["config"])
    wanted = {name: tuple(x.shape) for name, x in parameters(model, config).items()}
    found = {name: x.shape for name, x in tensors.items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise ValueError(f"{source.folder}: its tensors are not those of its config.json: {', '.join(wrong[:5])} ...")
    return Foreign(
        TITLE, source.name, model, config,
        MelSpec.from_dict(values.get("mel") or values["config"]["mel"]),
        TextSpec.from_dict(values["text"]) if values.get("text") else None,
        tuple(map(str, values.get("speakers") or ("default",))),
        tensors, {name: float(x) for name, x in (values.get("defaults") or {}).items()}, values.get("missing", ""),
    )  # fmt: skip
