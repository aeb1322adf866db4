"""Folders that `VitsModel.save_pretrained` and `VitsTokenizer.save_pretrained` wrote (transformers): MMS, vits-ljs ...

The text goes through what VitsTokenizer does to it, in its order: lower case where `normalize` says so, romanisation
where `is_uroman` does, phonemes where `phonemize` does, and identity 0 between all tokens where `add_blank` does.
"""

from collections.abc import Mapping
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, speaker_names
from jaxtts.models.vits.convert import hf_config_from, hf_convert
from jaxtts.text import TextSpec
from jaxtts.weights.fields import Fields

TITLE = "VitsModel (Hugging Face transformers)"


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is the config.json of any model of transformers."""
    return "model_type" in values or "architectures" in values


def read(source: Source) -> Foreign:
    """Reads a folder.

    Raises:
        ValueError: another model than VitsModel, or damaged.
    """
    v = Fields(source.values, str(source.config))
    if v.values.get("model_type") != "vits":
        raise ValueError(f"{source.config} is of model_type={v.values.get('model_type')!r}: only 'vits' is supported")
    weights, _ = checkpoint(source.file("model.safetensors", "pytorch_model.bin"))
    config = hf_config_from(source.values)
    params = flat(hf_convert(weights, config))
    text, missing = None, "vocab.json, which says what its identities mean"
    if (vocabulary := source.json("vocab.json")) is not None:
        text, missing = tokenizer(vocabulary, source, config.num_symbols), ""
    defaults = {
        "noise_scale": v.real("noise_scale", 0.667),
        "duration_noise_scale": v.real("noise_scale_duration", 0.8),
        "length_scale": 1 / max(v.real("speaking_rate", 1.0), 1e-3),
    }
    names = source.values.get("speaker_names") or source.values.get("speakers")
    speakers = speaker_names(names, config.num_speakers)
    return Foreign(TITLE, source.name, "vits", config, config.mel, text, speakers, params, defaults, missing)


def tokenizer(vocabulary: Mapping[str, Any], source: Source, count: int) -> TextSpec:
    """The TextSpec of vocab.json, added_tokens.json and tokenizer_config.json.

    Raises:
        ValueError: identities that are no numbers, taken twice, or beyond the embedding.
    """
    path = source.folder / "vocab.json"
    settings = source.json("tokenizer_config.json") or {}
    v = Fields(settings, str(source.folder / "tokenizer_config.json"))
    added = {t: n for t, n in (source.json("added_tokens.json") or {}).items() if t not in vocabulary}
    for number, entry in (settings.get("added_tokens_decoder") or {}).items():
        if isinstance(entry, dict) and str(number).isdecimal() and entry.get("content") not in vocabulary:
            added.setdefault(str(entry.get("content")), int(number))
    symbols: list[str | None] = [None] * count
    for token, number in [*vocabulary.items(), *added.items()]:
        if type(number) is not int or number < 0:
            raise ValueError(f"{path}: {token!r} has the identity {number!r}, expected a whole number")
        if number >= count and token in vocabulary:
            raise ValueError(f"{path}: {token!r} has the identity {number}, the model knows {count} symbols")
        if number < count:
            if symbols[number] is not None and token in vocabulary:
                raise ValueError(f"{path}: {token!r} and {symbols[number]!r} have the same identity {number}")
            symbols[number] = token if symbols[number] is None else symbols[number]
    table = tuple(f"<{n}>" if s is None else s for n, s in enumerate(symbols))
    unknown = v.values.get("unk_token", "<unk>")
    unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
    pad = v.values.get("pad_token", "<pad>")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    phonemize = v.flag("phonemize", True)
    normalize = v.flag("normalize", True)
    return TextSpec(
        "espeak" if phonemize else "characters",
        "en-us" if phonemize else str(v.values.get("language") or "und"),
        symbols=table,
        blank=table[0] if v.flag("add_blank", True) else None,
        lowercase=normalize,
        cleaner="hugging_face",
        romanise=v.flag("is_uroman", False),
        unknown=unknown if unknown in table and (phonemize or not normalize) else None,
        pad=pad if pad in table else None,
    )
