"""A voice: texts in, sound out."""

import math
import textwrap
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Unpack, overload

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
    from jaxtts.synth.speak import Found, Speaker, Spoken

MAX_SYMBOLS = 256  # longer sentences are cut at commas or words
RETRIES = 2  # of an autoregressive voice
T = TypeVar("T")
Several = T | Sequence[T]
_SCALES = {"length_scale": (0.1, 10.0), "noise_scale": (0.0, 10.0), "duration_noise_scale": (0.0, 10.0)}


class Options(TypedDict, total=False):
    """How a text is spoken, see `Voice.synthesize`."""

    speaker: str | int | None
    length_scale: float | None
    noise_scale: float | None
    duration_noise_scale: float | None
    seed: int
    max_frames: int | None
    retries: int
    sigma: float | None
    denoise: float


class ManyOptions(TypedDict, total=False):
    """The same, where each may be a list with one value for each text."""

    speaker: Several[str | int | None]
    length_scale: Several[float | None]
    noise_scale: Several[float | None]
    duration_noise_scale: Several[float | None]
    seed: Several[int]
    max_frames: Several[int | None]
    retries: Several[int]
    sigma: Several[float | None]
    denoise: Several[float]


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
        truncated: it did not end by itself and was cut off; only an autoregressive voice can fail in this way and in
            the next two.
        skipped: words of which attention left out something, see `attention_check`.
        repeated: words of which attention read something again, or did not get away from.
    """

    text: str
    symbols: tuple[str, ...]
    start: int
    frames: int
    durations: np.ndarray = field(repr=False)
    make_mel: Callable[[], np.ndarray] = field(repr=False)
    words: tuple[TimedWord, ...] = field(default=(), repr=False)
    part: int = 0
    truncated: bool = False
    skipped: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def complaints(self) -> list[str]:
        """A sentence about each fault, with what may mend it."""
        what, found = repr(textwrap.shorten(self.text, 60)), []
        if self.truncated:
            found.append(
                f"{what} did not end by itself and is cut off after {self.frames} frames: raise max_frames if that is "
                "too few, or try another seed or shorter sentences"
            )
        for verb, words in (("skips", self.skipped), ("repeats, or is stuck at,", self.repeated)):
            if words:
                more = f" and {len(words) - 8} more" if len(words) > 8 else ""
                named = ", ".join(map(repr, words[:8])) + more
                found.append(f"{what} {verb} {named}: try another seed, more retries or shorter sentences")
        return found

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
    def truncated(self) -> bool:
        """Whether any sentence is, see Segment."""
        return any(segment.truncated for segment in self.segments)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Of all sentences, see Segment."""
        return tuple(word for segment in self.segments for word in segment.skipped)

    @property
    def repeated(self) -> tuple[str, ...]:
        """Of all sentences, see Segment."""
        return tuple(word for segment in self.segments for word in segment.repeated)

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


class FaultySpeech(UserWarning):
    """A stream has spoken a sentence that is truncated, skips or repeats."""


class Manner(NamedTuple):
    """How one text is spoken: the arguments of `Voice.synthesize`, checked; None where the models decide."""

    speaker: int
    length_scale: float
    noise_scale: float
    duration_noise_scale: float
    seed: int
    max_frames: int | None = None
    retries: int = 0
    sigma: float | None = None
    denoise: float = 0.0


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
        attempt: how often it was spoken before; each draws anew.
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
    attempt: int = 0


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
    def synthesize(self, text: str, **options: Unpack[Options]) -> Audio: ...
    @overload
    def synthesize(self, text: str | Sequence[str], **options: Unpack[ManyOptions]) -> list[Audio]: ...

    def synthesize(self, text: Any, **options: Any) -> Any:
        """Speaks a text, or many at once.

        The same text, seed and scales give the same samples, alone or among others: equal up to the rounding of
        float32 sums, whose order depends on the bucket.

        Args:
            text: a text of any length; SSML if it begins with `<speak`. This and each of the other arguments may be
                a list, with one value for each text; what is no list holds for all of them.
            speaker: name or number, for a voice of several; default: its first.
            length_scale: above 1 is slower (0.1 to 10); default: the voice's. An autoregressive voice has its own pace
                and takes 1 alone.
            noise_scale: how much delivery varies, 0 to 10; default: the voice's. Not for an autoregressive voice.
            duration_noise_scale: how much rhythm varies, 0 to 10, for a voice whose durations are drawn (VITS with its
                stochastic duration predictor) and no other; default: the voice's.
            seed: draws the variation, 0 or above.
            max_frames: where an autoregressive voice (Tacotron) is cut off that does not end by itself; for no other
                voice. Default: three times what the voice takes for as many symbols, and 200 more.
            retries: how often an autoregressive voice speaks a sentence again, by other seeds, that it truncated or in
                which it skipped or repeated something; the best attempt is kept. Default 2; others need none.
            sigma: temperature of the noise that a vocoder like WaveGlow makes into sound, 0 to 10, for no other;
                default: the vocoder's.
            denoise: how much of the vocoder's own hum is taken away (`audio.denoise`), 0 (default) to 10; of WaveGlow's
                0.01 to 0.1 are usual.

        Returns:
            Audio, which tells what is truncated, skipped or repeated; a list of them if any argument is a list.

        Raises:
            ValueError: nothing to speak, broken SSML, lists of different lengths, or an argument out of its range.
        """
        count, columns = _broadcast({"text": text, **options})
        for t in columns["text"]:
            _require_text(t)
        sentences = [self.front_end.sentences(t) for t in columns.pop("text")]
        audios = self.speak(sentences, **columns)
        return audios if count is not None else audios[0]

    def speak(self, texts: Sequence[Sequence[Sentence]], **options: Unpack[ManyOptions]) -> list[Audio]:
        """Like `synthesize`, for texts that `front_end.sentences` has been through already."""
        _, columns = _broadcast({"text": list(texts), **options})
        del columns["text"]
        manners = [self._manner(**{name: x[i] for name, x in columns.items()}) for i in range(len(texts))]
        pieces = [list(self._pieces(sentences, manner)) for sentences, manner in zip(texts, manners)]
        spoken = iter(self._speaker.speak([piece for part in pieces for piece in part if len(piece.ids)]))
        return [self._join(part, spoken) for part in pieces]

    def stream(self, text: str, **options: Unpack[Options]) -> Generator[Audio, None, None]:
        """Speaks a text bit by bit: the first chunk comes at once, the others are made while it is heard.

        Together the chunks are what `synthesize` gives for the same arguments and no retries, to 1e-4. They are made in
        a thread, a few ahead of the one asked for; closing the iterator ends it. A sentence of an autoregressive voice
        that is truncated, skips or repeats is told of by a `FaultySpeech` warning with its last chunk.

        Args: as `synthesize`, one of each.

        Yields:
            Audio of 64 frames (0.74 s for a hop of 256 at 22050 Hz), half as many at the beginning of a sentence, less
            at its end, more with the pause ahead of one; without segments.

        Raises:
            ValueError: as `synthesize`; what can be known at once is raised by the call, not by the iterator.
        """
        _require_text(text)
        return self.stream_sentences(self.front_end.read(text), **options)

    def stream_sentences(
        self, sentences: Iterable[Sentence], **options: Unpack[Options]
    ) -> Generator[Audio, None, None]:
        """Like `stream`, for a text that `front_end.read` or `front_end.sentences` reads."""
        manner = self._manner(**options)
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
        manner = self._manner(target, noise_scale=noise_scale, seed=seed)
        origin = self.default_source(target) if source is None else self._number(source)
        samples = io.resample(samples, sample_rate, self.sample_rate)
        wave = self._speaker.convert(samples, origin, manner.speaker, noise_scale, seed)
        return Audio(wave, self.sample_rate)

    def default_source(self, target: str | int) -> int:
        """Whom `convert` takes a recording for if it is not told: the first speaker who is not the target."""
        return int(self._number(target) == 0)

    def _audios(self, samples: Iterable[tuple[np.ndarray, list[str]]]) -> Generator[Audio, None, None]:
        with closing(ahead(samples)) as parts:
            for part, complaints in parts:
                for complaint in complaints:
                    warnings.warn(complaint, FaultySpeech, stacklevel=2)
                yield Audio(part, self.sample_rate)

    def _samples(
        self, compiled: "Speaker", sentences: Iterable[Sentence], manner: Manner
    ) -> Iterator[tuple[np.ndarray, list[str]]]:
        """The chunks of a stream, silence ahead of the sentence that it precedes, and complaints with its last one."""
        before: Piece | None = None
        for piece in self._pieces(sentences, manner):
            lead = self._silence(before.pause) if before else np.zeros(0, np.float32)
            for samples, found in compiled.stream(piece) if len(piece.ids) else ():
                complaints = self._segment(piece, found, samples, 0).complaints if found else []
                yield np.concatenate([lead, samples]) if len(lead) else samples, complaints
                lead = lead[:0]
            if len(lead):  # the piece was a pause
                yield lead, []
            before = piece
        if before and len(end := self._silence(before.rest)):
            yield end, []

    @cached_property
    def _speaker(self) -> "Speaker":
        if self.files.programs:  # both import jax, which reading a voice does without
            from jaxtts.synth.exported import Exported

            return Exported(self.files)
        from jaxtts.synth.speak import Speaker

        return Speaker(self.files)

    def _manner(
        self, speaker: Any = None, length_scale: Any = None, noise_scale: Any = None, duration_noise_scale: Any = None,
        seed: Any = 0, max_frames: Any = None, retries: Any = RETRIES, sigma: Any = None, denoise: Any = 0.0,
    ) -> Manner:  # fmt: skip
        files, vocoder = self.files, self.files.vocoder
        autoregressive, noisy = files.autoregressive, bool(vocoder and "noise" in vocoder.traits)
        foreign = {
            "duration_noise_scale": (duration_noise_scale, files.stochastic_durations, "draws no durations"),
            "noise_scale": (noise_scale, not autoregressive, f"is a {files.first.model}, which reads no noise"),
            "max_frames": (max_frames, autoregressive, "always ends"),
            "sigma": (sigma, noisy, "has no vocoder that reads noise"),
            "denoise": (
                denoise or None,
                vocoder and "samples" not in vocoder.traits,
                "has no vocoder that could be denoised",
            ),
        }
        for name, (value, known, why) in foreign.items():
            if value is not None and not known:
                raise ValueError(f"{name}={value!r}: voice {self.name!r} {why}; leave it out")
        given = {
            "length_scale": length_scale, "noise_scale": noise_scale, "duration_noise_scale": duration_noise_scale
        }  # fmt: skip
        scales = {name: getattr(files, name) if x is None else x for name, x in given.items()}
        for name, (low, high) in _SCALES.items():
            if not isinstance(scales[name], (int, float)) or not low <= scales[name] <= high:
                raise ValueError(f"{name}={scales[name]!r} must lie between {low} and {high}")
        if autoregressive and scales["length_scale"] != 1:
            raise ValueError(
                f"length_scale={scales['length_scale']!r}: voice {self.name!r} is a {files.first.model}, which has its "
                "own pace; leave it out"
            )
        for name, value in {"sigma": sigma or 0.0, "denoise": denoise}.items():
            if not isinstance(value, (int, float)) or not 0 <= value <= 10:
                raise ValueError(f"{name}={value!r} must lie between 0.0 and 10.0")
        for name, value, low, end in (
            ("seed", seed, 0, 2**63), ("max_frames", 1 if max_frames is None else max_frames, 1, 2**16),
            ("retries", retries, 0, 2**10),
        ):  # fmt: skip
            if not isinstance(value, int) or not low <= value < end:
                most = "or above" if name == "seed" else f"to {end - 1}"
                raise ValueError(f"{name}={value!r} must be a whole number, {low} {most}")
        return Manner(
            self._number(speaker), **scales, seed=seed, max_frames=max_frames,
            retries=retries if autoregressive else 0, sigma=sigma, denoise=denoise,
        )  # fmt: skip

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
                if sentence.rates and self.files.autoregressive and set(sentence.rates) != {1.0}:
                    raise ValueError(
                        f"voice {self.name!r} is a {self.files.first.model}, which has its own pace: leave out "
                        "<prosody rate>"
                    )
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
                wave, found = next(spoken)
                segments.append(self._segment(piece, found, wave, position))
                samples.append(wave)
                position += len(wave)
            samples.append(self._silence(piece.rest if number == len(pieces) - 1 else piece.pause))
            position += len(samples[-1])
        return Audio(np.concatenate(samples), self.sample_rate, tuple(segments))

    def _segment(self, piece: Piece, found: "Found", wave: np.ndarray, position: int) -> Segment:
        """What is to be known of a piece whose wave begins at that sample."""
        latent, durations, faults = found
        count, spec = len(latent), self.files.mel
        symbols = tuple(self.files.text.symbols[i] for i in piece.ids)
        frames = np.minimum(np.concatenate([[0], np.cumsum(durations)]), count)
        edges = (position + frames * spec.hop_length) / self.sample_rate
        places = self.front_end.places(piece.tokens)
        words = timed_words(piece.words, piece.tokens, places, edges)
        mel = partial(mel_spectrogram_np, wave, spec) if "model" in self.files.parts else partial(np.asarray, latent)
        skipped, repeated = (_words_at(piece, places[list(at)]) for at in (faults.skipped, faults.repeated))
        return Segment(
            piece.text, symbols, position, count, durations, mel, words, piece.part, faults.truncated, skipped, repeated
        )

    def _silence(self, seconds: float) -> np.ndarray:
        return np.zeros(math.ceil(seconds * self.sample_rate), np.float32)


def _words_at(piece: Piece, places: np.ndarray) -> tuple[str, ...]:
    """The words that hold these tokens, each once: as they are written or, where that is not known, as symbols."""
    tokens = list(piece.tokens)
    spelled = list(piece.words) or "".join("\n" if t == SPACE else t for t in tokens).split("\n")
    numbers = np.cumsum([t == SPACE for t in tokens])
    return tuple(spelled[n] for n in dict.fromkeys(numbers[places.clip(0, len(tokens) - 1)].tolist()))


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
        acoustic, vocoder: folders or checkpoints of such models that replace that half of the voice; as vocoder also
            'griffin-lim', which needs no training.

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
        part, about = read_part(path, name, files.first.mel)
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
