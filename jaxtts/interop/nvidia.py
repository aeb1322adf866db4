"""Tacotron 2 and WaveGlow of NVIDIA: `tacotron2_statedict.pt`, `waveglow_*.pt`, with no configuration beside them.

WaveGlow's files hold the pickled module itself; its tensors are read, nothing of it is executed. Sizes are read off the
tensors, so that a model with other sizes imports too.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from jaxtts.audio.spec import mel_spec
from jaxtts.interop.foreign import Foreign, Source, flat
from jaxtts.models.tacotron2 import convert as tacotron2
from jaxtts.models.waveglow import convert as waveglow
from jaxtts.text import TextSpec
from jaxtts.text.symbols import GLOW_TTS
from jaxtts.weights import read_weights

TITLE = "Tacotron 2 or WaveGlow (NVIDIA)"
_TACOTRON2 = "decoder.attention_layer.location_layer.location_conv.conv.weight"
_WAVEGLOW = "convinv.0.conv.weight"


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is WaveGlow's config.json; Tacotron 2 has none."""
    return "waveglow_config" in values


def recognises_weights(names: Collection[str]) -> bool:
    """Whether tensors have the names of either."""
    names = {name.removeprefix("module.") for name in names}
    return _TACOTRON2 in names or _WAVEGLOW in names


def read(source: Source) -> Foreign:
    """Reads either."""
    path = source.file("waveglow*", "*.pt", "*.pth", "*.safetensors")
    weights = {name.removeprefix("module."): x for name, x in read_weights(path).items()}
    if _WAVEGLOW in weights:
        config = waveglow.config_from(source.values) if source.values else waveglow.config_of(weights)
        return Foreign(
            "WaveGlow (NVIDIA)", source.name, "waveglow", replace(config, mel=source.mel or config.mel),
            source.mel or config.mel, None, ("default",), flat(waveglow.convert(weights, config)),
            missing="an acoustic model, which it turns into sound: give one with --acoustic",
        )  # fmt: skip
    config = tacotron2.config_of(weights)
    params = flat(tacotron2.convert(weights, config))
    symbols = GLOW_TTS
    text = TextSpec("characters", symbols=symbols, cleaner="english_cleaners")
    lacks = "a vocoder, which turns its mels into sound: give one with --vocoder"
    if config.num_symbols != len(symbols):
        text = None
        lacks = (
            f"the list of its {config.num_symbols} symbols: the reference has {len(symbols)}, and no file names others"
        )
    return Foreign(
        "Tacotron 2 (NVIDIA)", source.name, "tacotron2", config, source.mel or mel_spec("tacotron2"),
        text, ("default",), params, missing=lacks,
    )  # fmt: skip
