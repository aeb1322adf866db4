"""Which utterances of a corpus can be trained on, and why the others cannot.

    facts = survey(utterances, text, limits)            one pass over recordings and texts
    report = judge(utterances, facts, mel, limits)      what only the corpus tells: its rate, its pace, its duplicates
    report = check_corpus(utterances, mel, text)        both, in several processes

`jaxtts check-data` prints the report; `prepare` leaves out what it rejects, in the same words. Kinds of rejection:

    missing transcript    the text is empty, or there is none
    missing recording     there is no such file
    truncated             the header promises more samples than there are
    unreadable            not a sound file, no samples, NaN samples
    silent                the loudest sample is below `Limits.silence`
    clipped               too many samples in runs at full scale
    unknown symbols       the front end cannot speak some characters, which are named
    wrong sample rate     not `Limits.sample_rate`, or not the rate of most recordings
    too short, too long   for its text: a pace far from the corpus's median; fewer frames than symbols; below a window
    duplicate             the same samples as an earlier utterance

Warnings reject nothing: a speaker says the same text several times; recordings have a lower rate than the mel spec.
"""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxtts.audio.io import Truncated, load
from jaxtts.audio.spec import MelSpec
from jaxtts.data.corpora import Utterance
from jaxtts.data.workers import in_processes
from jaxtts.text import FrontEnd, TextSpec, build

SPACE = " "
_FULL_SCALE = 32760 / 32768  # samples from here on count as clipped where `_RUN` of them follow each other
_RUN = 3
_FEW = 20  # utterances, below which their median pace says nothing


@dataclasses.dataclass(frozen=True)
class Limits:
    """Where an utterance stops being usable.

    Attributes:
        sample_rate: of every recording, in Hz; None takes the rate that most of them have.
        silence: a recording whose loudest sample is below this (1 is full scale) is silent.
        clipped: largest share of samples in runs of 3 and more at full scale (a thousandth: 1 ms of a second; a
            recording that is merely normalised to full scale has none).
        pace: an utterance of S symbols may last from `median * S / pace` to `median * S * pace + pause` seconds,
            where `median` is the corpus's seconds per symbol. Corpora of fewer than 20 utterances are not judged so.
        pause: seconds, see `pace`: short texts stand between silences.
        seconds_per_symbol: an utterance may never last longer than this times S plus `pause`.
    """

    sample_rate: int | None = None
    silence: float = 1e-3
    clipped: float = 1e-3
    pace: float = 3.0
    pause: float = 2.0
    seconds_per_symbol: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value >= (1 if field.name in ("pace", "sample_rate") else 0):
                raise ValueError(f"{field.name}={value} is out of range: give a larger number")


class Facts(NamedTuple):
    """What one utterance tells about itself.

    Attributes:
        kind, reason: why it cannot be used, or two empty strings.
        rate: of the recording, in Hz.
        samples: of the recording.
        digest: of its samples.
        tokens: ids of its text [S] int32.
    """

    kind: str
    reason: str
    rate: int = 0
    samples: int = 0
    digest: str = ""
    tokens: np.ndarray = np.zeros(0, np.int32)

    def to_list(self) -> list[Any]:
        """Ready for JSON."""
        return [*self[:-1], self.tokens.tolist()]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> "Facts":
        """The inverse of `to_list`."""
        kind, reason, rate, samples, digest, tokens = values
        return cls(kind, reason, rate, samples, digest, np.array(tokens, np.int32))


class Report(NamedTuple):
    """What is usable and what is not.

    Attributes:
        usable: places of the utterances that can be trained on [K].
        rejected: dicts of id, path, kind and reason.
        warnings: sentences.
        seconds: of sound in the usable utterances.
        rates: Hz -> recordings that have it.
        pace: median seconds per symbol.
        speakers: of the usable utterances.
    """

    usable: list[int]
    rejected: list[dict[str, str]]
    warnings: list[str]
    seconds: float
    rates: dict[int, int]
    pace: float
    speakers: int

    @property
    def totals(self) -> dict[str, int]:
        """Rejected utterances by kind, the most frequent first."""
        return dict(Counter(r["kind"] for r in self.rejected).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "utterances": len(self.usable) + len(self.rejected),
            "usable": len(self.usable),
            "seconds": round(self.seconds, 3),
            "speakers": self.speakers,
            "sample_rates": {str(rate): count for rate, count in self.rates.items()},
            "seconds_per_symbol": round(self.pace, 5),
            "totals": self.totals,
            "rejected": self.rejected,
            "warnings": self.warnings,
        }


def check_corpus(
    utterances: Sequence[Utterance], mel: MelSpec, text: TextSpec, limits: Limits | None = None, *,
    jobs: int | None = None, progress: bool = True,
) -> Report:  # fmt: skip
    """Checks a corpus.

    Args:
        utterances: what `read_corpus` lists.
        mel: the spectrogram to train on: its hop length and its sample rate bound what can be aligned.
        text: the front end and its symbols.
        limits: where an utterance stops being usable.
        jobs: processes, see `workers.in_processes`.
        progress: show a bar.

    Raises:
        ValueError: a process died.
    """
    limits = limits or Limits()
    chunks = [list(utterances[i : i + 16]) for i in range(0, len(utterances), 16)]
    results = in_processes(functools.partial(survey, text=text, limits=limits), chunks, jobs)
    with bar("checking", len(utterances), progress) as shown:
        facts = []
        for chunk in results:
            facts += chunk
            shown.update(len(chunk))
    return judge(utterances, facts, mel, limits)


def bar(what: str, total: int, progress: bool = True) -> tqdm:
    """A progress bar over utterances; in a log file a line every 30 seconds."""
    every = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=what, unit="utterance", disable=not progress, mininterval=every)


def survey(utterances: Iterable[Utterance], text: TextSpec, limits: Limits) -> list[Facts]:
    """What each utterance tells about itself: reads its recording and its text."""
    return [examine(utterance, text, limits) for utterance in utterances]


def examine(utterance: Utterance, text: TextSpec, limits: Limits) -> Facts:
    """What an utterance tells about itself."""
    name = utterance.path
    if not utterance.text.strip():
        return Facts("missing transcript", f"{name}: there is no transcript for it")
    try:
        samples, rate = load(name)
    except FileNotFoundError as error:
        return Facts("missing recording", str(error))
    except Truncated as error:
        return Facts("truncated", str(error))
    except (ValueError, OSError) as error:
        return Facts("unreadable", str(error))
    loudness = np.abs(samples)  # [N]
    if loudness.max() < limits.silence:
        return Facts("silent", f"{name}: the recording is silent (its loudest sample is {loudness.max():.1g})")
    share = clipped_share(loudness)
    if share > limits.clipped:
        what = f"{share:.2%} of its samples stand at full scale, {limits.clipped:.2%} may"
        return Facts("clipped", f"{name}: the recording is clipped: {what}")
    try:
        tokens = tokenize(_front_end(text), utterance.text)
    except ValueError as error:
        return Facts("unknown symbols", f"{name}: its text cannot be read: {error}")
    digest = hashlib.blake2b(samples.tobytes(), digest_size=16, key=str(rate).encode()).hexdigest()
    return Facts("", "", rate, len(samples), digest, tokens)


def clipped_share(loudness: np.ndarray) -> float:
    """Share of the absolute samples [N] that stand in runs at full scale."""
    high = loudness >= _FULL_SCALE
    if not high.any():
        return 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]])))  # starts and ends of runs, in turn
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= _RUN].sum() / len(loudness))


def judge(utterances: Sequence[Utterance], facts: Sequence[Facts], mel: MelSpec, limits: Limits) -> Report:
    """The verdict on a whole corpus, from what each of its utterances tells."""
    rates = Counter(f.rate for f in facts if f.rate)
    rate = limits.sample_rate or max(rates, key=lambda r: (rates[r], r), default=0)
    paces = [f.samples / f.rate / len(f.tokens) for f in facts if rate and f.rate == rate]
    pace = float(np.median(paces)) if paces else 0.0
    judged = dataclasses.replace(limits, sample_rate=rate or None)
    first: dict[str, Utterance] = {}
    usable, rejected, seconds = [], [], 0.0
    for place, (u, f) in enumerate(zip(utterances, facts, strict=True)):
        kind, reason = (f.kind, f.reason) if f.kind else _unfit(u, f, mel, judged, pace if len(paces) >= _FEW else 0.0)
        if not kind and (other := first.setdefault(f.digest, u)) is not u:
            differs = "" if other.text == u.text else ", but another transcript"
            kind, reason = "duplicate", f"{u.path}: the same recording as {other.id!r} ({other.path}){differs}"
        if kind:
            rejected.append({"id": u.id, "path": str(u.path), "kind": kind, "reason": reason})
        else:
            usable.append(place)
            seconds += f.samples / f.rate
    said: dict[tuple[str, str], list[str]] = {}
    for place in usable:
        said.setdefault((utterances[place].speaker, utterances[place].text), []).append(utterances[place].id)
    warnings = [f"{who} says {_short(text)!r} {len(ids)} times: {_some(ids)}"
                for (who, text), ids in said.items() if len(ids) > 1]  # fmt: skip
    if usable and rate < mel.sample_rate:
        warnings.append(f"the recordings have {rate} Hz: resampled to {mel.sample_rate} Hz the high bands stay empty")
    speakers = len({utterances[place].speaker for place in usable})
    return Report(usable, rejected, warnings, seconds, dict(rates.most_common()), pace, speakers)


def _unfit(u: Utterance, f: Facts, mel: MelSpec, limits: Limits, pace: float) -> tuple[str, str]:
    """Kind and reason of what only the corpus or the mel spec tells, or two empty strings."""
    seconds, symbols = f.samples / f.rate, len(f.tokens)
    length = int(f.samples * mel.sample_rate / f.rate)  # in samples once it is resampled
    lasts = f"{u.path}: {seconds:.2f} s for {symbols} symbols"
    longest = limits.seconds_per_symbol * symbols + limits.pause
    if f.rate != limits.sample_rate:
        return "wrong sample rate", f"{u.path}: recorded at {f.rate} Hz, the corpus at {limits.sample_rate} Hz"
    if length < mel.n_fft:
        return "too short", f"{u.path}: {seconds:.3f} s, shorter than one window of the mel spec {mel.name!r}"
    if (frames := mel.num_frames(length)) < symbols:
        return "too short", f"{lasts}: {frames} frames are too few for {symbols} symbols"
    if seconds < pace * symbols / limits.pace:
        return "too short", f"{lasts}: the corpus takes {pace * symbols:.2f} s for as many; is the text another's?"
    if pace:
        longest = min(longest, pace * symbols * limits.pace + limits.pause)
    if seconds > longest:
        return "too long", f"{lasts}: {longest:.2f} s would be plenty; is the text another's, or cut?"
    return "", ""


def tokenize(front_end: FrontEnd, text: str) -> np.ndarray:
    """Ids [S] int32 of a transcript: its sentences joined by a space. Raises ValueError on unspeakable characters."""
    tokens: list[str] = []
    for sentence in front_end.sentences(text, strict=True):
        tokens += [SPACE, *sentence.tokens] if tokens else sentence.tokens
    return front_end.encode(tokens)


@functools.cache
def _front_end(spec: TextSpec) -> FrontEnd:
    return build(spec)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _some(ids: Sequence[str]) -> str:
    return ", ".join(itertools.islice(ids, 5)) + (", ..." if len(ids) > 5 else "")
