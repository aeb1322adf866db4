"""`jaxtts check-data`: what in a corpus cannot be trained on, and why."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtts.audio.spec import MelSpec
    from jaxtts.data import Limits, Utterance
    from jaxtts.data.check import Report
    from jaxtts.text import TextSpec

HELP = """Read every recording and transcript of a corpus once and list what training would leave out, with the reason:
missing recording or transcript, truncated, unreadable, silent, clipped, unknown symbols (by name), wrong sample rate,
too short or too long for its text, duplicate. `jaxtts prepare` and `jaxtts train` leave out the same in the same words.
Exit code 0: usable; 1: nothing is usable, or with --strict anything is rejected; 2: no corpus, or a wrong option."""
EXAMPLES = """\
  jaxtts check-data LJSpeech-1.1
  jaxtts check-data VCTK-Corpus-0.92 --config glow_tts_ljspeech --json report.json
  jaxtts check-data corpus --sample-rate 22050 --strict
  jaxtts check-data corpus --json - | jq .totals"""


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of every command that reads a corpus with a recipe's eyes."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the corpus (LJSpeech, VCTK, LibriTTS layout), or a list file"
    )
    parser.add_argument("--layout", help="ljspeech, speakers, vctk, libritts, manifest, filelist (default: found out)")
    parser.add_argument("--column", choices=("normalized", "raw"), help="text of the LJSpeech layout")
    parser.add_argument(
        "--config", metavar="RECIPE", help="take mel spec, front end, column and limits from this recipe"
    )
    parser.add_argument("--frontend", metavar="NAME", help="gruut, arpabet, espeak or characters (default gruut)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per CPU)")
    parser.add_argument("--sample-rate", type=int, metavar="HZ", help="of every recording (default: most recordings')")
    parser.add_argument("--clipped", type=float, metavar="SHARE", help="of samples at full scale (default 0.001)")
    parser.add_argument("--pace", type=float, metavar="K", help="times slower or faster than the median (default 3)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    add_corpus_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="the report as JSON; - is stdout, the table then goes to stderr")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if anything is rejected")


def run(args: argparse.Namespace) -> int:
    """Checks and prints; returns the exit code."""
    from jaxtts.data import check_corpus
    from jaxtts.weights.safetensors import replacing

    to_file = args.json not in (None, "-")
    if to_file and not Path(args.json).parent.is_dir():
        raise ValueError(f"--json {args.json}: the folder {Path(args.json).parent} does not exist; create it first")
    utterances, mel, text, limits = corpus(args)
    report = check_corpus(utterances, mel, text, limits, jobs=args.jobs)
    print(table(report), file=sys.stderr if args.json == "-" else sys.stdout)
    if args.json:
        content = json.dumps({"folder": str(args.folder), **report.to_dict()}, ensure_ascii=False, indent=1) + "\n"
        if to_file:
            with replacing(args.json) as file:
                file.write(content.encode())
        else:
            sys.stdout.write(content)
    return int(not report.usable or args.strict and bool(report.rejected))


def corpus(args: argparse.Namespace) -> "tuple[list[Utterance], MelSpec, TextSpec, Limits]":
    """What the arguments name: the utterances, how they become features, and where they stop being usable."""
    from jaxtts.audio.spec import mel_spec
    from jaxtts.data import Limits, read_corpus
    from jaxtts.text import TextSpec

    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: give at least 1")
    mel, text, column, limits = mel_spec("hifigan"), TextSpec(), "normalized", Limits()
    if args.config:
        from jaxtts.recipe import load

        data = load(args.config).data
        mel, text, column, limits = data.mel, data.text, data.column, data.limits
    if args.frontend:
        text = TextSpec(args.frontend)
    given = {name: getattr(args, name) for name in ("sample_rate", "clipped", "pace")}
    limits = dataclasses.replace(limits, **{name: value for name, value in given.items() if value is not None})
    return read_corpus(args.folder, args.layout, column=args.column or column), mel, text, limits


def table(report: "Report") -> str:
    """The report for people: a line for each rejected item, the warnings, the totals."""
    lines = []
    if report.rejected:
        width = max(len(r["id"]) for r in report.rejected)
        kind_width = max(len(r["kind"]) for r in report.rejected)
        lines += [f"{r['id']:{width}}  {r['kind']:{kind_width}}  {r['reason']}" for r in report.rejected] + [""]
    lines += [f"warning: {warning}" for warning in report.warnings] + [""] * bool(report.warnings)
    lines += [f"{kind:20}{count:8}" for kind, count in report.totals.items()]
    rates = ", ".join(f"{rate} Hz" + f" ({count})" * (len(report.rates) > 1) for rate, count in report.rates.items())
    total = len(report.usable) + len(report.rejected)
    lines += [
        f"{'rejected':20}{len(report.rejected):8}",
        f"{'usable':20}{len(report.usable):8}  of {total}: {report.seconds / 3600:.2f} h, {report.speakers} speaker(s)"
        + f", {rates}, {report.pace:.3f} s per symbol" * bool(report.usable),
    ]
    return "\n".join(lines)
