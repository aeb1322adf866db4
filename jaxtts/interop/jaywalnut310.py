"""Checkpoints of jaywalnut310/vits and jaywalnut310/glow-tts: `G_*.pth` and the config of its training.

The configuration names the cleaners of the text: `english_cleaners2` (espeak's phonemes) and those that leave letters
have a front end here; a model that was taught by another one can be trained on, but does not speak.
"""

from collections.abc import Mapping
from typing import Any

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, speaker_names
from jaxtts.models.glow_tts import convert as glow_tts
from jaxtts.models.vits import convert as vits
from jaxtts.text import GLOW_TTS, VITS, TextSpec
from jaxtts.weights.fields import Fields

TITLE = "VITS or Glow-TTS (jaywalnut310)"
_FILES = ("G_*.pth", "[!D]*.pth", "*.pt", "*.safetensors")


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is a configuration of either (that of Glow-TTS may be its section `model` alone)."""
    return _is_glow(values) or isinstance(values.get("model"), dict) and "inter_channels" in values["model"]


def _is_glow(values: Mapping[str, Any]) -> bool:
    return "n_layers_enc" in {**values, **Fields(values).section("model").values}


def read(source: Source) -> Foreign:
    """Reads either."""
    weights, whole = checkpoint(source.file(*_FILES))
    if isinstance(whole, dict) and isinstance(whole.get("model"), dict):
        weights, _ = checkpoint(source.file(*_FILES), "model")
    return (_read_glow if _is_glow(source.values) else _read_vits)(source, weights)


def _read_vits(source: Source, weights: dict[str, Any]) -> Foreign:
    config = vits.config_from(source.values, weights)
    text, missing = front_end(source.values, config.num_symbols)
    defaults = {"noise_scale": 0.667, "duration_noise_scale": 0.8, "length_scale": 1.0}
    speakers = speaker_names(source.values.get("speakers"), config.num_speakers)
    tensors = flat(vits.convert(weights, config))
    return Foreign("VITS (jaywalnut310)", source.name, "vits", config, config.mel, text, speakers, tensors, defaults,
                   missing)  # fmt: skip


def front_end(values: Mapping[str, Any], count: int) -> tuple[TextSpec | None, str]:
    """The TextSpec that the section `data` asks for, or what is missing for it."""
    data = Fields(values).section("data")
    listed = values.get("symbols")
    symbols = tuple(map(str, listed)) if isinstance(listed, list) else VITS
    if len(symbols) != count:
        return None, f"its alphabet: it knows {count} symbols, and the config lists {len(symbols)} (entry 'symbols')"
    cleaners = data.values.get("text_cleaners", ["english_cleaners2"])
    cleaners = [cleaners] if isinstance(cleaners, str) else cleaners
    blank = symbols[0] if data.flag("add_blank", True) else None
    if cleaners == ["english_cleaners2"]:
        return TextSpec("espeak", "en-us", symbols, blank, lowercase=True, cleaner="english_cleaners2"), ""
    if cleaners in (["basic_cleaners"], ["transliteration_cleaners"]):
        return TextSpec("characters", "und", symbols, blank, lowercase=True, cleaner="basic_cleaners"), ""
    return (
        None,
        f"a front end for its text_cleaners={cleaners!r}: there is one for english_cleaners2 and basic_cleaners",
    )


def _read_glow(source: Source, weights: dict[str, Any]) -> Foreign:
    config = glow_tts.config_from(source.values, weights)
    tensors = flat(glow_tts.convert(weights, config))
    speakers = speaker_names(source.values.get("speakers"), config.num_speakers)
    return Foreign("Glow-TTS (jaywalnut310)", source.name, "glow_tts", config, source.mel or glow_mel(source.values),
                   glow_text(config.num_symbols), speakers, tensors, {"noise_scale": 0.667, "length_scale": 1.0},
                   missing=NO_VOCODER)  # fmt: skip


NO_VOCODER = "a vocoder, since Glow-TTS makes mel spectrograms: give it with --acoustic and one with --vocoder"


def glow_mel(values: Mapping[str, Any]) -> MelSpec:
    """The frames of jaywalnut310/glow-tts: NVIDIA's, with the numbers of base.json's section `data`."""
    data, model, default = Fields(values).section("data"), Fields(values).section("model"), mel_spec("tacotron2")
    found = default.replace(
        sample_rate=data.whole("sampling_rate", default.sample_rate),
        n_fft=data.whole("filter_length", default.n_fft),
        hop_length=data.whole("hop_length", default.hop_length),
        win_length=data.whole("win_length", default.win_length),
        num_mels=data.whole("n_mel_channels", model.whole("out_channels", Fields(values).whole("out_channels", 80))),
        fmin=data.real("mel_fmin", default.fmin),
        fmax=default.fmax if "mel_fmax" not in data.values else data.real("mel_fmax", default.sample_rate / 2),
    )
    return found if found == default else found.replace(name="glow_tts_custom")


def glow_text(num_symbols: int) -> TextSpec:
    """The ARPAbet alphabet of jaywalnut310/glow-tts; one symbol more is the blank of `add_blank`.

    Raises:
        ValueError: another number of symbols.
    """
    if num_symbols not in (len(GLOW_TTS), len(GLOW_TTS) + 1):
        known = f"glow-tts has {len(GLOW_TTS)}, one more with blanks"
        raise ValueError(f"the checkpoint has {num_symbols} symbols; {known}")
    blank = "<blank>" if num_symbols > len(GLOW_TTS) else None
    return TextSpec("arpabet", symbols=GLOW_TTS + ((blank,) if blank else ()), blank=blank)
