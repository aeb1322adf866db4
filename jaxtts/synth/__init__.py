"""The voice: text in, sound out.

voice = load()                                  # the embedded voice; load("path/to/voice") for another
voice.synthesize("Hello.").save("hello.wav")
voice.synthesize(["One.", "Two."], length_scale=1.2, seed=1)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtts.synth.folder import write_voice
    from jaxtts.synth.vocode import Vocoder
    from jaxtts.synth.voice import Audio, Segment, Voice, load, synthesize

_MODULE_OF = {name: "voice" for name in ("Audio", "Segment", "Voice", "load", "synthesize")} | {
    "Vocoder": "vocode",
    "write_voice": "folder",
}
__all__ = ["Audio", "Segment", "Vocoder", "Voice", "load", "synthesize", "write_voice"]


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
