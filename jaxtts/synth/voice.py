"""A voice: texts in, sound out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from jaxtts import voices
from jaxtts.audio import io
from jaxtts.audio.spec import require_same
from jaxtts.synth.folder import VoiceFiles, read_half, read_voice
from jaxtts.text import FrontEnd, Sentence, split_long

if TYPE_CHECKING:
    from jaxtts.synth.speak import Speaker

MAX_SYMBOLS = 256  # longer sentences are cut at commas or words
_SCALES = {"length_scale": (0.1, 10.0), "noise_scale": (0.0, 10.0)}


@dataclass(frozen=True)
class Segment:
    """One spoken sentence within an Audio.

    Attributes:
        text: the words as spoken; a long sentence is cut in pieces that share it.
        symbols: what the model read, S symbols.
        start: first sample.
        mel: [T, M].
        durations: frames of each symbol, int32 [S]; they sum to at least T (the flow may drop an odd last frame).
    """

    text: str
    symbols: tuple[str, ...]
    start: int
    mel: np.ndarray = field(repr=False)
    durations: np.ndarray = field(repr=False)


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

    def save(self, path: str | Path) -> None:
        """Writes .wav, .flac, .mp3, .ogg or .opus, whole or not at all.

        Raises:
            ValueError: unknown suffix or missing folder.
            OSError: the disk refuses.
        """
        io.save(path, self.samples, self.sample_rate)


class Piece(NamedTuple):
    """What the model speaks in one go.

    Attributes:
        ids: symbols [S] int32.
        index: its place in its text, which seeds its noise.
        text: the words.
        pause: seconds of silence behind it.
    """

    ids: np.ndarray
    index: int
    text: str
    pause: float


class Voice:
    """A loaded voice; `load` makes one.

    Attributes:
        files: what its folder holds.
        name, sample_rate, speakers: of the voice.
    """

    def __init__(self, files: VoiceFiles):
        require_same(files.acoustic.mel, files.vocoder.mel)
        self.files = files
        self.name, self.speakers, self.sample_rate = files.name, files.speakers, files.vocoder.mel.sample_rate
        self.front_end = FrontEnd(files.text)
        self._compiled: Speaker | None = None

    @overload
    def synthesize(
        self, text: str, *, speaker: str | int | None = None, length_scale: float | None = None,
        noise_scale: float | None = None, seed: int = 0,
    ) -> Audio: ...  # fmt: skip
    @overload
    def synthesize(
        self, text: Sequence[str], *, speaker: str | int | None = None, length_scale: float | None = None,
        noise_scale: float | None = None, seed: int = 0,
    ) -> list[Audio]: ...  # fmt: skip

    def synthesize(self, text, *, speaker=None, length_scale=None, noise_scale=None, seed=0):
        """Speaks a text, or many at once.

        The same text, seed and scales give the same samples, alone or among others: equal up to the rounding of
        float32 sums, whose order depends on the bucket.

        Args:
            text: a text or a list of texts, of any length; SSML if it begins with `<speak`.
            speaker: name or number, for a voice of several; default: its first.
            length_scale: above 1 is slower (0.1 to 10); default: the voice's.
            noise_scale: how much delivery varies, 0 to 10; default: the voice's.
            seed: draws the variation, 0 or above.

        Returns:
            Audio, or a list with one for each text.

        Raises:
            ValueError: nothing to speak, broken SSML, or an argument out of its range.
        """
        if isinstance(text, str):
            return self.synthesize(
                [text], speaker=speaker, length_scale=length_scale, noise_scale=noise_scale, seed=seed
            )[0]
        if bad := [type(t).__name__ for t in text if not isinstance(t, str)]:
            raise ValueError(f"text is {bad[0]}; give a string or a list of strings")
        sentences = [self.front_end.sentences(t) for t in text]
        return self.speak(sentences, speaker=speaker, length_scale=length_scale, noise_scale=noise_scale, seed=seed)

    def speak(
        self, texts: Sequence[Sequence[Sentence]], *, speaker: str | int | None = None,
        length_scale: float | None = None, noise_scale: float | None = None, seed: int = 0,
    ) -> list[Audio]:  # fmt: skip
        """Like `synthesize`, for texts that `front_end.sentences` has been through already."""
        scales = {
            "length_scale": self.files.length_scale if length_scale is None else length_scale,
            "noise_scale": self.files.noise_scale if noise_scale is None else noise_scale,
        }
        for name, (low, high) in _SCALES.items():
            if not isinstance(scales[name], (int, float)) or not low <= scales[name] <= high:
                raise ValueError(f"{name}={scales[name]!r} must lie between {low} and {high}")
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r} must be a whole number, 0 or above")
        number = self._speaker(speaker)
        pieces = [self._pieces(sentences) for sentences in texts]
        if self._compiled is None:
            from jaxtts.synth.speak import Speaker  # imports jax, which reading a voice does without

            self._compiled = Speaker(self.files)
        together = [piece for part in pieces for piece in part]
        spoken = iter(self._compiled.speak(together, speaker=number, seed=seed, **scales))
        return [self._join(part, [next(spoken) for _ in part]) for part in pieces]

    def _speaker(self, speaker: str | int | None) -> int:
        names = self.speakers
        if speaker is None:
            return 0
        if str(speaker) in names:
            return names.index(str(speaker))
        if str(speaker).isdecimal() and int(speaker) < len(names):
            return int(speaker)
        raise ValueError(f"speaker={speaker!r} is not in voice {self.name!r}; it has {', '.join(names[:20])}")

    def _pieces(self, sentences: Sequence[Sentence]) -> list[Piece]:
        """Encodes sentences; long ones are cut in pieces that fit a bucket."""
        pieces: list[Piece] = []
        limit = MAX_SYMBOLS // 2 - 2 if self.files.text.blank is not None else MAX_SYMBOLS - 2
        for sentence in sentences:
            parts = split_long(sentence.tokens, limit)
            for number, tokens in enumerate(parts):
                pause = sentence.pause + self.files.sentence_pause if number == len(parts) - 1 else 0.0
                pieces.append(Piece(self.front_end.encode(tokens), len(pieces), sentence.text, pause))
        return pieces

    def _join(self, pieces: list[Piece], spoken: list) -> Audio:
        samples, segments, position = [], [], 0
        for number, (piece, s) in enumerate(zip(pieces, spoken)):
            symbols = tuple(self.files.text.symbols[i] for i in piece.ids)
            segments.append(Segment(piece.text, symbols, position, s.mel, s.durations))
            last = number == len(pieces) - 1
            pause = piece.pause - self.files.sentence_pause if last else piece.pause
            silence = np.zeros(math.ceil(max(0.0, pause) * self.sample_rate), np.float32)
            samples += [s.wave, silence]
            position += len(s.wave) + len(silence)
        return Audio(np.concatenate(samples), self.sample_rate, tuple(segments))


def load(
    name_or_path: str | Path | None = None,
    *,
    acoustic: str | Path | None = None,
    vocoder: str | Path | None = None,
) -> Voice:
    """Loads a voice: the embedded one, one by name or folder, or a combination of two models.

    Args:
        name_or_path: an embedded voice's name, or a voice folder; default: the embedded voice.
        acoustic, vocoder: folders (a voice, or as training left them) that replace that half of the voice.

    Raises:
        ValueError: there is no such voice, it is damaged, or the halves' mel specs differ (both are named).
    """
    if acoustic is not None and vocoder is not None and name_or_path is None:
        (first, about), (second, _) = read_half(acoustic, "acoustic"), read_half(vocoder, "vocoder")
        if about["text"] is None:
            raise ValueError(f"{acoustic}: config.json does not say how the model wants its text (no 'text')")
        return Voice(VoiceFiles(Path(acoustic).name, about["text"], first, second, about["speakers"]))
    from dataclasses import replace

    files = read_voice(find(name_or_path))
    if acoustic is not None:
        half, about = read_half(acoustic, "acoustic")
        files = replace(files, acoustic=half, text=about["text"] or files.text, speakers=about["speakers"])
    if vocoder is not None:
        files = replace(files, vocoder=read_half(vocoder, "vocoder")[0])
    return Voice(files)


def synthesize(text: str | list[str], voice: str | Path | None = None, **options) -> Audio | list[Audio]:
    """`load(voice).synthesize(text, **options)`, for when one sentence is all; see `Voice.synthesize`."""
    return load(voice).synthesize(text, **options)


def find(name_or_path: str | Path | None) -> Path:
    """The folder of a voice: embedded by name (None: the default one), or a path.

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
