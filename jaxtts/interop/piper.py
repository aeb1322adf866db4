"""Training checkpoints of Piper (rhasspy/piper): `*.ckpt` of Lightning and the config.json of its preprocessing.

Piper keeps jaywalnut310's graph under the prefix `model_g`; sizes are in the checkpoint's `hyper_parameters`, the
alphabet (espeak's phonemes, decomposed to code points) and the language in config.json. A sentence is `^`, its phonemes
with `_` before, between and behind them, and `$`.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, speaker_names
from jaxtts.models.vits.convert import config_from, convert
from jaxtts.text import TextSpec
from jaxtts.weights.fields import Fields
from jaxtts.weights.torch_file import Object

TITLE = "VITS (Piper)"
_SIZES = ("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout",
          "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_initial_channel",
          "upsample_kernel_sizes", "use_sdp", "use_spectral_norm")  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "inter_channels": 192, "hidden_channels": 192, "filter_channels": 768, "n_heads": 2, "n_layers": 6,
    "resblock": "2", "resblock_kernel_sizes": [3, 5, 7], "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]],
    "upsample_rates": [8, 8, 4], "upsample_initial_channel": 256, "upsample_kernel_sizes": [16, 16, 8],
}  # fmt: skip


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is Piper's config.json."""
    return "phoneme_id_map" in values


def read(source: Source) -> Foreign:
    """Reads a checkpoint."""
    v = Fields(source.values, str(source.config))
    weights, whole = checkpoint(source.file("*.ckpt", "*.pth", "*.pt"), "state_dict")
    weights = {n.removeprefix("model_g."): x for n, x in weights.items() if n.startswith("model_g.")}
    if not weights:
        raise ValueError(f"{source.path} holds no tensors named model_g.*, as Piper's training checkpoints do")
    given = _mapping(whole.get("hyper_parameters") if isinstance(whole, dict) else None)
    speakers = v.whole("num_speakers", 1)
    channels = given.get("gin_channels") or 512
    rate = v.section("audio").whole("sample_rate", given.get("sample_rate") or 22050)
    audio = {name: given.get(name) for name in ("filter_length", "hop_length", "win_length", "mel_fmin", "mel_fmax")}
    config = config_from(
        {
            "model": _DEFAULTS | {n: _plain(given[n]) for n in _SIZES if given.get(n) is not None}
            | {"n_speakers": speakers, "gin_channels": channels},
            "data": audio | {"sampling_rate": rate, "n_mel_channels": given.get("mel_channels")},
            "train": {"segment_size": given.get("segment_size")},
        },
        weights,
    )  # fmt: skip
    tensors = flat(convert(weights, config))
    text, missing = front_end(v, config.num_symbols)
    inference = v.section("inference")
    defaults = {
        "noise_scale": inference.real("noise_scale", 0.667),
        "duration_noise_scale": inference.real("noise_w", 0.8),
        "length_scale": inference.real("length_scale", 1.0),
    }
    names = speaker_names(source.values.get("speaker_id_map"), config.num_speakers)
    return Foreign(TITLE, source.name, "vits", config, config.mel, text, names, tensors, defaults, missing)


def front_end(v: Fields, count: int) -> tuple[TextSpec | None, str]:
    """The TextSpec of the phoneme map, or what is missing for it.

    Raises:
        ValueError: the map is damaged.
    """
    kind = v.text("phoneme_type", "espeak")
    if kind not in ("espeak", "text"):
        return None, f"a front end for phoneme_type={kind!r}: there is one for 'espeak' and 'text'"
    symbols = [f"<{n}>" for n in range(count)]
    for phoneme, ids in v.section("phoneme_id_map").values.items():
        ids = ids if isinstance(ids, list) else [ids]
        if len(ids) != 1 or type(ids[0]) is not int or not 0 <= ids[0] < count:
            raise ValueError(f"{v.where} maps {phoneme!r} to {ids!r}: expected one identity below {count}")
        symbols[ids[0]] = unicodedata.normalize("NFD", phoneme)
    if lost := [s for s in "_^$" if s not in symbols]:
        raise ValueError(f"{v.where} has no {' '.join(lost)} in its phoneme_id_map")
    language = v.section("espeak").text("voice", v.section("language").text("code", "en-us"))
    espeak = kind == "espeak"
    return TextSpec("espeak" if espeak else "characters", language, tuple(symbols), "_", "^", "$",
                    lowercase=not espeak, cleaner="piper"), ""  # fmt: skip


def _mapping(found: Any) -> dict[str, Any]:
    """The hyper-parameters, a dict or what a subclass of one left."""
    if isinstance(found, Object):
        found = found.mapping or found.state
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
