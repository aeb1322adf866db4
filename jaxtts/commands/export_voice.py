"""`jaxtts export-voice`: trained models to a voice folder."""

import argparse
import json
from pathlib import Path

HELP = """Make a voice folder (voice.json, weights.safetensors, README.md) of an acoustic model and a vocoder, or of an
end-to-end model, as training or another toolkit left them. `jaxtts say --voice FOLDER` speaks with it."""
EXAMPLES = """\
  jaxtts export-voice voices/ann --acoustic runs/glow --vocoder runs/vocos
  jaxtts export-voice voices/many --model runs/vits
  jaxtts export-voice voices/ann --acoustic runs/glow --vocoder runs/vocos --card facts.json --noise-scale 0.5"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the voice goes")
    parser.add_argument("--acoustic", type=Path, metavar="DIR", help="its run: config.json + weights")
    parser.add_argument("--vocoder", type=Path, metavar="DIR", help="its run: config.json + weights")
    parser.add_argument("--model", type=Path, metavar="DIR", help="an end-to-end model's, in place of those two")
    parser.add_argument("--name", metavar="NAME", help="of the voice (default: the folder's)")
    parser.add_argument("--card", type=Path, metavar="JSON", help="facts for the card: corpus, licence, how trained")
    parser.add_argument("--readme", type=Path, metavar="MD", help="the card itself, Markdown")
    parser.add_argument("--noise-scale", type=float, metavar="X", help="default of the voice (the model's, or 0.667)")
    parser.add_argument("--duration-noise-scale", type=float, metavar="X", help="the same (the model's, or 0.8)")
    parser.add_argument("--length-scale", type=float, metavar="X", help="the same (the model's, or 1)")
    parser.add_argument("--sentence-pause", type=float, metavar="S", help="seconds (0.25)")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")


def run(args: argparse.Namespace) -> None:
    """Assembles the voice."""
    from jaxtts.synth.folder import write_voice

    card = json.loads(args.card.read_text(encoding="utf-8")) if args.card else None
    if card is not None and not isinstance(card, dict):
        raise ValueError(f"{args.card} must hold a JSON object of facts")
    files = write_voice(
        args.folder,
        args.acoustic,
        args.vocoder,
        model=args.model,
        name=args.name,
        noise_scale=args.noise_scale,
        duration_noise_scale=args.duration_noise_scale,
        length_scale=args.length_scale,
        sentence_pause=args.sentence_pause,
        card=card,
        readme=args.readme.read_text(encoding="utf-8") if args.readme else None,
        dtype=args.dtype,
    )
    size = (args.folder / "weights.safetensors").stat().st_size
    print(f"{args.folder}: voice {files.name}, {size / 1e6:.1f} MB, {files.frames_per_symbol} frames per symbol")
