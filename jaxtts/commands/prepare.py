"""`jaxtts prepare`: a corpus to the records that training reads, as a step of its own."""

import argparse
from pathlib import Path

from jaxtts.commands.check_data import add_corpus_arguments, corpus

HELP = """Compute the features of a corpus once, before training: `jaxtts train --data DIR --prepared OUT` with the same
recipe then begins at once. Killed and started again, it goes on where it stopped. What `jaxtts check-data` rejects is
left out and listed. With --beam it runs as an Apache Beam pipeline (pip install "jaxtts[beam]"): DIR and OUT must then
be on a disk that all workers share; the result is the same."""
EXAMPLES = """\
  jaxtts prepare LJSpeech-1.1 --config glow_tts_ljspeech --out runs/prepared
  jaxtts prepare LJSpeech-1.1 --config vocos_ljspeech --out runs/prepared --jobs 8
  jaxtts prepare corpus --config glow_tts_ljspeech --out /shared/prepared --beam=--runner=FlinkRunner \\
      --beam=--flink_master=host:8081"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    add_corpus_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="where prepared corpora are kept")
    parser.add_argument("--name", metavar="WORD", help="in the name of its folder (default: DIR's, as train expects)")
    parser.add_argument(
        "--beam", action="append", metavar="=--OPTION", help="a pipeline option of Apache Beam; may stand several times"
    )


def run(args: argparse.Namespace) -> None:
    """Prepares."""
    from jaxtts.data import prepare

    utterances, mel, text, limits = corpus(args)
    name = args.name or args.folder.absolute().name
    dataset = prepare(utterances, mel, text, args.out, name=name, jobs=args.jobs, limits=limits, beam=args.beam)
    print(dataset.summary())
