"""Beginning a run with what another checkpoint knows: partial restore, told array by array.

An array that both models have, in one shape, is kept. Weight-normed kernels are split or folded where only one side has
weight norm. Embeddings of symbols and of speakers go row by row, by the symbol's or the speaker's name, where the two
models know different ones; the symbols that stand for the blank, the start or the end are each other's, whatever their
names. All else is fresh, as `Task.init` made it; optimisers always are. Where a model of one speaker gets several, the
conditioning that the source has not (`cond`, and inputs beside the hidden channels) begins at zero: it sounds at first
as it did. Of a source with averaged weights those are taken: they are what it was heard and evaluated with.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtts.audio.spec import MelSpec, compatible
from jaxtts.nn.functional import named, nested
from jaxtts.text import TextSpec
from jaxtts.train.state import TrainState

EXPORTED = ""  # the net of a source that holds the model for inference alone
ENOUGH = 0.1  # of a net's numbers, below which source and model have nothing in common
TABLES = {"embedding": "symbol", "speaker_embedding": "speaker"}  # arrays with a row for each
Arrays = dict[str, np.ndarray]


class Source(NamedTuple):
    """Where a run begins.

    Attributes:
        where: its path, for messages.
        model: name in the registry.
        nets: net -> dotted name -> array; an exported model is the net `EXPORTED`.
        rest: net -> dotted name -> array of what is carried but not trained.
        step: of its training, if known.
        text, speakers, mel: what its symbols, speakers and frames are, as far as it says.
    """

    where: str
    model: str
    nets: dict[str, Arrays]
    rest: dict[str, Arrays]
    step: int | None = None
    text: TextSpec | None = None
    speakers: Sequence[str] = ()
    mel: MelSpec | None = None

    @classmethod
    def of_state(cls, where: str, model: str, state: TrainState, **facts: Any) -> "Source":
        """A checkpoint: its parameters, averaged where an average was kept."""
        averaged = state.rest.get("ema", {})
        nets = {net: _arrays(averaged.get(net, tree)) for net, tree in state.params.items()}
        rest = {net: _arrays(tree or {}) for net, tree in state.rest.items() if net != "ema"}
        return cls(where, model, nets, rest, int(state.step), **facts)


class Report(NamedTuple):
    """What a run begins with. Names begin with the net's.

    Attributes:
        source: path, model and step.
        kept: net -> (arrays, numbers in them) that are the source's.
        reshaped: table -> what became of its rows.
        fresh: array, or module all of whose arrays are fresh -> why.
        unused: arrays of the source that this model has no place for.
        notes: sentences about what differs.
    """

    source: dict[str, Any]
    kept: dict[str, tuple[int, int]]
    reshaped: dict[str, str]
    fresh: dict[str, str]
    unused: list[str]
    notes: list[str]

    def lines(self, most: int = 12) -> str:
        """For people; of long lists the first `most`."""
        at = "" if self.source["step"] is None else f", step {self.source['step']}"
        rows = [("kept", f"{net}: {n} arrays, {size:,} numbers") for net, (n, size) in self.kept.items()]
        rows += [("reshaped", f"{name}: {what}") for name, what in self.reshaped.items()]
        rows += _short("fresh", [f"{name}: {why}" for name, why in self.fresh.items()], most)
        rows += _short("unused", self.unused, most) + [("note", note) for note in self.notes]
        return "\n".join([f"begins with {self.source['path']} ({self.source['model']}{at})"] +
                         [f"  {what:9} {line}" for what, line in rows])  # fmt: skip


def adopt(
    state: TrainState, source: Source, model: str, text: TextSpec | None = None, speakers: Sequence[str] = (),
    mel: MelSpec | None = None,
) -> tuple[TrainState, Report]:  # fmt: skip
    """A fresh state with whatever fits of a source in it.

    Args:
        state: as `Task.init` makes it.
        source: where to take arrays from.
        model: name in the registry of the model that is trained.
        text, speakers, mel: of the corpus that it is trained on.

    Raises:
        ValueError: the source is another kind of model, or too little of it fits.
    """
    if source.model != model:
        raise ValueError(f"{source.where} is a {source.model}, which a {model} cannot begin with; give a {model}")
    main = "generator" if "generator" in state.params else next(iter(state.params))
    nets = {net or main: arrays for net, arrays in source.nets.items()}
    pairs = {
        "symbol": symbol_rows(text, source.text) if text and source.text else None,
        "speaker": _rows(speakers, source.speakers) if speakers and source.speakers else None,
    }
    report = Report({"path": source.where, "model": source.model, "step": source.step}, {}, {}, {}, [], [])
    params, rest = dict(state.params), dict(state.rest)
    for net, tree in state.params.items():
        found = report._replace(kept={}, reshaped={}, fresh={}, unused=[])
        params[net] = _fill(net, tree, nets.get(net), pairs, found)
        fits, size = found.kept.get(net, (0, 0))[1], sum(x.size for x in named(tree).values())
        if fits >= ENOUGH * size or net not in {main, *nets}:
            report.kept.update(found.kept)
            report.reshaped.update(found.reshaped)
            report.fresh.update(found.fresh)
            report.unused.extend(found.unused)
        elif net == main:
            misfits = "; ".join(f"{name} {why}" for name, why in list(found.fresh.items())[:2])
            raise ValueError(
                f"{source.where} has too little in common with this {model}: {fits:,} of {size:,} numbers fit "
                f"({misfits}); --take model, or --set model.*, gives it those sizes"
            )
        else:
            params[net], report.fresh[net] = tree, f"too little of the source's fits, {fits:,} of {size:,} numbers"
    for net in set(rest) - {"ema"}:
        if named(rest[net] or {}):
            rest[net] = _fill(f"{net} (carried)", rest[net], source.rest.get(net), {}, report._replace(kept={}))
    if "ema" in rest:
        rest["ema"] = {net: nested({n: jnp.array(x) for n, x in named(params[net]).items()}) for net in rest["ema"]}
    if mel and source.mel and not compatible(mel, source.mel):
        theirs, ours = (f"{m.name!r} ({m.sample_rate} Hz, hop {m.hop_length})" for m in (source.mel, mel))
        report.notes.append(f"it knows frames of {theirs}, this run has {ours}")
    if text and source.text and (text.frontend, text.language) != (source.text.frontend, source.text.language):
        theirs, ours = (f"{t.frontend} {t.language}" for t in (source.text, text))
        report.notes.append(f"its symbols come from the front end {theirs}, here from {ours}; equal names are matched")
    return state._replace(params=params, rest=rest), report


def symbol_rows(ours: TextSpec, theirs: TextSpec) -> list[int | None] | None:
    """For each of our symbols its row in their table; None where they do not know it. None if nothing changes."""
    if ours.symbols == theirs.symbols:
        return None
    rows = dict(zip(ours.symbols, _rows(ours.symbols, theirs.symbols) or range(len(ours.symbols))))
    place = {symbol: i for i, symbol in enumerate(theirs.symbols)}
    for role in ("blank", "bos", "eos", "pad", "unknown"):
        mine, other = getattr(ours, role), getattr(theirs, role)
        if mine and other:
            rows[mine] = place[other]
    return [rows[symbol] for symbol in ours.symbols]


def _rows(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None] | None:
    place = {name: i for i, name in enumerate(theirs)}
    return None if tuple(ours) == tuple(theirs) else [place.get(name) for name in ours]


def _fill(net: str, tree: Any, given: Arrays | None, pairs: dict[str, list[int | None] | None], report: Report) -> Any:
    """The tree with what fits of the given arrays; says so in the report."""
    fresh = named(tree)
    if given is None:
        report.fresh[net] = f"the source has none ({len(fresh)} arrays)"
        return tree
    filled, reasons, used, kept = dict(fresh), {}, set(), 0
    gained = fresh["speaker_embedding"].shape[1] if fresh.keys() - given.keys() >= {"speaker_embedding"} else 0
    for name, x in fresh.items():
        array, origins = _find(name, x, given)
        used |= origins
        *_, module, leaf = ("", *name.split("."))
        kind = TABLES.get(leaf, "")
        rows = pairs.get(kind)
        if array is None and module == "cond":
            reasons[name] = "not in the source; it begins without effect"
            filled[name] = np.asarray(x) if leaf == "v" else np.zeros_like(x)
        elif array is None:
            reasons[name] = "not in the source"
        elif rows is not None and len(rows) == len(x) and array.shape[1:] == x.shape[1:]:
            table, known = np.array(x), [i for i, row in enumerate(rows) if row is not None and row < len(array)]
            table[known] = array[[rows[i] for i in known]]  # type: ignore[index]
            filled[name] = table
            report.reshaped[f"{net}.{name}"] = f"{len(known)} of {len(rows)} rows by the {kind}'s name"
            kept += len(known) * table[0].size
        elif gained and leaf == "kernel" and x.shape == (*array.shape[:-2], array.shape[-2] + gained, array.shape[-1]):
            filled[name] = np.pad(array, [(0, 0)] * (x.ndim - 2) + [(0, gained), (0, 0)]).astype(x.dtype)
            report.reshaped[f"{net}.{name}"] = f"{gained} inputs more, for the speaker; they begin without effect"
            kept += array.size
        elif array.shape != x.shape:
            reasons[name] = f"is {list(x.shape)}, {list(array.shape)} in the source"
        else:
            filled[name] = np.asarray(array, x.dtype)
            kept += x.size
    report.kept[net] = (sum(name not in reasons and f"{net}.{name}" not in report.reshaped for name in fresh), kept)
    report.fresh.update({f"{net}.{name}".rstrip("."): why for name, why in _collapsed(reasons, fresh).items()})
    report.unused.extend(f"{net}.{name}" for name in given if name not in used)
    return nested(filled)


def _find(name: str, like: Any, given: Arrays) -> tuple[np.ndarray | None, set[str]]:
    """The source's array in the form that is wanted, and the names it is made of."""
    stem, _, leaf = name.rpartition(".")
    if name in given:
        return given[name], {name}
    kernel, v, g, inverse = (f"{stem}.{other}" for other in ("kernel", "v", "g", "inverse_weight"))
    if leaf == "v" and kernel in given:
        return given[kernel], {kernel}
    if leaf == "g" and kernel in given:
        return _norm(given[kernel], like.ndim == 2).reshape(like.shape), {kernel}
    if leaf == "kernel" and v in given and g in given:
        norm = _norm(given[v], given[g].ndim == 2)
        return (given[v] * (given[g] / norm)).astype(np.float32), {v, g}
    if leaf == "weight" and inverse in given:
        return np.linalg.inv(given[inverse].astype(np.float64)), {inverse}
    return None, set()


def _norm(v: np.ndarray, per_input: bool) -> np.ndarray:
    """|v| over all axes but the last one, or but the one before it, as `nn.functional.weight_normed` has it."""
    stays = v.ndim - 2 if per_input else v.ndim - 1
    norm = np.sqrt(np.square(v, dtype=np.float64).sum(tuple(a for a in range(v.ndim) if a != stays)))
    return norm[:, None] if per_input else norm


def _collapsed(reasons: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """The fresh arrays; a module in their place where all of it is fresh for one reason, '' for the whole net."""
    kinds = {name: "of other shapes in the source" if why.startswith("is [") else why for name, why in reasons.items()}
    every = Counter(stem for name in names for stem in _stems(name))
    alike = Counter((stem, kind) for name, kind in kinds.items() for stem in _stems(name))
    found = {}
    for name, kind in kinds.items():
        stem = next(stem for stem in _stems(name) if alike[stem, kind] == every[stem])
        found.update({name: reasons[name]} if every[stem] == 1 else {stem: f"{kind} ({every[stem]} arrays)"})
    return found


def _stems(name: str) -> list[str]:
    """'', 'a', 'a.b', ... up to the name itself."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _short(what: str, lines: list[str], most: int) -> list[tuple[str, str]]:
    rest = [(what, f"and {len(lines) - most} more, see start.json")] * (len(lines) > most)
    return [(what, line) for line in lines[:most]] + rest


def _arrays(tree: Any) -> Arrays:
    return {name: np.asarray(x) for name, x in named(tree).items()}
