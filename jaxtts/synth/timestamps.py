"""When each word and each phoneme of a spoken text sounds, from the frames that the model gave each symbol.

A phoneme lasts as long as its symbol, a stress mark ahead of it and a blank or a length mark behind it; a word from its
first phoneme to its last. Speech does not stop at a space, so its frames go to the phoneme behind it: there a forced
alignment of the embedded voice's speech has the boundary, 11 ms away at the median. Behind punctuation they are
silence, and belong to no word, nor do the punctuation itself and the pause between sentences. The resolution is one
frame (11.6 ms for a hop of 256 at 22050 Hz).
"""

import json
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxtts.text.symbols import PUNCTUATION, SPACE, STRESS
from jaxtts.weights.safetensors import replacing

if TYPE_CHECKING:
    from jaxtts.synth.voice import Audio

SUFFIXES = (".json", ".srt")
LINE = 42  # characters of a line of subtitles; a cue has two


class Phoneme(NamedTuple):
    """A phoneme and its first and last moment, in seconds from the beginning of the Audio."""

    text: str
    start: float
    end: float


class TimedWord(NamedTuple):
    """A word, its first and last moment in seconds, and its phonemes.

    The text is the word as spoken (numbers and abbreviations written out) with the punctuation behind it.
    """

    text: str
    start: float
    end: float
    phonemes: tuple[Phoneme, ...]


def timed_words(
    words: Sequence[str], tokens: Sequence[str], places: np.ndarray, edges: np.ndarray
) -> tuple[TimedWord, ...]:
    """Words of a piece of speech.

    Args:
        words: as many as the spaces among the tokens separate; none: each is called by its phonemes.
        tokens: what the front end gave.
        places: the token that each symbol of the model belongs to, [S] (`FrontEnd.places`).
        edges: where each symbol begins and the last one ends, seconds [S + 1].
    """
    found: list[TimedWord] = []
    phonemes: list[Phoneme] = []
    stress, began, ended = "", 0.0, None
    for place, token in enumerate([*tokens, SPACE]):
        if token == SPACE:
            ended = phonemes[-1].end if phonemes and tokens[place - 1][-1].isalnum() else None
            if phonemes:
                text = words[len(found)] if words else "".join(p.text for p in phonemes)
                found.append(TimedWord(text, phonemes[0].start, phonemes[-1].end, tuple(phonemes)))
            phonemes, stress = [], ""
            continue
        own = np.flatnonzero(places == place)
        start, end = float(edges[own[0]]), float(edges[own[-1] + 1])
        if ended is not None and token not in PUNCTUATION:
            start, ended = ended, None
        if token in STRESS:
            stress, began = token, start
        elif phonemes and unicodedata.category(token[0]) in ("Lm", "Mn"):  # a length mark, a diacritic
            phonemes[-1] = phonemes[-1]._replace(text=phonemes[-1].text + token, end=end)
        elif any(map(str.isalnum, token)):
            phonemes.append(Phoneme(stress + token, began if stress else start, end))
            stress = ""
    return tuple(found)


def sentences(audio: "Audio") -> list[dict[str, Any]]:
    """The timestamps of an Audio as JSON can hold them: sentences of words of phonemes, seconds to the tenth of a
    millisecond."""
    result: list[dict[str, Any]] = []
    for segment in audio.segments:
        if segment.part == 0:
            result.append({"text": segment.text, "start": 0.0, "end": 0.0, "words": []})
        for word in segment.words:
            phonemes = [_rounded(p) for p in word.phonemes]
            result[-1]["words"].append(_rounded(word) | {"phonemes": phonemes})
    for sentence in result:
        sentence["start"], sentence["end"] = sentence["words"][0]["start"], sentence["words"][-1]["end"]
    return result


def save(path: str | Path, audio: "Audio") -> None:
    """Writes timestamps as .json (`sentences`, with duration and sample_rate) or as .srt subtitles.

    Raises:
        ValueError: unknown suffix, missing folder, or an Audio without segments.
    """
    path = check(path)
    if not audio.segments:
        raise ValueError("this Audio has no timestamps: take one of Voice.synthesize")
    if path.suffix.lower() == ".srt":
        cues = enumerate(_cues(audio), 1)
        content = "".join(f"{n}\n{_clock(a)} --> {_clock(b)}\n{text}\n\n" for n, (text, a, b) in cues)
    else:
        facts = {"duration": round(audio.duration, 4), "sample_rate": audio.sample_rate}
        content = json.dumps(facts | {"sentences": sentences(audio)}, ensure_ascii=False, indent=1) + "\n"
    with replacing(path) as file:
        file.write(content.encode())


def check(path: str | Path) -> Path:
    """The path, if timestamps can be written there. Raises ValueError if not."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; choose from {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; create it first")
    return path


def _rounded(timed: Phoneme | TimedWord) -> dict[str, Any]:
    return {"text": timed.text, "start": round(timed.start, 4), "end": round(timed.end, 4)}


def _cues(audio: "Audio") -> Iterator[tuple[str, float, float]]:
    """Text, start and end of each subtitle: a sentence, or as much of it as two lines hold, ending at a comma if it
    can."""
    for sentence in sentences(audio):
        words, cue = sentence["words"], []
        for word, following in zip(words, [*words[1:], None]):
            cue.append(word)
            lines = textwrap.wrap(" ".join(w["text"] for w in cue), LINE)
            full = following and len(textwrap.wrap(" ".join([*lines, following["text"]]), LINE)) > 2
            if following is None or full or (len(lines) > 1 and word["text"][-1] in ",;:"):
                yield "\n".join(lines), cue[0]["start"], cue[-1]["end"]
                cue = []


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"
