"""Corpora on disk: folders of recordings and transcripts in the layouts that public corpora come in.

    ljspeech    wavs/ID.wav + metadata.csv: `id|raw|normalized` (or `id|text`), no header, no quoting
    speakers    one ljspeech folder per speaker: NAME/wavs/ID.wav + NAME/metadata.csv
    vctk        txt/p225/p225_001.txt + wav48_silence_trimmed/p225/p225_001_mic1.flac (0.92)
                or wav48/p225/p225_001.wav (older)
    libritts    .../SPEAKER/CHAPTER/ID.wav + ID.normalized.txt (or ID.original.txt, or *.trans.tsv)

or a file that lists recordings, by paths from its own folder:

    manifest    NeMo's JSON lines: {"audio_filepath": ..., "text": ..., "normalized_text": ..., "speaker": ...}
    filelist    `path|text` or `path|speaker|text` (Tacotron 2, VITS)

A reader lists what is there and reads no sound. An utterance whose recording or transcript is missing is listed too
(with an empty text, or a path to nothing), so that `prepare` can report it: nothing is left out in silence.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")


class Utterance(NamedTuple):
    """One recording and what is said in it."""

    id: str
    path: Path
    text: str
    speaker: str


def read_corpus(folder: str | Path, layout: str | None = None, *, column: str = "normalized") -> list[Utterance]:
    """Lists the utterances of a corpus, in a fixed order.

    Args:
        folder: the folder of the corpus, or a file that lists it.
        layout: 'ljspeech', 'speakers', 'vctk' or 'libritts' for a folder, 'manifest' or 'filelist' for a file; None
            finds out.
        column: text of the ljspeech layout: 'normalized' (the last column) or 'raw' (the second one, where the last
            has lost its punctuation); libritts and manifest have both, too.

    Raises:
        ValueError: no layout fits, a line cannot be read, two utterances share an id, or there are none.
    """
    root = Path(folder)
    if not root.exists():
        raise ValueError(f"corpus {str(folder)!r} is not a folder, nor a file that lists recordings")
    if column not in ("normalized", "raw"):
        raise ValueError(f"column is {column!r}; give 'normalized' or 'raw'")
    if layout is None:
        layout = next((name for name, (fits, _) in LAYOUTS.items() if fits(root)), None)
        if layout is None:
            raise ValueError(
                f"{root} is no corpus: looked for metadata.csv (ljspeech), */metadata.csv (speakers), txt/ and "
                "wav48/ or wav48_silence_trimmed/ (vctk), *.normalized.txt, *.original.txt or *.trans.tsv (libritts); "
                "a file of JSON lines with audio_filepath (manifest) or of path|text (filelist) is one, too"
            )
    elif layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
    elif root.is_dir() == (layout in ("manifest", "filelist")):
        raise ValueError(f"layout is {layout!r}, but {root} is a {'folder' if root.is_dir() else 'file'}")
    utterances = LAYOUTS[layout][1](root, column)
    if not utterances:
        raise ValueError(f"{root} (layout {layout}) has no utterances: is the corpus unpacked completely?")
    seen: set[str] = set()
    for u in utterances:
        if u.id in seen:
            raise ValueError(f"{root} (layout {layout}) has the id {u.id!r} twice; make the ids unique")
        seen.add(u.id)
    return utterances


def _ljspeech(root: Path, column: str, speaker: str = "", prefix: str = "") -> list[Utterance]:
    metadata, utterances = root / "metadata.csv", []
    for number, line in enumerate(metadata.read_text(encoding="utf-8-sig").split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        fields = line.split("|")
        if len(fields) not in (2, 3):
            raise ValueError(f"{metadata}:{number} has {len(fields)} columns; it needs id|text or id|raw|normalized")
        name, text = fields[0].strip(), fields[1 if column == "raw" else -1].strip() or fields[1].strip()
        path = root / "wavs" / (name if name.lower().endswith(AUDIO_SUFFIXES) else f"{name}.wav")
        utterances.append(Utterance(prefix + name, path, text, speaker or root.resolve().name))
    return utterances


def _speakers(root: Path, column: str) -> list[Utterance]:
    folders = [m.parent for m in sorted(root.glob("*/metadata.csv"))]
    return [u for f in folders for u in _ljspeech(f, column, f.name, f"{f.name}/")]


def _vctk(root: Path, column: str) -> list[Utterance]:
    new = root / "wav48_silence_trimmed"
    texts = {p.stem: p for p in root.glob("txt/*/*.txt")}
    if new.is_dir():  # the first microphone; the second one is missing for p280 and p315
        audio = {p.stem.removesuffix("_mic1"): p for p in new.glob("*/*_mic1.*") if p.suffix in AUDIO_SUFFIXES}
    else:
        audio = {p.stem: p for p in root.glob("wav48/*/*") if p.suffix in AUDIO_SUFFIXES}
    utterances = []
    for name in sorted(texts.keys() | audio.keys()):
        speaker = (audio.get(name) or texts[name]).parent.name
        missing = new / speaker / f"{name}_mic1.flac" if new.is_dir() else root / "wav48" / speaker / f"{name}.wav"
        text = texts[name].read_text(encoding="utf-8") if name in texts else ""
        utterances.append(Utterance(name, audio.get(name, missing), " ".join(text.split()), speaker))
    return utterances


def _libritts(root: Path, column: str) -> list[Utterance]:
    texts: dict[str, str] = {}
    for table in sorted(root.rglob("*.trans.tsv")):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, *columns = line.split("\t")
            if columns:
                texts[name] = columns[0 if column == "raw" else -1]
    kinds = ("normalized", "original") if column == "raw" else ("original", "normalized")  # the last one read wins
    for kind in kinds:
        for path in root.rglob(f"*.{kind}.txt"):
            texts[path.name.removesuffix(f".{kind}.txt")] = path.read_text(encoding="utf-8")
    audio = {p.stem: p for p in root.rglob("*") if p.suffix in AUDIO_SUFFIXES}
    chapters = {p.parent for p in audio.values()}
    chapter_of = {c.name: c for c in chapters} | {"_".join(c.parts[-2:]): c for c in chapters}
    utterances = []
    for name in sorted(texts.keys() | audio.keys()):
        folder = chapter_of.get("_".join(name.split("_")[:2]), root / "/".join(name.split("_")[:2]))
        path = audio.get(name, folder / f"{name}.wav")
        utterances.append(Utterance(name, path, " ".join(texts.get(name, "").split()), path.parent.parent.name))
    return utterances


def _manifest(file: Path, column: str) -> list[Utterance]:
    utterances = []
    for number, line in _lines(file):
        try:
            entry = json.loads(line)
            name, text = str(entry["audio_filepath"]), str(entry["text"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}:{number} is no JSON object with audio_filepath and text ({error})") from error
        text = text if column == "raw" else str(entry.get("normalized_text") or text)
        utterances.append(_listed(file, name, text, str(entry.get("speaker", ""))))
    return utterances


def _filelist(file: Path, column: str) -> list[Utterance]:
    utterances = []
    for number, line in _lines(file):
        name, *middle, text = fields if len(fields := line.split("|")) in (2, 3) else ("", "")
        if not name.lower().endswith(AUDIO_SUFFIXES):
            raise ValueError(f"{file}:{number} is neither path|text nor path|speaker|text with a path to a sound file")
        utterances.append(_listed(file, name, text, "".join(middle)))
    return utterances


def _lines(file: Path) -> list[tuple[int, str]]:
    lines = enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip()]


def _listed(file: Path, name: str, text: str, speaker: str) -> Utterance:
    return Utterance(str(Path(name).with_suffix("")), file.parent / name, text.strip(), speaker.strip() or file.stem)


def _is_manifest(file: Path) -> bool:
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        return next((line for line in lines if line.strip()), "").lstrip().startswith("{")


def _any(root: Path, *patterns: str) -> bool:
    return any(next(root.glob(p), None) is not None for p in patterns)


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, str], list[Utterance]]]] = {
    "ljspeech": (lambda r: _any(r, "metadata.csv"), _ljspeech),
    "speakers": (lambda r: _any(r, "*/metadata.csv"), _speakers),
    "vctk": (lambda r: _any(r, "txt") and _any(r, "wav48", "wav48_silence_trimmed"), _vctk),
    "libritts": (lambda r: _any(r, "**/*.normalized.txt", "**/*.original.txt", "**/*.trans.tsv"), _libritts),
    "manifest": (lambda r: r.is_file() and _is_manifest(r), _manifest),
    "filelist": (lambda r: r.is_file(), _filelist),
}
