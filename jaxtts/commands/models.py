"""`jaxtts models`: the table of models."""

import argparse
from importlib.util import find_spec

HELP = """List the models: paper, kind, parameters of the default configuration, and what can be done with each."""
EXAMPLES = """\
  jaxtts models"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Prints the table, aligned."""
    header = ("model", "title", "paper", "kind", "parameters", "status")
    table = [header, *rows()]
    widths = [max(len(row[c]) for row in table) for c in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def rows() -> list[tuple[str, ...]]:
    """One row per model of the registry. The status names what its folder really offers."""
    from jaxtts import registry
    from jaxtts.nn import functional

    found = []
    for name, entry in registry.MODELS.items():
        module = registry.module(name)
        rngs = functional.rngs_for_shapes()
        _, params, _ = functional.structure(lambda m=module, rngs=rngs: m.Model(m.Config(), rngs=rngs))
        status = ["trains"] if hasattr(module, "build_task") else []
        status += ["speaks"] if hasattr(module.Model, "infer") else []
        status += ["converts voices"] if hasattr(module.Model, "convert") else []
        status += ["imports checkpoints"] if find_spec(f"{entry.module}.convert") else []
        status += ["parity-tested"] if find_spec(f"{entry.module}.parity") else []
        count = f"{functional.count_parameters(params) / 1e6:.2f} M"
        found.append((name, entry.title, entry.paper, entry.kind, count, ", ".join(status)))
    return found
