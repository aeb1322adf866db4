"""`jaxtts export`: a voice as programs that need none of its models' code."""

import argparse
from pathlib import Path

HELP = """Write a voice as StableHLO programs (jax.export) with its weights and its text spec. Such a folder speaks in a
process that imports jax and the text front end alone: `jaxtts say --voice OUT`, or in Python
`jaxtts.synth.exported.load(OUT).synthesize(text)`. OUT/export.json tells what each program takes and gives."""
EXAMPLES = """\
  jaxtts export rms exported/rms
  jaxtts export runs/vits exported/many --platforms cpu
  jaxtts say "From a program." --voice exported/rms -o program.wav"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("voice", metavar="VOICE", help="as for `jaxtts say`: an embedded voice's name, a folder, ...")
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the export goes")
    parser.add_argument(
        "--platforms", default="cpu,cuda,tpu", metavar="LIST", help="that it is to run on (default cpu,cuda,tpu)"
    )


def run(args: argparse.Namespace) -> None:
    """Exports."""
    from jaxtts.synth.exported import export
    from jaxtts.synth.voice import load

    voice = load(args.voice)
    export(voice, args.folder, [name.strip() for name in args.platforms.split(",")])
    size = sum(path.stat().st_size for path in args.folder.iterdir())
    print(f"{args.folder}: voice {voice.name}, {size / 1e6:.1f} MB, for {args.platforms}")
