"""HiFi-GAN generators of jik876/hifi-gan: `g_*` and config.json."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat
from jaxtts.models.hifigan.convert import config_from, generator_params

TITLE = "HiFi-GAN (jik876)"


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is the reference's config.json."""
    return "upsample_initial_channel" in values and "num_speakers" not in values


def read(source: Source) -> Foreign:
    """Reads a generator."""
    weights, _ = checkpoint(source.file("g_*", "generator*.pth", "generator*.pt", "*.safetensors"))
    weights = {name.removeprefix("generator."): x for name, x in weights.items()}
    config = config_from(source.values)
    config = replace(config, mel=source.mel or config.mel)
    params = flat(generator_params(weights, config))
    return Foreign(TITLE, source.name, "hifigan", config, config.mel, None, ("default",), params,
                   missing="an acoustic model, which it turns into sound: give one with --acoustic")  # fmt: skip
