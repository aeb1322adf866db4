"""The format of our own voices and exports: a folder with `config.json` and `model.safetensors`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts.weights.safetensors import read_safetensors, replacing, save_safetensors


def save_native(folder: str | os.PathLike, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes a model: each file whole or not at all, the weights last, so that a folder with weights is complete.

    Args:
        folder: made if absent; other files in it stay.
        params: dotted name -> array.
        config: anything JSON can hold.
    """
    folder = Path(folder)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.json") as file:
        file.write(text.encode())
    save_safetensors(folder / "model.safetensors", params)


def load_native(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `save_native` wrote.

    Returns:
        Dotted name -> read-only array, and the config.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: not a model folder: it has no {name}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'}: holds {type(config).__name__}, expected an object")
    return read_safetensors(folder / "model.safetensors"), config
