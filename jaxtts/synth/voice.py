"""A voice: texts in, sound out."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np

from jaxtts import voices
from jaxtts.audio import io
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.audio.spec import require_same
from jaxtts.synth import timestamps
from jaxtts.synth.ahead import ahead
from jaxtts.synth.folder import VoiceFiles, assemble, read, read_part
from jaxtts.synth.timestamps import TimedWord, timed_words
from jaxtts.text import FrontEnd, Sentence, split_long
from jaxtts.text.symbols import SPACE

if TYPE_CHECKING:
    from jaxtts.synth.speak import Speaker, Spoken

MAX_SYMBOLS = 256  # longer sentences are cut at commas or words
T = TypeVar("T")
Several = T | Sequence[T]
_SCALES = {"length_scale": (0.1, 10.0), "noise_scale": (0.0, 10.0), "duration_noise_scale": (0.0, 10.0)}


@dataclass(frozen=True)
class Segment:
    """One spoken sentence within an Audio.

    Attributes:
        text: the words as spoken; a long sentence is cut in pieces that share it.
        symbols: what the model read, S symbols.
        start: first sample.
        frames: how many it lasts, T.
        durations: frames of each symbol, int32 [S]; they sum to at least T (the flow may drop an odd last frame).
        make_mel: computes `mel`.
        words: when each word and phoneme sounds.
        part: 0 for a sentence's first piece, 1 for its second, ...
    """

    text: str
    symbols: tuple[str, ...]
    start: int
    frames: int
    durations: np.ndarray = field(repr=False)
    make_mel: Callable[[], np.ndarray] = field(repr=False)
    words: tuple[TimedWord, ...] = field(default=(), repr=False)
    part: int = 0

    @cached_property
    def mel(self) -> np.ndarray:
        """[T, M]: what the vocoder read; of an end-to-end voice, which has none, the mel spectrogram of its wave."""
        return self.make_mel()


@dataclass(frozen=True)
class Audio:
    """Sound: mono float32 samples [N] in [-1, 1], their rate, and the sentences they came from."""

    samples: np.ndarray = field(repr=False)
    sample_rate: int
    segments: tuple[Segment, ...] = field(default=(), repr=False)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate

    @property
    def timestamps(self) -> tuple[TimedWord, ...]:
        """When each word and its phonemes sound (`timestamps.TimedWord`: text, start, end, phonemes; seconds)."""
        return tuple(word for segment in self.segments for word in segment.words)

    def save_timestamps(self, path: str | Path) -> None:
        """Writes when each word sounds: .json, with phonemes, or .srt subtitles.

        Raises:
            ValueError: unknown suffix, missing folder, or an Audio that was not made by `Voice.synthesize`.
        """
        timestamps.save(path, self)

    def save(self, path: str | Path) -> None:
        """Writes .wav, .flac, .mp3, .ogg or .opus, whole or not at all.

        Raises:
            ValueError: unknown suffix or missing folder.
            OSError: the disk refuses.
        """
        io.save(path, self.samples, self.sample_rate)


class Manner(NamedTuple):
    """How one text is spoken: the arguments of `Voice.synthesize`, checked and without None."""

    speaker: int
    length_scale: float
    noise_scale: float
    duration_noise_scale: float
    seed: int


class Piece(NamedTuple):
    """What the model speaks in one go.

    Attributes:
        ids: symbols [S] int32; none for a pause.
        index: its place in its text, which seeds its noise.
        text: the words.
        pause: seconds of silence behind it if another follows.
        rest: seconds of silence behind it if none does.
        scales: how slowly each symbol is spoken, float32 [S].
        tokens, words: what the front end made of it; no words where it does not tell them apart.
        part: its place in its sentence.
        manner: how its text is spoken.
    """

    ids: np.ndarray
    index: int
    text: str
    pause: float
    rest: float
    scales: np.ndarray
    manner: Manner
    tokens: Sequence[str] = ()
    words: Sequence[str] = ()
    part: int = 0


class Voice:
    """A loaded voice; `load` makes one.

    Attributes:
        files: what its folder holds.
        name, sample_rate, speakers: of the voice.
    """

    def __init__(self, files: VoiceFiles):
        require_same(files.first.mel, files.mel)
        config = files.first.config
        if config.get("num_speakers", 1) == 1 and config.get("speaker_dim"):
            raise ValueError(
                f"voice {files.name!r} wants an embedding of {config['speaker_dim']} numbers for its speaker and "
                "has none: give a model with a table of speakers, or the file of speakers beside it"
            )
        self.files = files
        self.name, self.speakers, self.sample_rate = files.name, files.speakers, files.mel.sample_rate
        self.front_end = FrontEnd(files.text)

    @overload
    def synthesize(
        self, text: str, *, speaker: str | int | None = None, length_scale: float | None = None,
        noise_scale: float | None = None, duration_noise_scale: float | None = None, seed: int = 0,
    ) -> Audio: ...  # fmt: skip
    @overload
    def synthesize(
        self, text: str | Sequence[str], *, speaker: Several[str | int | None] = None,
        length_scale: Several[float | None] = None, noise_scale: Several[float | None] = None,
        duration_noise_scale: Several[float | None] = None, seed: Several[int] = 0,
    ) -> list[Audio]: ...  # fmt: skip

    def synthesize(
        self, text: Any, *, speaker: Any = None, length_scale: Any = None, noise_scale: Any = None,
        duration_noise_scale: Any = None, seed: Any = 0,
    ) -> Any:  # fmt: skip
        """Speaks a text, or many at once.

        The same text, seed and scales give the same samples, alone or among others: equal up to the rounding of
        float32 sums, whose order depends on the bucket.

        Args:
            text: a text of any length; SSML if it begins with `<speak`. This and each of the other arguments may be
                a list, with one value for each text; what is no list holds for all of them.
            speaker: name or number, for a voice of several; default: its first.
            length_scale: above 1 is slower (0.1 to 10); default: the voice's.
            noise_scale: how much delivery varies, 0 to 10; default: the voice's.
            duration_noise_scale: how much rhythm varies, 0 to 10, for a voice whose durations are drawn (VITS with its
                stochastic duration predictor) and no other; default: the voice's.
            seed: draws the variation, 0 or above.

        Returns:
            Audio; a list of them if any argument is a list.

        Raises:
            ValueError: nothing to speak, broken SSML, lists of different lengths, or an argument out of its range.
        """
        arguments = {
            "text": text, "speaker": speaker, "length_scale": length_scale, "noise_scale": noise_scale,
            "duration_noise_scale": duration_noise_scale, "seed": seed,
        }  # fmt: skip
        count, columns = _broadcast(arguments)
        for t in columns["text"]:
            _require_text(t)
        sentences = [self.front_end.sentences(t) for t in columns.pop("text")]
        audios = self.speak(sentences, **columns)
        return audios if count is not None else audios[0]

    def speak(
        self, texts: Sequence[Sequence[Sentence]], *, speaker: Several[str | int | None] = None,
        length_scale: Several[float | None] = None, noise_scale: Several[float | None] = None,
        duration_noise_scale: Several[float | None] = None, seed: Several[int] = 0,
    ) -> list[Audio]:  # fmt: skip
        """Like `synthesize`, for texts that `front_end.sentences` has been through already."""
        _, columns = _broadcast({
            "text": list(texts), "speaker": speaker, "length_scale": length_scale, "noise_scale": noise_scale,
            "duration_noise_scale": duration_noise_scale, "seed": seed,
        })  # fmt: skip
        del columns["text"]
        manners = [self._manner(*row) for row in zip(*columns.values())]
        pieces = [list(self._pieces(sentences, manner)) for sentences, manner in zip(texts, manners)]
        spoken = iter(self._speaker.speak([piece for part in pieces for piece in part if len(piece.ids)]))
        return [self._join(part, spoken) for part in pieces]

    def stream(
        self, text: str, *, speaker: str | int | None = None, length_scale: float | None = None,
        noise_scale: float | None = None, duration_noise_scale: float | None = None, seed: int = 0,
    ) -> Generator[Audio, None, None]:  # fmt: skip
        """Speaks a text bit by bit: the first chunk comes at once, the others are made while it is heard.

        Together the chunks are what `synthesize` gives for the same arguments, to 1e-4. They are made in a thread, a
        few ahead of the one asked for; closing the iterator ends it.

        Args: as `synthesize`, one of each.

        Yields:
            Audio of 64 frames (0.74 s for a hop of 256 at 22050 Hz), half as many at the beginning of a sentence, less
            at its end, more with the pause ahead of one; without segments.

        Raises:
            ValueError: as `synthesize`; what can be known at once is raised by the call, not by the iterator.
        """
        _require_text(text)
        return self.stream_sentences(
            self.front_end.read(text), speaker=speaker, length_scale=length_scale, noise_scale=noise_scale,
            duration_noise_scale=duration_noise_scale, seed=seed,
        )  # fmt: skip

    def stream_sentences(
        self, sentences: Iterable[Sentence], *, speaker: str | int | None = None, length_scale: float | None = None,
        noise_scale: float | None = None, duration_noise_scale: float | None = None, seed: int = 0,
    ) -> Generator[Audio, None, None]:  # fmt: skip
        """Like `stream`, for a text that `front_end.read` or `front_end.sentences` reads."""
        manner = self._manner(speaker, length_scale, noise_scale, duration_noise_scale, seed)
        compiled = self._speaker  # now: jax must be imported ahead of the thread, to go after it when Python ends
        return self._audios(self._samples(compiled, sentences, manner))

    def convert(
        self, samples: np.ndarray, sample_rate: int, *, target: str | int, source: str | int | None = None,
        noise_scale: float = 1.0, seed: int = 0,
    ) -> Audio:  # fmt: skip
        """Says what a recording says in another speaker's voice, with the same timing (voice conversion).

        Args:
            samples: the recording, mono float [N] in [-1, 1]; any length.
            sample_rate: of the recording; it is resampled to the voice's.
            target: who is to be heard, name or number.
            source: who is heard in the recording, one of the voice's speakers; default: `default_source(target)`.
            noise_scale: of the draw from what the posterior encoder hears, 0 to 10.
            seed: of that draw.

        Returns:
            Audio as long as the recording, without segments.

        Raises:
            ValueError: the voice cannot convert, an unknown speaker, or an argument out of its range.
        """
        if "model" not in self.files.parts:
            raise ValueError(
                f"voice {self.name!r} is a {self.files.first.model} and a vocoder, which cannot convert recordings: "
                "take an end-to-end voice of several speakers (VITS)"
            )
        if len(self.speakers) < 2:
            raise ValueError(f"voice {self.name!r} has one speaker: nobody to convert from or to")
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
            raise ValueError(f"samples have the shape {list(samples.shape)}; give one channel [N] of finite numbers")
        manner = self._manner(target, None, noise_scale, None, seed)
        origin = self.default_source(target) if source is None else self._number(source)
        samples = io.resample(samples, sample_rate, self.sample_rate)
        wave = self._speaker.convert(samples, origin, manner.speaker, noise_scale, seed)
        return Audio(wave, self.sample_rate)

    def default_source(self, target: str | int) -> int:
        """Whom `convert` takes a recording for if it is not told: the first speaker who is not the target."""
        return int(self._number(target) == 0)

    def _audios(self, samples: Iterable[np.ndarray]) -> Generator[Audio, None, None]:
        with closing(ahead(samples)) as parts:
            for part in parts:
                yield Audio(part, self.sample_rate)

    def _samples(self, compiled: "Speaker", sentences: Iterable[Sentence], manner: Manner) -> Iterator[np.ndarray]:
        """The chunks of a stream, silence ahead of the sentence that it precedes."""
        before: Piece | None = None
        for piece in self._pieces(sentences, manner):
            lead = self._silence(before.pause) if before else np.zeros(0, np.float32)
            for samples in compiled.stream(piece) if len(piece.ids) else ():
                yield np.concatenate([lead, samples]) if len(lead) else samples
                lead = lead[:0]
            if len(lead):  # the piece was a pause
                yield lead
            before = piece
        if before and len(end := self._silence(before.rest)):
            yield end

    @cached_property
    def _speaker(self) -> "Speaker":
        if self.files.programs:  # both import jax, which reading a voice does without
            from jaxtts.synth.exported import Exported

            return Exported(self.files)
        from jaxtts.synth.speak import Speaker

        return Speaker(self.files)

    def _manner(
        self, speaker: Any, length_scale: Any, noise_scale: Any, duration_noise_scale: Any, seed: Any
    ) -> Manner:
        if duration_noise_scale is not None and not self.files.stochastic_durations:
            raise ValueError(
                f"duration_noise_scale={duration_noise_scale!r}: voice {self.name!r} draws no durations; leave it out"
            )
        given = {
            "length_scale": length_scale, "noise_scale": noise_scale, "duration_noise_scale": duration_noise_scale
        }  # fmt: skip
        scales = {name: getattr(self.files, name) if x is None else x for name, x in given.items()}
        for name, (low, high) in _SCALES.items():
            if not isinstance(scales[name], (int, float)) or not low <= scales[name] <= high:
                raise ValueError(f"{name}={scales[name]!r} must lie between {low} and {high}")
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r} must be a whole number, 0 or above")
        return Manner(self._number(speaker), **scales, seed=seed)

    def _number(self, speaker: str | int | None) -> int:
        names = self.speakers
        if speaker is None:
            return 0
        if str(speaker) in names:
            return names.index(str(speaker))
        if str(speaker).isdecimal() and int(speaker) < len(names):
            return int(speaker)
        raise ValueError(f"speaker={speaker!r} is not in voice {self.name!r}; it has {', '.join(names[:20])}")

    def _pieces(self, sentences: Iterable[Sentence], manner: Manner) -> Iterator[Piece]:
        """Encodes sentences; long ones are cut in pieces that fit a bucket."""
        index = 0
        limit = MAX_SYMBOLS // 2 - 2 if self.files.text.blank is not None else MAX_SYMBOLS - 2
        for sentence in sentences:
            if not sentence.tokens:
                yield Piece(np.zeros(0, np.int32), index, "", sentence.pause, 0.0, np.zeros(0, np.float32), manner)
                continue
            parts, place = split_long(sentence.tokens, limit), 0
            words = sentence.text.split(" ")
            words = words if len(words) == sentence.tokens.count(SPACE) + 1 else []
            for number, tokens in enumerate(parts):
                rest = sentence.pause if number == len(parts) - 1 else 0.0
                pause = rest or (self.files.sentence_pause if number == len(parts) - 1 else 0.0)
                scales = np.full(len(tokens), manner.length_scale, np.float32)
                if sentence.rates:
                    scales /= np.asarray(sentence.rates[place : place + len(tokens)], np.float32)
                scales = scales[self.front_end.places(tokens).clip(0, len(tokens) - 1)]
                ids = self.front_end.encode(tokens)
                own = words[: tokens.count(SPACE) + 1]
                yield Piece(ids, index, sentence.text, pause, rest, scales, manner, tokens, own, number)
                index, place = index + 1, place + len(tokens)
                at_space = sentence.tokens[place : place + 1] == [SPACE]  # which the cut leaves out
                place, words = place + at_space, words[len(own) - (not at_space) :]

    def _join(self, pieces: list[Piece], spoken: Iterator["Spoken"]) -> Audio:
        samples, segments, position = [], [], 0
        for number, piece in enumerate(pieces):
            if len(piece.ids):
                wave, latent, durations = next(spoken)
                count, spec = len(latent), self.files.mel
                symbols = tuple(self.files.text.symbols[i] for i in piece.ids)
                frames = np.minimum(np.concatenate([[0], np.cumsum(durations)]), count)
                edges = (position + frames * spec.hop_length) / self.sample_rate
                words = timed_words(piece.words, piece.tokens, self.front_end.places(piece.tokens), edges)
                whole = "model" in self.files.parts
                mel = partial(mel_spectrogram_np, wave, spec) if whole else partial(np.asarray, latent)
                segments.append(Segment(piece.text, symbols, position, count, durations, mel, words, piece.part))
                samples.append(wave)
                position += len(wave)
            samples.append(self._silence(piece.rest if number == len(pieces) - 1 else piece.pause))
            position += len(samples[-1])
        return Audio(np.concatenate(samples), self.sample_rate, tuple(segments))

    def _silence(self, seconds: float) -> np.ndarray:
        return np.zeros(math.ceil(seconds * self.sample_rate), np.float32)


def _broadcast(arguments: dict[str, Any]) -> tuple[int | None, dict[str, list]]:
    """Arguments as lists of one length, and that length if any of them was a list."""
    counts = {name: len(x) for name, x in arguments.items() if isinstance(x, (list, tuple, np.ndarray))}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in counts.items())
        raise ValueError(f"lists of different lengths: {found}; give one value for each text")
    count = next(iter(counts.values()), None)
    return count, {
        name: (x.tolist() if isinstance(x, np.ndarray) else list(x))
        if name in counts
        else [x] * (1 if count is None else count)
        for name, x in arguments.items()
    }


def _require_text(text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"text is {type(text).__name__}; give a string or a list of strings")


def load(
    name_or_path: str | Path | None = None,
    *,
    acoustic: str | Path | None = None,
    vocoder: str | Path | None = None,
) -> Voice:
    """Loads a voice: the embedded one, one by name or path, or a combination of two models.

    Args:
        name_or_path: an embedded voice's name; a voice folder; or an end-to-end model as training left it or as another
            toolkit did (see `jaxtts.interop`). Default: the embedded voice.
        acoustic, vocoder: folders or checkpoints of such models that replace that half of the voice.

    Raises:
        ValueError: there is no such voice, it is damaged, or the halves' mel specs differ (both are named).
    """
    halves = {name: path for name, path in (("acoustic", acoustic), ("vocoder", vocoder)) if path is not None}
    if len(halves) == 2 and name_or_path is None:
        return Voice(assemble(Path(halves["acoustic"]).name, halves))
    files = read(find(name_or_path))
    for name, path in halves.items():
        if name not in files.parts:
            raise ValueError(f"voice {files.name!r} is one model from end to end: there is no {name} to replace")
        part, about = read_part(path, name)
        files = replace(files, parts={**files.parts, name: part}, programs=None)
        if name == "acoustic":
            files = replace(files, text=about["text"] or files.text, speakers=about["speakers"])
    return Voice(files)


def synthesize(text: str | list[str], voice: str | Path | None = None, **options) -> Audio | list[Audio]:
    """`load(voice).synthesize(text, **options)`, for when one sentence is all; see `Voice.synthesize`."""
    return load(voice).synthesize(text, **options)


def find(name_or_path: str | Path | None) -> Path:
    """Where a voice is: embedded by name (None: the default one), or a path.

    Raises:
        ValueError: there is none.
    """
    embedded = voices.folders()
    if name_or_path is None:
        if not embedded:
            raise ValueError("this installation has no embedded voice: give the path of a voice folder")
        return next(iter(embedded.values()))
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in embedded and not path.exists():
        return embedded[str(name_or_path)]
    if not path.exists():
        names = ", ".join(embedded) or "none"
        raise ValueError(f"voice {str(name_or_path)!r} is neither a folder nor an embedded voice ({names})")
    return path
