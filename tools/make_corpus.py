"""Makes a corpus in the LJSpeech layout from a list of sentences, spoken by flite or espeak-ng (Debian packages).

    python tools/make_corpus.py --text text.txt --voice flite:rms --out corpora/rms
    python tools/make_corpus.py --text text.txt --voice flite:slt --voice espeak:en-gb --minutes 20 --out corpora/two

The text has one sentence a line, or `id|sentence`; lines that begin with # are left out. One voice gives
OUT/wavs/ID.wav and OUT/metadata.csv (`id|text|text`); several voices give one such folder each, OUT/VOICE, and every
voice speaks every sentence. Silence at both ends is cut to 0.1 s; what exceeds full scale is scaled down. The same
arguments give the same samples, however many jobs.
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

import numpy as np
import soundfile
from tqdm import tqdm

from jaxtts.audio.io import resample

PROGRAMS = {"flite": "flite", "espeak": "espeak-ng"}  # engine -> its program, which is also its Debian package
SILENCE = 1e-3  # samples below are silent
MARGIN = 0.1  # seconds of silence that stay at both ends
Rows = list[tuple[str, str]]  # id, sentence


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


def speak(text: str, voice: str, sample_rate: int) -> np.ndarray | None:
    """The sentence as float32 [N], or None if the voice says nothing.

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
    samples = resample(samples, rate, sample_rate)
    loud, margin = np.flatnonzero(np.abs(samples) > SILENCE), int(MARGIN * sample_rate)
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    peak = np.abs(samples).max()
    return samples * (0.999 / peak) if peak > 0.999 else samples


def spoken(rows: Rows, voice: str, rate: int, jobs: int) -> Iterator[tuple[str, str, np.ndarray | None]]:
    """(id, text, samples) in the order of the rows; threads wait for the synthesisers, a little ahead of the reader."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(rows), 8 * jobs):
            part = rows[start : start + 8 * jobs]
            waves = pool.map(lambda row: speak(row[1], voice, rate), part)
            yield from ((name, text, wave) for (name, text), wave in zip(part, waves, strict=True))


def make(rows: Rows, voice: str, out: Path, rate: int, minutes: float, jobs: int) -> str:
    """Writes one voice's folder; returns a line about it."""
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    lines, silent, seconds = [], [], 0.0
    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log file wants few lines
    bar = tqdm(spoken(rows, voice, rate, jobs), total=len(rows), desc=voice, unit="sentence", mininterval=every)
    for name, text, wave in bar:
        if wave is None:
            silent.append(name)
            continue
        soundfile.write(out / "wavs" / f"{name}.wav", wave, rate, subtype="PCM_16")
        lines.append(f"{name}|{text}|{text}\n")
        seconds += len(wave) / rate
        if minutes and seconds >= 60 * minutes:
            break
    if not lines:
        raise ValueError(f"{voice} spoke none of the {len(rows)} sentences")
    temporary = out / "metadata.csv.tmp"
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(out / "metadata.csv")
    left_out = f", {len(silent)} without sound left out: {' '.join(silent[:20])}" if silent else ""
    return f"{out}: {voice}, {len(lines)} utterances, {seconds / 3600:.3f} h at {rate} Hz{left_out}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="sentences, one a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--voice", action="append", required=True, help="flite:rms, espeak:en-us, ...; repeatable")
    parser.add_argument("--sample-rate", type=int, default=22050)
    parser.add_argument("--limit", type=int, default=0, help="only so many sentences (0: all)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so much speech of each voice (0: never)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    try:
        for voice in args.voice:
            check_voice(voice)
        rows = read_sentences(args.text)[: args.limit or None]
        if not rows:
            raise ValueError(f"--text {args.text} has no sentences")
        if len({name for name, _ in rows}) < len(rows):
            raise ValueError(f"--text {args.text} has an id twice; make the ids unique")
        for voice in args.voice:
            out = args.out if len(args.voice) == 1 else args.out / voice.replace(":", "_").replace("+", "_")
            print(make(rows, voice, out, args.sample_rate, args.minutes, max(1, args.jobs)))
    except (ValueError, OSError) as error:
        sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
