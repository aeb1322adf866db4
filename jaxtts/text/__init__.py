"""Text to symbol identities: normalise, phonemise, encode.

front_end = build(TextSpec())                      # gruut, American English, 52 symbols
for sentence in front_end.sentences('Hello, world!'):
    ids = front_end.encode(sentence.tokens)        # [S] int32
"""

from jaxtts.text.frontend import FrontEnd, Sentence, TextSpec, build, split_long
from jaxtts.text.symbols import GLOW_TTS, GRUUT_EN_US, VITS, symbols_from_coqui

__all__ = [
    "GLOW_TTS",
    "GRUUT_EN_US",
    "VITS",
    "FrontEnd",
    "Sentence",
    "TextSpec",
    "build",
    "split_long",
    "symbols_from_coqui",
]
