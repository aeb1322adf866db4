"""Reading and writing sound files: wav, flac, mp3, ogg (Vorbis) and opus, through soundfile; soxr resamples.

Samples are mono float32 in [-1, 1]. Writing clips what lies outside (a wave never wraps around), goes to a temporary
name and is renamed, so that a reader sees a whole file or none. Both libraries are imported on first use.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_BLOCK = 1 << 14  # libvorbis overflows its stack on very long writes

# suffix -> soundfile's container, its codec, the rates that the codec knows (None: all)
FORMATS: dict[str, tuple[str, str, tuple[int, ...] | None]] = {
    "wav": ("WAV", "PCM_16", None),
    "flac": ("FLAC", "PCM_16", None),
    "mp3": ("MP3", "MPEG_LAYER_III", _MP3_RATES),
    "ogg": ("OGG", "VORBIS", None),
    "opus": ("OGG", "OPUS", _OPUS_RATES),
}


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Band-limited resampling (soxr VHQ): [N] at `rate` -> float32 [N * new_rate / rate]."""
    if min(rate, new_rate) < 1:
        raise ValueError(f"sample rates must be positive, got {rate} and {new_rate}")
    samples = np.asarray(samples, np.float32)
    if rate == new_rate:
        return samples
    import soxr

    return soxr.resample(samples, rate, new_rate, quality="VHQ")


class Truncated(ValueError):
    """A sound file that ends before the samples its header promises."""


def _promised(path: Path) -> int:
    """Samples (per channel) that a wav's header promises; 0 where it does not say (a pipe wrote it) or is none."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return 0
        block = 0
        while len(head := file.read(8)) == 8:
            name, size = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data":
                return size // block if block and size < 0x7FFF0000 else 0
            body = file.read(size + size % 2)
            block = struct.unpack("<H", body[12:14])[0] if name == b"fmt " and len(body) >= 14 else block
    return 0


def load(path: str | os.PathLike[str], sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads a sound file as mono.

    Args:
        path: any format that libsndfile reads.
        sample_rate: resample to this rate; None keeps the file's.

    Returns:
        samples float32 [N] (the mean of the channels) and their rate.

    Raises:
        FileNotFoundError: there is no such file.
        Truncated: it is cut off, a ValueError that says by how much.
        ValueError: it is not a sound file, holds no samples or some that are no numbers.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sound file")
    try:
        with soundfile.SoundFile(path) as file:
            samples, rate, expected = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot be read as sound ({error.error_string})") from error
    expected = max(expected, _promised(path))
    if len(samples) < expected:
        raise Truncated(f"{path}: the file is cut off: it promises {expected} samples, {len(samples)} are there")
    if not len(samples):
        raise ValueError(f"{path}: the file holds no samples")
    samples = samples.mean(axis=1, dtype=np.float32)  # [N, channels] -> [N]
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: {np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    return (samples, rate) if sample_rate is None else (resample(samples, rate, sample_rate), sample_rate)


def encode(samples: np.ndarray, rate: int, format: str = "wav") -> bytes:
    """A whole sound file as bytes.

    Args:
        samples: mono float [N] in [-1, 1] (clipped) or int16 [N].
        rate: samples per second; where the codec does not know it (Opus, mp3), the next higher one that it knows is
            written, resampled.
        format: 'wav' (16-bit), 'flac' (16-bit), 'mp3', 'ogg' (Vorbis) or 'opus'.

    Raises:
        ValueError: unknown format, no samples, not mono, NaN or infinite samples, or a rate beyond the codec.
    """
    import soundfile

    if format not in FORMATS:
        raise ValueError(f"unknown audio format {format!r}; choose from {', '.join(FORMATS)}")
    samples = np.asarray(samples)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"samples have the shape {samples.shape}; give one channel [N] with at least one sample")
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768.0
    if not np.isfinite(samples).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(samples))} of {samples.size} samples are NaN or infinite")
    if rate < 1:
        raise ValueError(f"the sample rate is {rate}; give a positive number of samples per second")
    container, codec, rates = FORMATS[format]
    if rates is not None and rate not in rates:
        known = min((r for r in rates if r >= rate), default=rates[-1])
        samples, rate = resample(samples, rate, known), known
    if codec == "PCM_16":
        samples = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
    else:
        samples = np.clip(samples, -1.0, 1.0).astype(np.float32)
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", rate, 1, codec, format=container) as file:
            for start in range(0, len(samples), _BLOCK):
                file.write(samples[start : start + _BLOCK])
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot write {format} at {rate} Hz ({error.error_string})") from error
    return buffer.getvalue()


def save(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> None:
    """Writes a sound file; the suffix (.wav, .flac, .mp3, .ogg, .opus) chooses the format.

    Args:
        path: the file; its folder must exist. An existing file is replaced.
        samples: as in `encode`.
        sample_rate: samples per second.

    Raises:
        ValueError: unknown suffix, missing folder, or samples that `encode` refuses.
        OSError: the disk refuses.
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; choose from {', '.join('.' + f for f in FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; create it first")
    content = encode(samples, sample_rate, suffix)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
