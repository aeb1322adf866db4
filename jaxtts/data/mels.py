"""Mels of a corpus that a model made, in the place of those of its recordings.

A folder with one float32 .npy [T, M] per utterance, named by its id, and, once all are there, `index.json`: the mel
spec, the frames of each id, the model and what it was made from. As long as some are missing it is called
`partial.json`, so that what is there can be told from what another model made.
"""

import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from jaxtts.audio.spec import MelSpec

INDEX, PARTIAL = "index.json", "partial.json"


def mel_path(folder: Path, name: str) -> Path:
    """The file of an utterance."""
    return folder / f"{quote(name, safe=' ')}.npy"


def write_mel(folder: Path, name: str, mel: np.ndarray) -> None:
    """The whole file or none; mel [T, M]."""
    content = io.BytesIO()
    np.save(content, np.asarray(mel, np.float32), allow_pickle=False)
    _write(mel_path(folder, name), content.getvalue())


def read_mel(folder: Path, name: str, frames: int, bins: int) -> np.ndarray:
    """[T, M].

    Raises:
        ValueError: it is missing or damaged, or has another shape.
    """
    path = mel_path(folder, name)
    try:
        mel = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): run `jaxtts export-mels` again") from error
    if mel.shape != (frames, bins) or mel.dtype != np.float32:
        raise ValueError(f"{path} holds {mel.dtype} {list(mel.shape)}, not float32 [{frames}, {bins}]")
    return mel


def begin(folder: Path, facts: dict[str, Any]) -> dict[str, int]:
    """Opens a folder for mels of which `facts` tell the origin; returns the frames of each id if it was finished.

    Raises:
        ValueError: it holds mels of another origin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames: dict[str, int] = {}
    for path in (folder / INDEX, folder / PARTIAL):
        if path.is_file():
            found = _read(path)
            if wrong := [key for key, value in facts.items() if found.get(key) != value]:
                raise ValueError(
                    f"{folder} holds mels of another origin (its {wrong[0]} is {found.get(wrong[0])}, here it is "
                    f"{facts[wrong[0]]}): give another folder, or remove it"
                )
            frames |= found.get("frames", {})
    _write(folder / PARTIAL, _json(facts | {"frames": frames}))
    (folder / INDEX).unlink(missing_ok=True)
    return frames


def finish(folder: Path, facts: dict[str, Any], frames: dict[str, int]) -> None:
    """Says that all are there."""
    _write(folder / INDEX, _json(facts | {"count": len(frames), "frames": frames}))
    (folder / PARTIAL).unlink(missing_ok=True)


def open_mels(folder: Path) -> tuple[MelSpec, dict[str, int]]:
    """The spec of a finished folder's mels, and the frames of each id.

    Raises:
        ValueError: there is no such folder, or it is not finished.
    """
    if not (folder / INDEX).is_file():
        why = "its export has not ended: run it again" if (folder / PARTIAL).is_file() else "it has no index.json"
        raise ValueError(f"{folder} is not a folder of `jaxtts export-mels`: {why}")
    index = _read(folder / INDEX)
    try:
        return MelSpec.from_dict(index["mel"]), {str(name): int(count) for name, count in index["frames"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX} is damaged ({type(error).__name__} at {error})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return found


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
