"""Small corpora for the tests of this folder, and work for processes that they start."""

import math
import os
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 22050


def voice(text: str, seed: int = 0, rate: int = RATE, letter: float = 0.07) -> np.ndarray:
    """A tone with noise for each letter of a text [N], `letter` seconds long."""
    rng = np.random.default_rng([seed, len(text)])
    pitch = np.repeat([90.0 + 7 * (ord(c) % 29) for c in text], int(letter * rate))
    return 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) + 0.003 * rng.normal(size=len(pitch))


def write_corpus(root: Path, count: int = 40, rate: int = RATE) -> Path:
    """A corpus in the LJSpeech layout in which nothing is wrong: t000 to t039."""
    (root / "wavs").mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines = []
    for i in range(count):
        text = " ".join("".join(rng.choice(list("aeioulmnrst"), 4)) for _ in range(rng.integers(3, 7)))
        soundfile.write(root / "wavs" / f"t{i:03d}.wav", voice(text, i, rate), rate, subtype="PCM_16")
        lines.append(f"t{i:03d}|{text}\n")
    (root / "metadata.csv").write_text("".join(lines))
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def root(x: float) -> float:
    """Raises ValueError where there is none."""
    return math.sqrt(x)


def pids(folder: str) -> None:
    """Leaves the number of its process in a folder and works for ever."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)
