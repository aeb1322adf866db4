"""Batches of static shapes from a prepared corpus: a Grain pipeline whose position can be saved exactly.

    train = batches(dataset, ("text", "mel"), 16, seed=0)
    loader = iter(train)                                # from the first batch on, each time
    batch = next(loader)
    state = loader.get_state(); loader.set_state(state)

The epoch's order is a permutation drawn from (seed, epoch). Each utterance joins the smallest bucket (frames, symbols)
that holds it; a full bucket is a batch. At the end of an epoch what is left over moves up into larger buckets, so that
it fills batches there; the last few (less than a batch in all) open the next epoch. Nothing is ever dropped: after
`k` epochs every utterance was read `k` times, but for those few.

All processes of a run plan the same global batches and each loads its own consecutive rows of every batch: all see the
same shapes at the same step, and a run that goes on with another number of processes sees the same batches.
"""

import copy
import hashlib
import itertools
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from grain.experimental import ThreadPrefetchIterDataset

from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.data.dataset import Dataset

FIELDS = ("text", "mel", "wave")
Buckets = tuple[tuple[int, int], ...]


def bucket_shapes(dataset: Dataset, count: int = 6, multiple: int = 16) -> Buckets:
    """Shapes (frames, symbols) that hold every utterance: frames grow geometrically from the shortest decile.

    The symbols of a bucket suffice for 99 of 100 utterances that fill its frames (the rest take the next bucket); the
    last one holds all. Frames are rounded up to `multiple`, symbols to 8.
    """
    low, high = np.percentile(dataset.frames, 10), dataset.frames.max()
    frames = np.unique(_round_up(np.geomspace(low if count > 1 else high, high, count), multiple))
    density = np.percentile(dataset.symbols / dataset.frames, 99)
    symbols = _round_up(np.minimum(frames * density, dataset.symbols.max()), 8)
    symbols[-1] = _round_up(dataset.symbols.max(), 8)
    return tuple((int(t), int(s)) for t, s in zip(frames, symbols, strict=True))


def _round_up(values: Any, multiple: int) -> np.ndarray:
    return (np.ceil(np.asarray(values) / multiple) * multiple).astype(np.int64)


class Plan(NamedTuple):
    """A batch before it is loaded: its number, its bucket, its utterances [B] (~p: p fills the last batch up)."""

    number: int
    bucket: int
    places: tuple[int, ...]


class Plans(grain.IterDataset):
    """The endless (or `epochs` long) sequence of plans."""

    def __init__(self, bucket_of: np.ndarray, batch_size: int, seed: int, epochs: int | None):
        super().__init__()
        self.bucket_of, self.batch_size, self.order_seed, self.epochs = bucket_of, batch_size, seed, epochs
        self.num_buckets = int(bucket_of.max()) + 1

    def __iter__(self) -> "PlanIterator":
        return PlanIterator(self)


class PlanIterator(grain.DatasetIterator):
    """State: the epoch, the position in its permutation, the batch's number, and who waits in which bucket."""

    def __init__(self, plans: Plans):
        super().__init__()
        self.plans = plans
        self.set_state({"epoch": 0, "position": 0, "number": 0, "waiting": [[] for _ in range(plans.num_buckets)]})

    def get_state(self) -> dict[str, Any]:
        return copy.deepcopy(self.state)

    def set_state(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)
        self._shuffle()

    def _shuffle(self) -> None:
        size = len(self.plans.bucket_of)
        self.order = np.random.default_rng([self.plans.order_seed, self.state["epoch"]]).permutation(size).tolist()

    def __next__(self) -> Plan:
        state, bucket_of, size = self.state, self.plans.bucket_of, self.plans.batch_size
        waiting = state["waiting"]
        while self.plans.epochs is None or state["epoch"] < self.plans.epochs:
            while state["position"] < len(self.order):
                place = self.order[state["position"]]
                bucket = int(bucket_of[place])
                waiting[bucket].append(place)
                state["position"] += 1
                if len(waiting[bucket]) == size:
                    return self._emit(bucket)
            for bucket in range(len(waiting) - 1):
                if waiting[bucket]:
                    waiting[bucket + 1] = waiting[bucket] + waiting[bucket + 1]
                    waiting[bucket] = []
                    if len(waiting[bucket + 1]) >= size:
                        return self._emit(bucket + 1)
            state["epoch"] += 1
            if state["epoch"] == self.plans.epochs:
                break
            state["position"], left = 0, waiting[-1]
            waiting[-1] = []
            for place in left:
                waiting[int(bucket_of[place])].append(place)
            self._shuffle()
        if left := waiting[-1]:  # filled with others, so that all count nearly alike in a mean
            others = [p for p in range(len(bucket_of)) if p not in left]
            waiting[-1] = left + [~p for p in itertools.islice(itertools.cycle(others + left), size - len(left))]
            return self._emit(len(waiting) - 1)
        raise StopIteration

    def _emit(self, bucket: int) -> Plan:
        places = self.state["waiting"][bucket]
        size, number = self.plans.batch_size, self.state["number"]
        self.state["waiting"][bucket] = places[size:]
        self.state["number"] += 1
        return Plan(number, bucket, tuple(places[:size]))


class Batches:
    """What `batches` makes: each `iter` of it is a `Loader` that begins at the first batch.

    Attributes:
        buckets: the shapes (frames, symbols) of the batches; crops have one.
        batches_per_epoch: on average.
    """

    def __init__(
        self, pipeline: grain.IterDataset, collate: "_Collate", rows: int, batches_per_epoch: float, signature: str
    ):
        self._pipeline, self._collate, self._rows, self._signature = pipeline, collate, rows, signature
        self.buckets, self.batches_per_epoch = collate.shapes, batches_per_epoch

    def examples(self) -> list[dict[str, np.ndarray]]:
        """A batch of zeros for each bucket, so that a step can be compiled for all of them before the first batch."""
        return [self._collate.zeros(bucket, self._rows) for bucket in range(len(self.buckets))]

    def __iter__(self) -> "Loader":
        return Loader(iter(self._pipeline), self._signature)


class Loader(Iterator[dict[str, Any]]):
    """An iterator over batches whose position can be saved and set."""

    def __init__(self, iterator: Any, signature: str):
        self._cell, self._signature = [iterator], signature
        self.close = weakref.finalize(self, _close, self._cell)  # ends the reading thread, at the latest at exit

    def __next__(self) -> dict[str, Any]:
        return next(self._cell[0])

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch that was handed out, ready for JSON."""
        return {**self._cell[0].get_state(), "signature": self._signature}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called: the next batches are the same, bit for bit.

        Raises:
            ValueError: the state belongs to another corpus, batch size, seed, or other buckets.
        """
        if state.get("signature") != self._signature:
            raise ValueError("the saved loader position belongs to another corpus, batch_size, seed or other buckets")
        self._cell[0].set_state({k: v for k, v in state.items() if k != "signature"})

    @property
    def epoch(self) -> int:
        """The epoch of the last batch, from 0."""
        return self._cell[0].get_state()["epoch"]


def _close(cell: list[Any]) -> None:
    """Closes Grain's iterator and lets go of it: its `__del__` fails once the interpreter is shutting down."""
    cell.pop().close()


def batches(
    dataset: Dataset, fields: Sequence[str], batch_size: int, seed: int = 0, *, segment_length: int | None = None,
    buckets: int | Sequence[tuple[int, int]] = 6, epochs: int | None = None, process: int = 0, num_processes: int = 1,
    prefetch: int = 8,
) -> Batches:  # fmt: skip
    """Batches for training or evaluation.

    Args:
        dataset: the prepared corpus, or its training or held-out part.
        fields: of 'text', 'mel', 'wave'. Whole utterances give text [B, S] int32, mel [B, T, M], wave
            [B, T * hop_length], each padded with zeros, and text_lengths, mel_lengths, wave_lengths [B] int32; a
            recording is as long as its frames, wave_lengths = hop_length * mel_lengths. With `segment_length` 'wave'
            and 'mel' are aligned random crops: wave [B, segment_length], mel [B, segment_length / hop_length, M]; a
            shorter recording is followed by silence.
            Always there: speaker [B] int32; ids, a list of str; batch_ids, the ids of all processes. A task's
            `fields` may be given as they are.
        batch_size: of all processes together.
        seed: of the order and of the crops.
        segment_length: in samples, a multiple of the hop length; None gives whole utterances.
        buckets: how many shapes, or the shapes (frames, symbols) themselves: give `train.buckets` of the training
            part to the held-out one, so that nothing is compiled twice.
        epochs: stop after so many; the last batch is then filled up with other utterances again, whose id is ''. None
            never stops.
        process: which process this is.
        num_processes: how many there are.
        prefetch: batches that a thread reads ahead; 0 reads when asked.

    Raises:
        ValueError: an argument is out of range, or an utterance fits in none of the buckets.
    """
    hop = dataset.mel.hop_length
    if unknown := set(fields) - {*FIELDS, *(f"{name}_lengths" for name in FIELDS), "speaker", "ids", "batch_ids"}:
        raise ValueError(f"fields names {', '.join(sorted(unknown))}; choose from {', '.join(FIELDS)}")
    chosen = tuple(name for name in FIELDS if name in fields)
    if not chosen:
        raise ValueError(f"fields is {tuple(fields)}; choose from {', '.join(FIELDS)}")
    if not len(dataset):
        raise ValueError("dataset has no utterances: nothing to train on")
    if batch_size < 1 or not 0 <= process < num_processes or batch_size % num_processes:
        raise ValueError(f"batch_size {batch_size} cannot be shared by {num_processes} processes (this is {process})")
    if segment_length is not None:
        if segment_length < hop or segment_length % hop:
            raise ValueError(f"segment_length is {segment_length}; give a multiple of the hop length {hop}")
        if "text" in chosen:
            raise ValueError("fields names 'text', which a random segment_length crop does not have; drop one of them")
        shapes, bucket_of = ((segment_length // hop, 0),), np.zeros(len(dataset), np.int64)
    else:
        shapes = bucket_shapes(dataset, buckets) if isinstance(buckets, int) else _checked(buckets)
        bucket_of = _assign(dataset, shapes)
    silence = mel_spectrogram_np(np.zeros(4 * dataset.mel.n_fft, np.float32), dataset.mel)[0]  # [M]
    rows = batch_size // num_processes
    mine = slice(process * rows, (process + 1) * rows)
    collate = _Collate(dataset, chosen, shapes, segment_length, seed, mine, silence)
    pipeline = Plans(bucket_of, batch_size, seed, epochs).map(collate)
    key = json.dumps([dataset.ids.tolist(), shapes, batch_size, seed, segment_length])
    signature = hashlib.sha256(key.encode()).hexdigest()[:16]
    pipeline = ThreadPrefetchIterDataset(pipeline, prefetch_buffer_size=prefetch)
    return Batches(pipeline, collate, rows, len(dataset) / batch_size, signature)


def _checked(buckets: Sequence[tuple[int, int]]) -> Buckets:
    shapes = tuple((int(t), int(s)) for t, s in buckets)
    if not shapes or any(a[0] >= b[0] or a[1] > b[1] for a, b in zip(shapes, shapes[1:], strict=False)):
        raise ValueError(f"buckets is {shapes}; give growing (frames, symbols)")
    return shapes


def _assign(dataset: Dataset, shapes: Buckets) -> np.ndarray:
    """The smallest bucket that holds each utterance [N]."""
    fits = np.stack([(dataset.frames <= t) & (dataset.symbols <= s) for t, s in shapes])  # [K, N]
    if not fits[-1].all():
        worst = int(np.flatnonzero(~fits[-1])[0])
        name, frames, symbols = str(dataset.ids[worst]), dataset.frames[worst], dataset.symbols[worst]
        raise ValueError(
            f"buckets end at {shapes[-1]}, but {name!r} has {frames} frames and {symbols} symbols; add a larger one"
        )
    return fits.argmax(axis=0)


class _Collate(NamedTuple):
    """Plan -> batch."""

    dataset: Dataset
    fields: tuple[str, ...]
    shapes: Buckets
    segment_length: int | None
    seed: int
    mine: slice
    silence: np.ndarray

    def zeros(self, bucket: int, rows: int) -> dict[str, np.ndarray]:
        frames, symbols = self.shapes[bucket]
        samples, bins = frames * self.dataset.mel.hop_length, self.dataset.mel.num_bins
        kinds = {
            "text": ((rows, symbols), np.int32),
            "mel": ((rows, frames, bins), np.float32),
            "wave": ((rows, samples), np.float32),
        }
        batch = {name: np.zeros(*kinds[name]) for name in self.fields} | {"speaker": np.zeros(rows, np.int32)}
        if self.segment_length is None:
            batch |= {f"{name}_lengths": np.zeros(rows, np.int32) for name in self.fields}
        return batch

    def __call__(self, plan: Plan) -> dict[str, Any]:
        places = plan.places[self.mine]
        records = self.dataset.records([~p if p < 0 else p for p in places])
        batch: dict[str, Any] = {
            "ids": ["" if p < 0 else str(self.dataset.ids[p]) for p in places],
            "batch_ids": [str(self.dataset.ids[p]) for p in plan.places if p >= 0],
            "speaker": np.array([r["speaker"] for r in records], np.int32),
        }
        if self.segment_length is not None:
            draws = np.random.default_rng([self.seed, plan.number, 1]).random(len(plan.places))[self.mine]
            return batch | self._crops(records, draws)
        frames, symbols = self.shapes[plan.bucket]
        hop = self.dataset.mel.hop_length
        for field in self.fields:
            if field == "wave":
                lengths, most = [len(r["mel"]) * hop for r in records], frames * hop
                values = [_wave(r["wave"][:n]) for r, n in zip(records, lengths, strict=True)]
            else:
                name, most = ("tokens", symbols) if field == "text" else ("mel", frames)
                values = [r[name] for r in records]
                lengths = [len(v) for v in values]
            batch[field], batch[f"{field}_lengths"] = _pad(values, most), np.array(lengths, np.int32)
        return batch

    def _crops(self, records: list[dict[str, Any]], draws: np.ndarray) -> dict[str, np.ndarray]:
        hop, segment, frames = self.dataset.mel.hop_length, self.segment_length or 0, self.shapes[0][0]
        starts = [int(u * (max(0, len(r["wave"]) - segment) // hop + 1)) for u, r in zip(draws, records, strict=True)]
        crops: dict[str, np.ndarray] = {}
        if "wave" in self.fields:
            cut = [r["wave"][s * hop : s * hop + segment] for s, r in zip(starts, records, strict=True)]
            crops["wave"] = _pad([_wave(w) for w in cut], segment)  # [B, segment]
        if "mel" in self.fields:
            cut = [r["mel"][s : s + frames] for s, r in zip(starts, records, strict=True)]
            crops["mel"] = _pad(cut, frames, self.silence)  # [B, segment / hop, M]
        return crops


def _wave(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) * np.float32(1 / 32768)


def _pad(values: Sequence[np.ndarray], length: int, fill: Any = 0) -> np.ndarray:
    """Stacks [N_i, ...] into [B, length, ...]."""
    out = np.empty((len(values), length, *values[0].shape[1:]), values[0].dtype)
    for row, value in zip(out, values, strict=True):
        row[: len(value)] = value
        row[len(value) :] = fill
    return out
