"""`jaxtts convert-voice`: a recording in another speaker's voice."""

import argparse
import sys
from pathlib import Path

HELP = """Say what a recording says in the voice of another speaker, with the same timing. It takes a voice of several
speakers that is one end-to-end model (VITS); the recording should be one of its speakers', named with --from."""
EXAMPLES = """\
  jaxtts convert-voice ann.wav --from ann --to bob --voice runs/vits -o bob.wav
  jaxtts convert-voice speech.flac --to 3 --voice vctk/pretrained_vctk.pth"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("input", type=Path, metavar="IN", help="sound file of any rate and length")
    parser.add_argument("-t", "--to", required=True, metavar="SPEAKER", help="who is to be heard, name or number")
    parser.add_argument(
        "--from", dest="source", metavar="SPEAKER",
        help="who is heard in it, name or number (default: the voice's first speaker who is not the other one)",
    )  # fmt: skip
    parser.add_argument("-v", "--voice", metavar="VOICE", help="as for `jaxtts say` (default: the embedded voice)")
    parser.add_argument(
        "-o", "--output", "--out-path", "--output-file", metavar="OUT", help="sound file (default: IN-SPEAKER.wav)"
    )
    parser.add_argument("--noise-scale", type=float, default=1.0, metavar="X", help="0 draws nothing (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same sound (default 0)")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing on standard error")


def run(args: argparse.Namespace) -> None:
    """Converts."""
    from jaxtts.audio import io
    from jaxtts.synth.voice import load

    samples, rate = io.load(args.input)
    voice = load(args.voice)
    audio = voice.convert(
        samples, rate, target=args.to, source=args.source, noise_scale=args.noise_scale, seed=args.seed
    )
    output = args.output or args.input.with_name(f"{args.input.stem}-{args.to}.wav")
    audio.save(output)
    if not args.quiet:
        if args.source is None:
            speaker = voice.speakers[voice.default_source(args.to)]
            print(f"jaxtts: took the recording for one of {speaker}'s (--from tells who is heard)", file=sys.stderr)
        print(f"{output}: {audio.duration:.2f} s, {voice.sample_rate} Hz, voice {voice.name}", file=sys.stderr)
