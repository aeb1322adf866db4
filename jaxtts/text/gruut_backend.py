"""Phonemes from gruut (MIT, offline): tokeniser, numbers, dates, currency, lexicon and a model for unknown words.

What differs from `gruut.sentences`, and why:

- The lexicon is read by our own `Lexicon`. gruut's database has no index, so each of its lookups scans all 129,000
  rows (4 ms); ours asks for all the words of a text in one scan.
- A sentence of plain words that the lexicon knows in one pronunciation needs no more than the lexicon. `plain` speaks
  it without importing gruut, which takes 0.35 s; everything else (numbers, abbreviations, homographs, unknown words)
  goes to gruut. Both ways give the same tokens.
- Words that gruut would leave silent (`1.2.3.4`, `hmm`) are spelled out.
"""

import importlib.util
import logging
import re
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxtts.text.frontend import Sentence, Word, assemble
from jaxtts.text.ssml import Document
from jaxtts.text.symbols import EN_US_CONSONANTS, EN_US_VOWELS, PUNCTUATION, TERMINAL

FULL_LOAD = 25  # reading the whole lexicon takes as long as this many scans
LONGEST = 500  # characters handed to gruut at once: its time grows faster than the text
_ABBREVIATIONS = {"co", "dr", "drs", "jr", "ltd", "mr", "ms", "mrs", "st", "vs", "mt"}
_PHONEME = re.compile("|".join([*(p for p in EN_US_VOWELS + EN_US_CONSONANTS if len(p) > 1), "."]))
_PLAIN_WORD = re.compile(r"([A-Za-z][a-z]*(?:'[a-z]+)?)([.?!,;:]?)")


class Lexicon:
    """Pronunciations of words, read from gruut's database on demand, many at once."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self._known: dict[str, dict[str, str]] = {}
        self._scans = 0

    def fetch(self, words: Iterable[str]) -> None:
        """Reads the entries of the words that are not known yet, in one scan."""
        new = list({w for w in words if w not in self._known})
        query = "SELECT word, role, phonemes FROM word_phonemes %s ORDER BY pron_order"
        for part in (new[i : i + 900] for i in range(0, len(new), 900)):
            self._known.update((w, {}) for w in part)
            if self._scans > FULL_LOAD:
                continue
            self._scans += 1
            if self._scans > FULL_LOAD:
                self._known = {w: {} for w in part}
                rows = self._database.execute(query % "")
            else:
                rows = self._database.execute(query % f"WHERE word IN ({','.join('?' * len(part))})", part)
            for word, role, phonemes in rows:
                self._known.setdefault(word, {}).setdefault(role, phonemes)

    def roles(self, word: str, transform: bool = True) -> dict[str, str]:
        """Pronunciations of a word by role (part of speech), most usual first; empty for an unknown word."""
        forms = spellings(word) if transform else [word]
        if any(form not in self._known for form in forms):
            self.fetch(forms)
        return next((self._known[form] for form in forms if self._known.get(form)), {})

    def __call__(self, word: str, role: str | None = None, do_transforms: bool = True) -> list[str] | None:
        """Phonemes of a word in a role, as gruut's own lookup finds them."""
        roles = self.roles(word, do_transforms)
        return (roles.get(role or "") or roles.get("") or next(iter(roles.values()))).split() if roles else None


def spellings(word: str) -> list[str]:
    """The forms under which a word is looked up, most exact first."""
    letters = re.sub(r"\W+", "", word)
    return list(dict.fromkeys(f for f in (word, word.lower(), letters, letters.lower()) if f))


class Phonemizer:
    """Clean text to sentences of phonemes."""

    def __init__(self, language: str = "en-us"):
        module = f"gruut_lang_{language[:2].lower()}"
        if not importlib.util.find_spec("gruut") or not importlib.util.find_spec(module):
            raise ValueError(
                f"the front end 'gruut' needs its data for {language!r}: pip install 'gruut[{language[:2].lower()}]'"
            )
        self.language = language
        self._folder = Path(importlib.import_module(module).get_lang_dir())
        self.lexicon = Lexicon(self._folder / "lexicon.db")
        self._loaded: Any = None
        self._model: Any = None
        self._lock = threading.Lock()

    def __call__(self, text: str | Document) -> Iterable[Sentence]:
        if isinstance(text, Document):
            yield from self._marked_up(text)
            return
        waiting = list(pieces(text))
        sentences: list[list[Word]] = [[]]
        at_once = 1  # pieces: the first one quickly, the others in fewer and fewer scans of the lexicon
        while waiting:
            group, waiting = waiting[:at_once], waiting[at_once:]
            at_once *= 8
            with self._lock:
                self._fetch(" ".join(piece for piece, _ in group))
            for piece, whole in group:
                with self._lock:
                    spoken = self.plain(piece)
                    for found in self._by_gruut(piece) if spoken is None else spoken:
                        sentences[-1].extend(found)
                        sentences.append([])
                if not whole and len(sentences) > 1 and sentences[-2][-1].mark not in TERMINAL:
                    sentences.pop()  # the sentence goes on in the next piece
                for done in sentences[:-1]:
                    yield from assemble(done)
                del sentences[:-1]
        yield from assemble(sentences[-1])

    def _fetch(self, text: str) -> None:
        words = set(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text))
        self.lexicon.fetch(form for word in words for form in spellings(word))

    def _marked_up(self, document: Document) -> Iterable[Sentence]:
        """Sentences of SSML: between words of different runs lie the breaks between the runs."""
        with self._lock:
            self._fetch(document.plain)
            found = self._by_gruut(document.xml, ssml=True)
        runs = [[document.runs[int(word.rate)] for word in words] for words in found]
        order = [run for sentence in runs for run in sentence] + document.runs[-1:]
        if len(order) > 1 and order[0].pause:
            yield Sentence("", [], order[0].pause)
        later = iter(order[1:])
        for words, own in zip(found, runs):
            pauses = [next(later).pause - run.pause for run in own]
            yield from assemble(w._replace(rate=r.rate, pause=p) for w, r, p in zip(words, own, pauses))

    def plain(self, text: str) -> list[list[Word]] | None:
        """Words of each sentence by the lexicon alone, or None if that may differ from what gruut says."""
        if not self.language.lower().startswith("en"):
            return None
        sentences: list[list[Word]] = [[]]
        for token in re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text).split():
            match = _PLAIN_WORD.fullmatch(token)
            if not match or len(match[1]) == 1 and token not in ("a", "A", "I"):
                return None
            word, mark = match[1], match[2]
            roles = self.lexicon.roles(word)
            spoken = {p for role, p in roles.items() if role != "gruut:letter"}
            if len(spoken) != 1 or word.lower() in _ABBREVIATIONS:
                return None
            sentences[-1].append(Word(word, tuple(spoken.pop().split()), mark))
            if mark in TERMINAL:
                sentences.append([])
        return [words for words in sentences if words]

    @property
    def _processor(self) -> Any:
        if self._loaded is None:
            from gruut.lang import get_settings
            from gruut.text_processor import TextProcessor
            from gruut.utils import resolve_lang

            logging.getLogger("gruut").addHandler(logging.NullHandler())  # it logs tracebacks of odd numbers
            name = resolve_lang(self.language)
            settings: Any = get_settings(name, lang_dir=self._folder, lookup_phonemes=self.lexicon)
            self._model, settings.guess_phonemes = settings.guess_phonemes, self.guess
            self._loaded = TextProcessor(default_lang=name, settings={name: settings})
        return self._loaded

    def guess(self, word: str, role: str | None = None) -> list[str]:
        """Phonemes of a word outside the lexicon; letters and digits that the model cannot read are spelled out."""
        from num2words import num2words

        phonemes: list[str] = []
        for part in re.findall(r"\d|[^\W\d_']+(?:'[^\W\d_]+)*", word):
            if part.isdigit():
                part = num2words(int(part), lang=self.language[:2])
            known = self.lexicon(part)
            if not known and len(part) <= 50 and (re.search("[aeiouy]", part.lower()) or not part.isascii()):
                known = list(self._model(part)) if self._model else []
            if not known:
                known = [p for letter in part for p in self.lexicon(letter, "gruut:letter") or ()]
            phonemes += known
        return phonemes

    def _by_gruut(self, text: str, ssml: bool = False) -> list[list[Word]]:
        """Words of each sentence as gruut reads it; what it fails on is given to it in smaller parts.

        With SSML the rate of a word is the name of its `voice`, a number.
        """
        try:
            graph, root = self._processor(text, ssml=ssml)
            if ssml:
                _hand_down_voices(graph, root)
            sentences = list(self._processor.sentences(graph, root))
        except Exception as error:  # gruut lets through whatever its number and date libraries raise
            if ssml:
                raise ValueError(f"cannot read the SSML: {type(error).__name__} {error}") from error
            parts = text.split() if len(text.split()) > 1 else re.findall(r"\d|[^\W\d_]+", text)
            return [words for part in parts if part != text for words in self._by_gruut(part)]
        return [words for words in map(self._words, sentences) if words]

    @staticmethod
    def _words(sentence: Any) -> list[Word]:
        words: list[Word] = []
        for word in sentence.words:
            mark = word.text.strip()[:1] if not word.text.startswith("..") else ","
            if (word.is_major_break or word.is_minor_break) and mark in PUNCTUATION and words:
                words[-1] = words[-1]._replace(mark=mark)
            elif word.is_spoken and word.phonemes:
                phonemes = word.phonemes
                if all(len(p.rstrip("͡")) <= 1 for p in phonemes):  # SSML's `ph`, which gruut takes to pieces
                    phonemes = _PHONEME.findall("".join(phonemes))
                words.append(Word(word.text, tuple(phonemes), rate=float(word.voice or 1)))
        return words


def _hand_down_voices(graph: Any, root: Any) -> None:
    """Gives the words that gruut wrote a number or a date out in the voice of that number or date."""
    below = [root.node]
    while below:
        parent = below.pop()
        for child in graph.successors(parent):
            node = graph.nodes[child]["data"]
            node.voice = getattr(node, "voice", "") or getattr(graph.nodes[parent]["data"], "voice", "")
            below.append(child)


def pieces(text: str) -> Iterable[tuple[str, bool]]:
    """Cuts a text where a sentence surely ends; what gruut bears no longer at a comma, a space, or anywhere.

    Yields:
        A piece, and whether a sentence ends with it.
    """
    for piece in re.split(r"\n\n|(?<=[a-z]{3}[.?!])\s+", text):
        while len(piece) > LONGEST:
            cut = piece.rfind(", ", 0, LONGEST) + 1 or piece.rfind(" ", 0, LONGEST) + 1 or LONGEST
            yield piece[:cut].strip(), False
            piece = piece[cut:].strip()
        if piece:
            yield piece, True
