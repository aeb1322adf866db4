"""Phonemes from gruut (MIT, offline): tokeniser, numbers, dates, currency, lexicon and a model for unknown words.

Two things differ from `gruut.sentences`. The lexicon is read by our own `Lexicon`: gruut's database has no index, so
each of its lookups scans all 129,000 rows (4 ms); ours asks for all the words of a text in one scan. And words that
gruut would leave silent (no lexicon entry and nothing from its model) are spelled out.
"""

import logging
import re
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxtts.text.frontend import Sentence, Word, assemble
from jaxtts.text.symbols import PUNCTUATION

CHUNK = 1000  # characters handed to gruut at once: its time grows faster than the text


class Lexicon:
    """Pronunciations of words, read from gruut's database on demand, many at once."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self._known: dict[str, dict[str, list[str]]] = {}

    def fetch(self, words: Iterable[str]) -> None:
        """Reads the entries of the words that are not known yet, in one scan."""
        new = list({w for w in words if w not in self._known})
        query = "SELECT word, role, phonemes FROM word_phonemes WHERE word IN (%s) ORDER BY pron_order"
        for start in range(0, len(new), 900):
            part = new[start:start + 900]
            self._known.update((w, {}) for w in part)
            for word, role, phonemes in self._database.execute(query % ",".join("?" * len(part)), part):
                self._known[word].setdefault(role, phonemes.split())

    def __call__(self, word: str, role: str | None = None, do_transforms: bool = True) -> list[str] | None:
        """Phonemes of a word in a role (part of speech), as gruut's own lookup finds them."""
        forms = spellings(word) if do_transforms else [word]
        if any(form not in self._known for form in forms):
            self.fetch(forms)
        roles = next((self._known[form] for form in forms if self._known[form]), None)
        if roles is None:
            return None
        return roles.get(role or "") or roles.get("") or next(iter(roles.values()))


def spellings(word: str) -> list[str]:
    """The forms under which a word is looked up, most exact first."""
    letters = re.sub(r"\W+", "", word)
    return list(dict.fromkeys(f for f in (word, word.lower(), letters, letters.lower()) if f))


class Phonemizer:
    """Clean text to sentences of phonemes."""

    def __init__(self, language: str = "en-us"):
        try:
            from gruut.lang import get_settings
            from gruut.text_processor import TextProcessor
            from gruut.utils import find_lang_dir, resolve_lang
        except ImportError as error:
            raise ValueError("the front end 'gruut' needs the package gruut: pip install 'gruut[en]'") from error
        logging.getLogger("gruut").addHandler(logging.NullHandler())  # it logs tracebacks of numbers it cannot read
        self.language = resolve_lang(language)
        folder = find_lang_dir(self.language)
        if folder is None or not (Path(folder) / "lexicon.db").is_file():
            raise ValueError(f"gruut has no data for language {language!r}: pip install 'gruut[{language[:2]}]'")
        self.lexicon = Lexicon(Path(folder) / "lexicon.db")
        settings = get_settings(self.language, lang_dir=folder, lookup_phonemes=self.lexicon)
        self._model = settings.guess_phonemes
        settings.guess_phonemes = self.guess
        self._processor = TextProcessor(default_lang=self.language, settings={self.language: settings})
        self._lock = threading.Lock()

    def __call__(self, text: str, ssml: bool = False) -> Iterable[Sentence]:
        with self._lock:
            words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text)
            self.lexicon.fetch(form for word in set(words) for form in spellings(word))
            result: list[Sentence] = []
            for chunk in [text] if ssml else chunks(text):
                for sentence in self._sentences(chunk, ssml):
                    result += assemble(self._words(sentence))
            return result

    def guess(self, word: str, role: str | None = None) -> list[str]:
        """Phonemes of a word outside the lexicon; letters and digits that the model cannot read are spelled out."""
        from num2words import num2words

        phonemes: list[str] = []
        for part in re.findall(r"\d|[^\W\d_']+(?:'[^\W\d_]+)*", word):
            if part.isdigit():
                part = num2words(int(part), lang=self.language[:2])
            known = self.lexicon(part)
            if not known and re.search("[aeiouy]", part.lower()) or not part.isascii():
                known = list(self._model(part)) if self._model else []
            if not known:
                known = [p for letter in part.lower() for p in self.lexicon(letter, "gruut:letter") or ()]
            phonemes += known
        return phonemes

    def _sentences(self, text: str, ssml: bool) -> list[Any]:
        try:
            return list(self._processor.sentences(*self._processor(text, lang=self.language, ssml=ssml)))
        except Exception as error:  # gruut raises whatever its number and date libraries raise
            if ssml:
                raise ValueError(f"cannot read the SSML: {type(error).__name__} {error}") from error
            if len(text.split()) > 1:
                return [s for word in text.split() for s in self._sentences(word, ssml)]
            return self._sentences(" ".join(re.findall(r"\d|[^\W\d_]+", text)), ssml) if not text.isalnum() else []

    @staticmethod
    def _words(sentence: Any) -> list[Word]:
        words: list[Word] = []
        for word in sentence.words:
            mark = (word.text.strip()[:1] if not word.text.startswith("..") else ",")
            if (word.is_major_break or word.is_minor_break) and mark in PUNCTUATION and words:
                words[-1] = words[-1]._replace(mark=mark)
            elif word.is_spoken and word.phonemes:
                words.append(Word(word.text, tuple(word.phonemes)))
            if word.pause_after_ms and words:
                words[-1] = words[-1]._replace(pause=words[-1].pause + word.pause_after_ms / 1000)
        if sentence.pause_after_ms and words:
            words[-1] = words[-1]._replace(pause=words[-1].pause + sentence.pause_after_ms / 1000)
        return words


def chunks(text: str) -> Iterable[str]:
    """Cuts long text for gruut: at paragraphs, then behind sentences, then at spaces, then anywhere."""
    for paragraph in text.split("\n\n"):
        while len(paragraph) > CHUNK:
            window = paragraph[:CHUNK]
            ends = [m.end() for m in re.finditer(r"[a-z]{4}[.?!]['\")]*\s", window)]
            cut = ends[-1] if ends else window.rfind(" ") + 1 or CHUNK
            yield paragraph[:cut].strip()
            paragraph = paragraph[cut:]
        if paragraph.strip():
            yield paragraph.strip()
