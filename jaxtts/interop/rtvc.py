"""The synthesizer of CorentinJ/Real-Time-Voice-Cloning: `synthesizer.pt`, with no configuration beside it.

It speaks in the voice that an embedding of its speaker encoder tells (256 numbers). Every `*.npy` beside it, such as
that toolkit's preprocessing writes, becomes a speaker named after the file, and a row of the model's table.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxtts.interop.foreign import Foreign, Source, flat
from jaxtts.models.tacotron import convert as tacotron
from jaxtts.text import TextSpec
from jaxtts.text.symbols import RTVC
from jaxtts.weights import read_weights

TITLE = "synthesizer (Real-Time-Voice-Cloning)"


def recognises(values: Mapping[str, Any]) -> bool:
    """It has no configuration."""
    return False


def recognises_weights(names: Collection[str]) -> bool:
    """Whether tensors have its names."""
    return tacotron.is_rtvc(names)


def read(source: Source) -> Foreign:
    """Reads it.

    Raises:
        ValueError: damaged, or an embedding of another length than the model's.
    """
    weights = read_weights(source.file("synthesizer*.pt", "*.pt", "*.safetensors"))
    config = tacotron.rtvc_config_from(weights)
    if source.mel is not None:
        config = replace(config, mel=source.mel)
    tensors = flat(tacotron.convert(weights, config))
    names, table = _embeddings(source, config.speaker_dim)
    lacks = "the embedding of a speaker, a .npy file beside it"
    if names:
        config = replace(config, num_speakers=len(table))
        tensors["speaker_embedding"] = table
        lacks = "a vocoder, which turns its mels into sound: give one with --vocoder"
    text = TextSpec("characters", symbols=RTVC, eos="~", cleaner="english_cleaners")
    if config.num_symbols != len(RTVC):
        text, lacks = None, f"the list of its {config.num_symbols} symbols: the reference has {len(RTVC)}"
    return Foreign(TITLE, source.name, "tacotron", config, config.mel, text, names or ("default",), tensors,
                   missing=lacks)  # fmt: skip


def _embeddings(source: Source, size: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The speakers' names, and their embeddings [N, E], of a single one twice: one row would stand for none."""
    rows, names = [], []
    for path in sorted(source.folder.glob("*.npy")):
        row = np.ravel(np.load(path, allow_pickle=False)).astype(np.float32)
        if row.shape != (size,):
            raise ValueError(f"{path} holds {row.size} numbers: an embedding of this model has {size}")
        rows.append(row)
        names.append(path.stem.removeprefix("embed-"))
    if len(rows) == 1:
        rows, names = rows * 2, names * 2
    return tuple(names), np.array(rows, np.float32)
