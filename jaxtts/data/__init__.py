"""Corpora, their preparation and their batches. NumPy only: nothing here imports jax.

corpora   folders in the LJSpeech, VCTK and LibriTTS layouts -> utterances
check     what can be trained on, and why the rest cannot
builder   utterances -> records with features on disk
dataset   the prepared corpus
batches   records -> shuffled, bucketed batches
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtts.data.batches import Batches, Loader, bucket_shapes
    from jaxtts.data.builder import prepare
    from jaxtts.data.check import Limits, check_corpus
    from jaxtts.data.corpora import Utterance, read_corpus
    from jaxtts.data.dataset import Dataset

_HOMES = {
    "Batches": "batches", "Loader": "batches", "bucket_shapes": "batches", "prepare": "builder",
    "Limits": "check", "check_corpus": "check", "Utterance": "corpora", "read_corpus": "corpora", "Dataset": "dataset",
}  # fmt: skip
__all__ = [
    "Batches", "Dataset", "Limits", "Loader", "Utterance", "bucket_shapes", "check_corpus", "prepare", "read_corpus",
]  # fmt: skip


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"jaxtts.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxtts.data' has no attribute {name!r}")
