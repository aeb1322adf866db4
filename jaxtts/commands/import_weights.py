"""`jaxtts import-weights`: a checkpoint of another toolkit to a folder of ours (`config.json`, `model.safetensors`)."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtts.audio.spec import MelSpec
    from jaxtts.text import TextSpec

HELP = """Bring a checkpoint of another toolkit here. Read are jaywalnut310/glow-tts and coqui-tts (glow_tts) and
jik876/hifi-gan (hifigan, g_* files), as .safetensors or PyTorch files; nothing in them is executed. The result is a
folder for `jaxtts say --acoustic/--vocoder`, `jaxtts vocode` and `jaxtts export-voice`."""
EXAMPLES = """\
  jaxtts import-weights g_02500000 imported/hifigan
  jaxtts import-weights pretrained.pth imported/glow --model glow_tts --config base.json
  jaxtts export-voice voices/lj --acoustic imported/glow --vocoder imported/hifigan"""
MODELS = ("glow_tts", "hifigan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint file")
    parser.add_argument("folder", type=Path, metavar="DST", help="where the model goes")
    parser.add_argument("--model", choices=MODELS, help="default: what the config looks like")
    parser.add_argument("--config", type=Path, metavar="JSON", help="its config (default: config.json beside SRC)")
    parser.add_argument("--mel-spec", metavar="NAME", help="its mels where the config cannot say, e.g. hifigan")


def run(args: argparse.Namespace) -> None:
    """Imports."""
    from jaxtts.audio.spec import mel_spec
    from jaxtts.nn.functional import count_parameters, fold_weight_norm
    from jaxtts.train.checkpoint import export
    from jaxtts.weights import read_weights

    weights = read_weights(args.source)
    path = args.config or args.source.parent / "config.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the checkpoint's own config with --config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not the config of a model: it holds no JSON object")
    model = args.model or _guess(values, path)
    convert = import_module(f"jaxtts.models.{model}.convert")
    named_mel = mel_spec(args.mel_spec) if args.mel_spec else None
    try:
        if model == "hifigan":
            config = convert.config_from(values)
            config = dataclasses.replace(config, mel=named_mel or config.mel)
            description: dict[str, Any] = {"mel": config.mel.to_dict()}
            params = convert.generator_params(weights, config)
        else:
            config = convert.config_from(values, weights)
            coqui = "encoder_type" in values
            mel = named_mel or (coqui_mel(values) if coqui else reference_mel(values))
            text = coqui_text(values) if coqui else reference_text(config.num_symbols)
            if len(text.symbols) != config.num_symbols:
                raise ValueError(f"{path} lists {len(text.symbols)} symbols, the checkpoint has {config.num_symbols}")
            speakers = [str(n) for n in range(config.num_speakers)]
            description = {"mel": mel.to_dict(), "text": text.to_dict(), "speakers": speakers}
            params = convert.convert(weights, config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a config of {model}: {type(error).__name__} at {error}") from error
    params, config = fold_weight_norm(params), dataclasses.replace(config, weight_norm=False)
    export(args.folder, params, config, {"model": model, **description, "source": args.source.name})
    print(f"{args.folder}: {model}, {count_parameters(params):,} parameters, weight norm folded")


def _guess(values: Mapping[str, Any], path: Path) -> str:
    if "upsample_initial_channel" in values:
        return "hifigan"
    if "encoder_type" in values or "n_layers_enc" in {**values, **_section(values, "model")}:
        return "glow_tts"
    raise ValueError(f"{path} does not look like one of {', '.join(MODELS)}: name it with --model")


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return values[name] if isinstance(values.get(name), dict) else {}


def reference_mel(values: Mapping[str, Any]) -> "MelSpec":
    """The frames of jaywalnut310/glow-tts: NVIDIA's, with the numbers of base.json's section `data`."""
    from jaxtts.audio.spec import mel_spec

    data, default = _section(values, "data"), mel_spec("tacotron2")
    found = default.replace(
        sample_rate=data.get("sampling_rate", default.sample_rate),
        n_fft=data.get("filter_length", default.n_fft),
        hop_length=data.get("hop_length", default.hop_length),
        win_length=data.get("win_length", default.win_length),
        num_mels=data.get("n_mel_channels", {**values, **_section(values, "model")}.get("out_channels", 80)),
        fmin=data.get("mel_fmin", default.fmin),
        fmax=data.get("mel_fmax", default.fmax),
    )
    return found if found == default else found.replace(name="glow_tts_custom")


def reference_text(num_symbols: int) -> "TextSpec":
    """The ARPAbet alphabet of jaywalnut310/glow-tts; one symbol more is the blank of `add_blank`."""
    from jaxtts.text import GLOW_TTS, TextSpec

    if num_symbols not in (len(GLOW_TTS), len(GLOW_TTS) + 1):
        known = f"glow-tts has {len(GLOW_TTS)}, one more with blanks"
        raise ValueError(f"the checkpoint has {num_symbols} symbols; {known}")
    blank = "<blank>" if num_symbols > len(GLOW_TTS) else None
    return TextSpec("arpabet", symbols=GLOW_TTS + ((blank,) if blank else ()), blank=blank)


def coqui_text(values: Mapping[str, Any]) -> "TextSpec":
    """The alphabet and cleaning that a Coqui config.json asks for."""
    from jaxtts.text import TextSpec, symbols_from_coqui

    section = _section(values, "characters")
    ends = values.get("enable_eos_bos_chars", False)
    return TextSpec(
        "espeak" if values.get("use_phonemes") else "characters",
        language=values.get("phoneme_language") or "en-us",
        symbols=symbols_from_coqui(values),
        blank=section.get("blank") if values.get("add_blank") else None,
        bos=section.get("bos") if ends else None,
        eos=section.get("eos") if ends else None,
        lowercase=values.get("text_cleaner") not in (None, "basic_cleaners_case", "no_cleaners"),
    )


def coqui_mel(values: Mapping[str, Any]) -> "MelSpec":
    """The frames of a Coqui config.json whose audio section asks for no normalisation of its own."""
    from jaxtts.audio.spec import MelSpec

    audio = _section(values, "audio")
    foreign = [
        name
        for name, plain in (("signal_norm", False), ("spec_gain", 1.0), ("log_func", "np.log"), ("preemphasis", 0.0))
        if audio.get(name, plain) != plain
    ]
    if not audio or foreign:
        what = ", ".join(f"{name}={audio[name]!r}" for name in foreign) or "no section 'audio'"
        raise ValueError(f"the config's mels are not among ours ({what}): name the nearest spec with --mel-spec")
    return MelSpec(
        "coqui", audio["sample_rate"], audio["fft_size"], audio["hop_length"], audio["win_length"],
        audio.get("num_mels", 80), audio.get("mel_fmin", 0.0), audio.get("mel_fmax"), padding="center",
    )  # fmt: skip
