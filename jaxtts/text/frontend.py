"""The front end: a text becomes sentences, a sentence becomes tokens, tokens become identities.

Token design of the phoneme front ends `gruut` and `arpabet`: every phoneme is a token; a stress mark is a token of
its own ahead of its vowel; a space stands between words; `. ? ! , ; :` stay, since prosody hangs on them; every
sentence ends in `.`, `?` or `!`. The `espeak` and `characters` front ends have one token per character.

A spec with a `cleaner` belongs to a model of another toolkit: the text goes through that toolkit's own steps, sentence
by sentence, and each character of what comes out is a token.

Unknown symbols: `FrontEnd.encode` refuses them by name. `FrontEnd.sentences` cuts unspeakable characters out with a
warning that names each (`strict=True`, for corpora: refuses them); a text with nothing to speak is a ValueError.
"""

import dataclasses
import functools
import importlib
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from xml.etree import ElementTree

import numpy as np

from jaxtts.text import cleaners, ssml
from jaxtts.text.normalise import normalise
from jaxtts.text.ssml import Document
from jaxtts.text.symbols import CHARACTERS, GLOW_TTS, GRUUT_EN_US, IPA_TO_ARPABET, SPACE, STRESS, TERMINAL, VITS

DEFAULT_SYMBOLS = {"gruut": GRUUT_EN_US, "arpabet": GLOW_TTS, "espeak": VITS, "characters": CHARACTERS}


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """How a model wants its text; stored with the checkpoint.

    Attributes:
        frontend: `gruut`, `arpabet` (gruut's phonemes in the Glow-TTS inventory), `espeak` or `characters`.
        language: language of the text, `en-us`.
        symbols: the inventory in the order of the embedding table; empty takes the front end's own. Of a symbol
            that stands twice the last place counts, as in the reference implementations.
        blank: symbol put between, before and after all tokens (Glow-TTS and VITS, `intersperse`), or None.
        bos: symbol put first, or None.
        eos: symbol put last, or None.
        lowercase: characters front end: lower-case the text.
        cleaner: whose text processing, see text/cleaners.py; empty for our own.
        romanise: with the cleaner `hugging_face`: put other scripts in Latin letters.
        unknown: with a cleaner: the symbol that stands for what the inventory lacks; None leaves it out.
        pad: with a cleaner: a symbol that ends a run of blanks: there is none between two of it, or it and an end.
    """

    frontend: str = "gruut"
    language: str = "en-us"
    symbols: tuple[str, ...] = ()
    blank: str | None = None
    bos: str | None = None
    eos: str | None = None
    lowercase: bool = False
    cleaner: str = ""
    romanise: bool = False
    unknown: str | None = None
    pad: str | None = None

    def __post_init__(self) -> None:
        if self.frontend not in DEFAULT_SYMBOLS:
            raise ValueError(f"frontend is {self.frontend!r}: take one of {', '.join(DEFAULT_SYMBOLS)}")
        object.__setattr__(self, "symbols", tuple(self.symbols) or DEFAULT_SYMBOLS[self.frontend])
        if self.cleaner not in cleaners.CLEANERS:
            raise ValueError(f"cleaner is {self.cleaner!r}: take one of {', '.join(cleaners.CLEANERS)}")
        if self.cleaner and self.frontend not in ("espeak", "characters"):
            raise ValueError(f"cleaner={self.cleaner!r} goes with the front ends espeak and characters alone")
        for name in ("blank", "bos", "eos", "unknown", "pad"):
            symbol = getattr(self, name)
            if symbol is not None and symbol not in self.symbols:
                raise ValueError(f"{name} is {symbol!r}, which is not among the {len(self.symbols)} symbols: add it")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self) | {"symbols": list(self.symbols)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TextSpec":
        """Inverse of `to_dict`. Raises ValueError on a field it does not know."""
        if unknown := set(fields) - {f.name for f in dataclasses.fields(cls)}:
            raise ValueError(f"text spec has unknown fields {sorted(unknown)}: it was written by a newer version")
        return cls(**{**fields, "symbols": tuple(fields.get("symbols", ()))})


class Word(NamedTuple):
    """A spoken word: its spelling, its phonemes, the punctuation and the pause in seconds behind it, its rate."""

    text: str
    phonemes: tuple[str, ...]
    mark: str = ""
    pause: float = 0.0
    rate: float = 1.0


class Sentence(NamedTuple):
    """A sentence ready to encode.

    Attributes:
        text: the words as spoken, numbers and abbreviations written out.
        tokens: symbols of the inventory; none for a pause ahead of the first sentence.
        pause: seconds of silence asked for behind it (SSML `<break>`), in place of the voice's own; 0: none asked for.
        rates: how fast each token is to be spoken (SSML `<prosody>`), 1 being as usual; empty: all as usual.
    """

    text: str
    tokens: list[str]
    pause: float = 0.0
    rates: Sequence[float] = ()


class Backend(Protocol):
    """What a front end needs: clean text (gruut's: or SSML that has been read) to sentences."""

    def __call__(self, text: Any) -> Iterable[Sentence]: ...


def build(spec: TextSpec) -> "FrontEnd":
    """Builds the front end that a `TextSpec` describes; libraries are loaded at the first sentence."""
    return FrontEnd(spec)


class FrontEnd:
    """Text to identities, as `spec` says."""

    def __init__(self, spec: TextSpec):
        self.spec = spec
        self._ids = {symbol: i for i, symbol in enumerate(spec.symbols)}
        self._loaded: Backend | None = None

    @property
    def _backend(self) -> Backend:
        if self._loaded is None:
            phonemizer = None
            if self.spec.frontend != "characters":
                name = "espeak" if self.spec.frontend == "espeak" else "gruut"
                phonemizer = importlib.import_module(f"jaxtts.text.{name}_backend").Phonemizer(self.spec.language)
            if self.spec.cleaner:
                self._loaded = functools.partial(_foreign, self.spec, phonemizer)
            else:
                self._loaded = phonemizer or _characters
        assert self._loaded is not None
        return self._loaded

    def load(self) -> "FrontEnd":
        """Loads the libraries now rather than at the first sentence. Raises ValueError if one is not installed."""
        _ = self._backend
        return self

    def sentences(self, text: str, strict: bool = False) -> list[Sentence]:
        """Splits a text into sentences of tokens.

        Args:
            text: plain text, or SSML if it begins with `<speak`.
            strict: refuse unspeakable characters instead of leaving them out with a warning.

        Returns:
            At least one sentence.

        Raises:
            ValueError: nothing to speak, broken SSML, or (strict) unspeakable characters.
        """
        return list(self.read(text, strict))

    def read(self, text: str, strict: bool = False) -> Iterator[Sentence]:
        """Like `sentences`, one by one: what is plain text is phonemised no further than it is asked for."""
        marked_up = re.match(r"\s*<speak[\s/>]", text) is not None
        clean, unknown = (self._clean_ssml if marked_up else self._clean)(text)
        if unknown:
            _complain(unknown, text, strict)
        return self._speakable(clean, text, strict)

    def _speakable(self, clean: str | Document, text: str, strict: bool) -> Iterator[Sentence]:
        found = False
        for sentence in self._backend(clean) if clean else ():
            if self.spec.cleaner:
                sentence = self._known(sentence, strict)
            if self.spec.frontend == "arpabet":
                sentence = _to_arpabet(sentence)
            if any(t[-1].isalnum() for t in sentence.tokens):
                found = True
                yield sentence
            elif sentence.pause:
                yield Sentence("", [], sentence.pause)
        if not found:
            raise ValueError(f"nothing to speak in {_excerpt(text)}: give a text with words or numbers")

    def _known(self, sentence: Sentence, strict: bool) -> Sentence:
        """Leaves out, or replaces, what the inventory lacks: spaces and punctuation in silence, all else by name."""
        lost = [t for t in dict.fromkeys(sentence.tokens) if t not in self._ids]
        if named := [t for t in lost if not t.isspace() and unicodedata.category(t)[0] != "P"]:
            _complain(named, sentence.text, strict)
        other = self.spec.unknown
        if other is not None:
            tokens = [t if t in self._ids else other for t in sentence.tokens]
        else:
            tokens = [t for t in sentence.tokens if t in self._ids]
        if self.spec.cleaner == "hugging_face" and other is None:  # it strips what is left, the others do not
            tokens = list("".join(tokens).strip())
        return sentence._replace(tokens=tokens)

    def phonemize(self, text: str, strict: bool = False) -> list[list[str]]:
        """The tokens of each sentence of a text; see `sentences`."""
        return [s.tokens for s in self.sentences(text, strict)]

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Tokens to identities, blanks and ends added as the spec says.

        Returns:
            ids [S] int32.

        Raises:
            ValueError: tokens outside the inventory, all listed with their places.
        """
        if unknown := [(i, t) for i, t in enumerate(tokens) if t not in self._ids]:
            places = ", ".join(f"{t!r} at {i}" for i, t in unknown[:20])
            raise ValueError(
                f"symbols {places} are not among the {len(self._ids)} of this model: "
                f"give text in {self.spec.language!r} or a model that has them"
            )
        ids = [self._ids[t] for t in tokens]
        if self.spec.blank is not None:
            ids, inner = [self._ids[self.spec.blank]] * (2 * len(ids) + 1), ids
            ids[1::2] = inner
            ids = np.array(ids)[self._kept(tokens)].tolist()
        ends = [[] if s is None else [self._ids[s]] for s in (self.spec.bos, self.spec.eos)]
        return np.array(ends[0] + ids + ends[1], np.int32)

    def places(self, tokens: int | Sequence[str]) -> np.ndarray:
        """Which token each identity of `encode` belongs to, int32 [S].

        A blank belongs to the token before it; -1 stands before the first token and their number behind the last.

        Args:
            tokens: what `encode` was given; their number will do where `spec.pad` is None.
        """
        count = tokens if isinstance(tokens, int) else len(tokens)
        places = np.repeat(np.arange(-1, count), 2)[1:] if self.spec.blank is not None else np.arange(count)
        if self.spec.blank is not None and not isinstance(tokens, int):
            places = places[self._kept(tokens)]
        ends = [[] if s is None else [p] for s, p in ((self.spec.bos, -1), (self.spec.eos, count))]
        return np.array([*ends[0], *places, *ends[1]], np.int32)

    def _kept(self, tokens: Sequence[str]) -> np.ndarray:
        """Which of blank, token, blank ... blank are put down, bool [2 * count + 1]."""
        kept = np.ones(2 * len(tokens) + 1, bool)
        if self.spec.pad is not None and tokens:
            bare = np.array([True, *(t == self.spec.pad for t in tokens), True])
            kept[::2] = ~(bare[1:] & bare[:-1])
        return kept

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Identities to tokens, without blanks and ends."""
        extra = {self.spec.blank, self.spec.bos, self.spec.eos}
        return [s for s in (self.spec.symbols[int(i)] for i in ids) if s not in extra]

    def _clean(self, text: str) -> tuple[str, list[str]]:
        """Normalised text and the characters cut out; marks that the inventory lacks go in silence."""
        if self.spec.cleaner:  # its turn comes sentence by sentence
            return text, []
        phonemes = self.spec.frontend in ("gruut", "arpabet")
        clean, unknown = normalise(text, self.spec.language, write_out=phonemes)
        if phonemes:
            return clean, unknown
        characters = self.spec.frontend == "characters"
        clean = clean.lower() if characters and self.spec.lowercase else clean
        missing = {
            c
            for c in clean
            if c not in self._ids
            and c not in ("\n" if characters else "\n' ")
            and (characters or unicodedata.category(c)[0] == "P")
        }
        unknown += [c for c in dict.fromkeys(clean) if c in missing and unicodedata.category(c)[0] != "P"]
        clean = re.sub(r" +(?=[ ,;:.?!])", "", clean.translate({ord(c): " " for c in missing}))
        return clean if any(map(str.isalnum, clean)) else "", unknown

    def _clean_ssml(self, text: str) -> tuple[str | Document, list[str]]:
        """Checks the elements of SSML and cleans the text between them."""
        unknown: dict[str, None] = {}

        def clean(part: str) -> str:
            spoken, missing = self._clean(part)
            unknown.update(dict.fromkeys(missing))
            return spoken

        try:
            document = ssml.read(text.strip(), self.spec.language, clean)
        except ElementTree.ParseError as error:
            raise ValueError(f"broken SSML in {_excerpt(text)}: {error}") from error
        plain = document.plain.strip()
        if self.spec.frontend in ("gruut", "arpabet"):
            return document if plain else "", list(unknown)
        if found := set(re.findall(r"<(\w[\w-]*)", text)) - {"speak", "p", "s"}:
            raise ValueError(f"SSML element <{min(found)}> needs the front end 'gruut', not {self.spec.frontend!r}")
        return plain, list(unknown)


def _characters(text: str) -> Iterable[Sentence]:
    """The front end that needs nothing: a token is a character."""
    return [Sentence(sentence, list(sentence)) for sentence in split_sentences(text)]


def _foreign(spec: TextSpec, phonemizer: Any, text: str) -> Iterator[Sentence]:
    """The front end of another toolkit's model, as `spec.cleaner` and `spec.frontend` say."""
    for sentence in split_sentences(text, keep=True):
        clean = cleaners.clean(sentence, spec)
        if phonemizer is not None:
            clean = cleaners.finish(" ".join(phonemizer.phonemes(clean).split()), spec)
        yield Sentence(sentence, list(clean))


def _complain(unknown: Sequence[str], text: str, strict: bool) -> None:
    """Names what cannot be spoken, in a warning or (strict) a ValueError."""
    names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:20]) + (" ..." if len(unknown) > 20 else "")
    if strict:
        raise ValueError(f"cannot speak {names} in {_excerpt(text)}: remove or replace them")
    warnings.warn(f"left out what cannot be spoken: {names}", stacklevel=4)


_SENTENCE_END = re.compile(
    r"(?:[?!]|(?<!\b[A-Z])(?<!\b[DMS]r)(?<!\bMrs)(?<!\bMs)(?<!\b[MS]t)(?<!\bvs)\.)['\")]*\s+"
    r"|\n\s*\n",
    re.IGNORECASE,
)


def split_sentences(text: str, keep: bool = False) -> list[str]:
    """Cuts a text behind `.`, `?` or `!` (with closing quotes; not behind titles and initials) and at empty lines.

    Args:
        keep: leave spaces within a line as many as they are.
    """
    ends = [0, *(m.end() for m in _SENTENCE_END.finditer(text)), len(text)]
    parts = (text[i:j] for i, j in zip(ends, ends[1:], strict=False))
    sentences = (re.sub(r"\s*[^\S ]\s*", " ", p).strip() if keep else " ".join(p.split()) for p in parts)
    return [s for s in sentences if any(map(str.isalnum, s))]


def assemble(words: Iterable[Word]) -> Iterable[Sentence]:
    """Words to sentences: stress marks split off, spaces between, a full stop where no mark ends it."""
    words = list(words)
    while words:
        cut = next((i + 1 for i, w in enumerate(words) if w.pause), len(words))
        head, words = words[:cut], words[cut:]
        tokens: list[str] = []
        rates: list[float] = []
        for word in head:
            tokens += [SPACE] if tokens else []
            for phoneme in word.phonemes:
                tokens += [p for p in (phoneme[:1], phoneme[1:]) if p] if phoneme[:1] in STRESS else [phoneme]
            tokens += [word.mark] if word.mark else []
            rates += [word.rate] * (len(tokens) - len(rates))
        if tokens and tokens[-1] not in TERMINAL:
            tokens = tokens[:-1] if tokens[-1] in (",", ";", ":") else tokens
            tokens.append(".")
            rates = [*rates, head[-1].rate][: len(tokens)]
        as_usual = all(rate == 1 for rate in rates)
        text = " ".join("\u00a0".join(w.text.split()) + w.mark for w in head)  # as many words as spaces separate
        yield Sentence(text, tokens, head[-1].pause, () if as_usual else rates)


def split_long(tokens: Sequence[str], max_tokens: int) -> list[list[str]]:
    """Cuts tokens into pieces of at most `max_tokens`: behind a comma if there is one, else at a word, else anywhere.

    Nothing but the space at a cut is left out. Blanks and ends, which `encode` adds, are not counted.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}: take at least 1")
    tokens, pieces = list(tokens), []
    while len(tokens) > max_tokens:
        window = tokens[: max_tokens + 1]
        marks = [i + 1 for i, t in enumerate(window[:-1]) if t in (",", ";", ":", *TERMINAL) and i >= max_tokens // 3]
        spaces = [i for i, t in enumerate(window) if t == SPACE and i]
        cut = (marks or spaces or [max_tokens])[-1]
        pieces.append(tokens[:cut])
        tokens = tokens[cut + 1 :] if tokens[cut] == SPACE else tokens[cut:]
    return [*pieces, tokens] if tokens else pieces


def _to_arpabet(sentence: Sentence) -> Sentence:
    """gruut's tokens to Glow-TTS's: `@` and an ARPAbet symbol, stress as a digit behind the vowel."""
    result, stress = [], "0"
    for token in sentence.tokens:
        if token in STRESS:
            stress = str(1 + STRESS.index(token))
        elif token in IPA_TO_ARPABET:
            symbol = IPA_TO_ARPABET[token]
            vowel = symbol[0] in "AEIOU"
            result.append("@" + symbol + (stress if vowel else ""))
            stress = "0" if vowel else stress
        else:
            result.append(token)
    rates = [rate for token, rate in zip(sentence.tokens, sentence.rates) if token not in STRESS]
    return sentence._replace(tokens=result, rates=rates)


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
