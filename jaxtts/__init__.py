"""jaxtts: neural text-to-speech in JAX.

    voice = jaxtts.load()
    audio = voice.synthesize("Hello.")
    audio.save("hello.wav")

Importing this package imports nothing heavy: each name below loads its module on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtts.synth import Audio, Voice, load, synthesize

__version__ = "0.1.0"
__all__ = ["Audio", "Voice", "load", "synthesize"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(import_module("jaxtts.synth"), name)
    raise AttributeError(f"module 'jaxtts' has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
