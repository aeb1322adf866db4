"""Phonemes from espeak-ng (GPL, the extra `espeak`), one token per character as in VITS and Coqui.

Matches `phonemizer.phonemize(backend='espeak', preserve_punctuation=True, with_stress=True)`. The library and its
data come from the package espeakng-loader, so no program has to be installed.
"""

from collections.abc import Iterable

from jaxtts.text.frontend import Sentence, split_sentences


class Phonemizer:
    """Clean text to sentences of IPA characters."""

    def __init__(self, language: str = "en-us"):
        try:
            import espeakng_loader  # pyright: ignore[reportMissingImports]
            from phonemizer.backend import EspeakBackend  # pyright: ignore[reportMissingImports]
            from phonemizer.backend.espeak.wrapper import EspeakWrapper  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError("the front end 'espeak' needs espeak-ng: pip install \"jaxtts[espeak]\"") from error
        EspeakWrapper.set_library(espeakng_loader.get_library_path())
        EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
        if not EspeakBackend.is_supported_language(language):
            raise ValueError(f"espeak-ng has no language {language!r}: see `espeak-ng --voices`")
        self._backend = EspeakBackend(
            language, preserve_punctuation=True, with_stress=True, language_switch="remove-flags"
        )

    def phonemes(self, sentence: str) -> str:
        """The IPA of one sentence, punctuation kept."""
        return self._backend.phonemize([sentence], strip=True)[0]

    def __call__(self, text: str) -> Iterable[Sentence]:
        sentences = split_sentences(text)
        for sentence, phonemes in zip(sentences, self._backend.phonemize(sentences, strip=True), strict=True):
            yield Sentence(sentence, list(phonemes))
