"""Makes a corpus in the LJSpeech layout from a list of sentences, spoken by flite or espeak-ng (Debian packages).

    python tools/make_corpus.py --text text.txt --voice flite:rms --out corpora/rms
    python tools/make_corpus.py --text text.txt --voice flite:slt --voice espeak:en-gb --minutes 20 --out corpora/two
    python tools/make_corpus.py --text text.txt --voice flite:rms --voice flite:slt --limit 700 --shift 700 \\
        --seconds 1 3.5 --margin 0.05 --peak 0.95 --sample-rate 16000 --out corpora/short

The text has one sentence a line, or `id|sentence`; lines that begin with # are left out. One voice gives
OUT/wavs/ID.wav and OUT/metadata.csv (`id|text|text`); several voices give one such folder each, OUT/VOICE, whose name
is the speaker's. Every voice speaks every sentence; with --shift each begins that many sentences behind the one before
it (and goes on from the first where the text ends). Silence at both ends is cut to --margin; what exceeds full scale is
scaled down, and with --peak every utterance is scaled to that peak. The same arguments give the same samples, however
many jobs.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from jaxtts.audio.io import resample

PROGRAMS = {"flite": "flite", "espeak": "espeak-ng"}  # engine -> its program, which is also its Debian package
SILENCE = 1e-3  # samples below are silent
Rows = list[tuple[str, str]]  # id, sentence


class Sound(NamedTuple):
    """How utterances are kept: Hz, seconds of silence at both ends, peak (0: as spoken), shortest and longest ones."""

    sample_rate: int
    margin: float
    peak: float
    seconds: tuple[float, float]


def read_sentences(path: Path) -> Rows:
    """(id, sentence) of each line; a line without an id takes its number."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            name, _, text = line.rpartition("|")
            rows.append((name.split("|")[0] or f"s{number:06d}", text))
    return rows


def check_voice(voice: str) -> None:
    """Raises ValueError unless the voice can be used: 'flite:NAME' or 'espeak:NAME'."""
    engine, _, name = voice.partition(":")
    if engine not in PROGRAMS or not name:
        raise ValueError(f"--voice is {voice!r}; give flite:NAME or espeak:NAME, such as flite:rms or espeak:en-us+f3")
    if not shutil.which(PROGRAMS[engine]):
        raise ValueError(f"{PROGRAMS[engine]} is not installed: install the Debian package {PROGRAMS[engine]}")
    if engine == "flite":  # it would silently take another one
        listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True).stdout
        voices = listed.partition(":")[2].split()
        if name not in voices:
            raise ValueError(f"flite has no voice {name!r}; it has {', '.join(sorted(voices))}")


def speak(text: str, voice: str, sound: Sound) -> np.ndarray | None:
    """The sentence as float32 [N], or None if the voice says nothing or its length is not asked for.

    Raises:
        ValueError: the synthesiser fails; its own message is passed on.
    """
    engine, _, name = voice.partition(":")
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(suffix=".wav", dir=memory) as file:
        if engine == "flite":
            command = ["flite", "-voice", name, "-t", text, "-o", file.name]
        else:
            command = ["espeak-ng", "-v", name, "-w", file.name, "--", text]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not os.path.getsize(file.name):
            raise ValueError(f"{voice} cannot speak {text!r}: {done.stderr.strip() or 'no sound came'}")
        samples, rate = soundfile.read(file.name, dtype="float32")
    if len(samples) < 0.2 * rate or np.abs(samples).max() < 0.01:
        return None
    samples = resample(samples, rate, sound.sample_rate)
    loud, margin = np.flatnonzero(np.abs(samples) > SILENCE), int(sound.margin * sound.sample_rate)
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    if not sound.seconds[0] <= len(samples) / sound.sample_rate <= sound.seconds[1]:
        return None
    peak = np.abs(samples).max()
    top = sound.peak or min(peak, 0.999)
    return samples * (top / peak) if top != peak else samples


def spoken(rows: Rows, voice: str, sound: Sound, jobs: int) -> Iterator[tuple[str, str, np.ndarray | None]]:
    """(id, text, samples) in the order of the rows; threads wait for the synthesisers, a little ahead of the reader."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(rows), 8 * jobs):
            part = rows[start : start + 8 * jobs]
            waves = pool.map(lambda row: speak(row[1], voice, sound), part)
            yield from ((name, text, wave) for (name, text), wave in zip(part, waves, strict=True))


def make(rows: Rows, voice: str, out: Path, sound: Sound, limit: int, minutes: float, jobs: int) -> str:
    """Writes one voice's folder; returns a line about it."""
    rate = sound.sample_rate
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    lines, silent, seconds = [], [], 0.0
    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log file wants few lines
    with tqdm(total=limit or len(rows), desc=voice, unit="utterance", mininterval=every) as bar:
        for name, text, wave in spoken(rows, voice, sound, jobs):
            if wave is None:
                silent.append(name)
                continue
            soundfile.write(out / "wavs" / f"{name}.wav", wave, rate, subtype="PCM_16")
            lines.append(f"{name}|{text}|{text}\n")
            seconds += len(wave) / rate
            bar.update()
            if len(lines) == limit or minutes and seconds >= 60 * minutes:
                break
    if not lines:
        raise ValueError(f"{voice} spoke none of the {len(rows)} sentences")
    temporary = out / "metadata.csv.tmp"
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(out / "metadata.csv")
    left_out = f", {len(silent)} without sound or of another length left out: {' '.join(silent[:20])}" if silent else ""
    return f"{out}: {voice}, {len(lines)} utterances, {seconds / 3600:.3f} h at {rate} Hz{left_out}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="sentences, one a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--voice", action="append", required=True, help="flite:rms, espeak:en-us, ...; repeatable")
    parser.add_argument("--sample-rate", type=int, default=22050)
    parser.add_argument("--limit", type=int, default=0, help="stop after so many utterances of each voice (0: all)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so much speech of each voice (0: never)")
    parser.add_argument("--shift", type=int, default=0, help="sentences that each voice begins behind the one before")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=(0.0, float("inf")), metavar=("MIN", "MAX"), help="leave out others"
    )
    parser.add_argument("--margin", type=float, default=0.1, help="seconds of silence that stay at both ends")
    parser.add_argument(
        "--peak", type=float, default=0.0, help="scale each utterance to this peak, up to 1 (0: do not)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    try:
        for voice in args.voice:
            check_voice(voice)
        if not 0 <= args.peak <= 1:
            raise ValueError(f"--peak is {args.peak}; give 0 to 1")
        sound = Sound(args.sample_rate, args.margin, args.peak, tuple(args.seconds))
        rows = read_sentences(args.text)
        if not rows:
            raise ValueError(f"--text {args.text} has no sentences")
        if len({name for name, _ in rows}) < len(rows):
            raise ValueError(f"--text {args.text} has an id twice; make the ids unique")
        for number, voice in enumerate(args.voice):
            start = number * args.shift % len(rows)
            mine = rows[start:] + rows[:start]
            out = args.out if len(args.voice) == 1 else args.out / voice.replace(":", "_").replace("+", "_")
            print(make(mine, voice, out, sound, args.limit, args.minutes, max(1, args.jobs)))
    except (ValueError, OSError) as error:
        sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
