"""The `jaxtts` command: finds the subcommand, turns bad input into one sentence and exit code 2.

Each subcommand is a module in commands/ with `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(args)`; only the one
that is asked for is imported. Arguments are read with argparse; `train` alone, whose start does not count, uses tyro:
importing it and reading the arguments of `say` with it takes 0.12 s of CPU time, a tenth of a whole warm start.

Exit codes: 0 done, 1 training failed or `check-data` refuses the corpus, 2 bad input (one sentence on stderr, no file
half written), 3 `say` has spoken with faults, 130 interrupted.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

COMMANDS = {
    "say": "speak a text into a sound file",
    "train": "train a model on a folder of recordings and texts",
    "check-data": "find what in a corpus cannot be trained on, and why",
    "prepare": "turn a corpus into the records that training reads",
    "vocode": "turn a mel spectrogram, or a recording's, back into sound",
    "convert-voice": "say what a recording says in another speaker's voice",
    "export-voice": "make a voice folder of trained models",
    "export-mels": "write the mels that a model makes of a corpus, to train a vocoder on",
    "export": "write a voice as programs that need jax alone",
    "import-weights": "bring a checkpoint of another toolkit here",
    "models": "list the models",
    "doctor": "show what this machine offers and whether it works",
}
_USAGE = """usage: jaxtts COMMAND ...

Neural text-to-speech. Commands:

{commands}

`jaxtts COMMAND --help` explains one, with examples. To begin with:

  jaxtts say "Hello, world." -o hello.wav
"""


class Parser(argparse.ArgumentParser):
    """argparse with one sentence for an error; long options may be spelled with underscores."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, `--out_path` being `--out-path`."""
        known, plain = set(self._option_string_actions), []
        for number, arg in enumerate(argv):
            if arg == "--":
                return self.parse_args([*plain, *argv[number:]])
            name, equals, value = arg.partition("=")
            hyphens = name.replace("_", "-")
            plain.append(hyphens + equals + value if name.startswith("--") and hyphens in known else arg)
        return self.parse_args(plain)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: this process's) and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its code
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its exit
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"jaxtts: {' '.join(reason.split())}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:16}{what}" for name, what in COMMANDS.items())
        print(_USAGE.format(commands=lines), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        from jaxtts import __version__

        print(f"jaxtts {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; take one of {', '.join(COMMANDS)}")
    module = import_module(f"jaxtts.commands.{name.replace('-', '_')}")
    if name == "train":
        import tyro

        tyro.cli(module.Train, args=rest, prog="jaxtts train")()
        return 0
    parser = Parser(
        prog=f"jaxtts {name}",
        description=module.HELP,
        epilog=f"examples:\n{module.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    return module.run(parser.parse(rest)) or 0
