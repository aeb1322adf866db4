"""What other toolkits do to a text ahead of their symbols, by the name that a `TextSpec` keeps.

`''` is our own (`normalise`); each other one is a reference's, so that an imported model reads what it was taught:

- `hugging_face`: VitsTokenizer of transformers.
- `english_cleaners2`, `basic_cleaners`: jaywalnut310/vits; accents are folded by Unicode's tables, not by unidecode.
- `english_cleaners`: keithito/tacotron, NVIDIA/tacotron2, Real-Time-Voice-Cloning; accents and numbers as above and
  below.
- `piper`: code points decomposed (NFD); letters in lower case.
- `coqui_*`: `text_cleaner` of coqui-tts 0.28.

Differences: a line's end becomes a space everywhere (some references glue the words together), and spaces around a
sentence go; times of day are read as two numbers where Coqui has 'half past'.
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtts.text.frontend import TextSpec

_ABBREVIATIONS = {
    "mrs": "misess", "mr": "mister", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "maj": "major",
    "gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant",
    "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort",
}  # fmt: skip
_AND = {"en": " and ", "fr": " et ", "it": " e ", "pt": " e ", "ca": " i "}
_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i",
                          "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "..."})  # fmt: skip
_STEPS = {
    "no_cleaners": "",
    "basic_cleaners": "lower space",
    "transliteration_cleaners": "lower space",
    "basic_german_cleaners": "lower space",
    "english_cleaners": "lower numbers abbreviations symbols brackets space",
    "phoneme_cleaners": "numbers abbreviations symbols brackets space",
    "multilingual_phoneme_cleaners": "symbols brackets space",
    "portuguese_cleaners": "lower symbols brackets space",
    "multilingual_cleaners": "lower symbols brackets space",
    "uroman_cleaners": "romanise lower space",
}
COQUI = tuple(_STEPS)
CLEANERS = (
    "",
    "hugging_face",
    "english_cleaners",
    "english_cleaners2",
    "basic_cleaners",
    "piper",
    *(f"coqui_{name}" for name in COQUI),
)


def clean(text: str, spec: "TextSpec") -> str:
    """A sentence as the reference hands it to its phonemes or symbols; what it would leave out still stands in it."""
    if spec.cleaner == "hugging_face":
        return _hugging_face(text, spec)
    if spec.cleaner.startswith("english_cleaners"):
        folded = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
        written = folded if spec.cleaner.endswith("2") else _numbers(folded, "en")
        return _space(_abbreviations(written))
    if spec.cleaner == "basic_cleaners":
        return _space(text.lower())
    if spec.cleaner == "piper":
        return unicodedata.normalize("NFD", text.casefold()) if spec.frontend == "characters" else text
    text = unicodedata.normalize("NFC", text)
    for step in _STEPS[spec.cleaner.removeprefix("coqui_")].split():
        text = _STEP[step](text, spec.language.split("-")[0])
    return text


def finish(phonemes: str, spec: "TextSpec") -> str:
    """Phonemes of a sentence as the reference looks them up."""
    return unicodedata.normalize("NFD", phonemes) if spec.cleaner == "piper" else phonemes


def romanise(text: str, language: str | None = None) -> str:
    """Latin letters for those of any script (ISI's uroman).

    Raises:
        ValueError: the package is not installed.
    """
    global _uroman
    if _uroman is None:
        try:
            import uroman  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                f'this voice reads {text[:20]!r} in Latin letters: pip install "jaxtts[uroman]"'
            ) from error
        _uroman = uroman.Uroman()
    return str(_uroman.romanize_string(text, lcode=language))


_uroman: Any = None


def _hugging_face(text: str, spec: "TextSpec") -> str:
    if spec.lowercase:  # what the vocabulary has in capitals stays
        capitals = "|".join(re.escape(s) for s in spec.symbols if s != s.lower())
        parts = re.split(f"({capitals})", text) if capitals else [text]
        text = "".join(part if n % 2 else part.lower() for n, part in enumerate(parts))
    if spec.language == "ron":
        text = text.replace("ț", "ţ")
    return romanise(text) if spec.romanise and not text.isascii() else text


def _space(text: str, _: str = "") -> str:
    return re.sub(r"\s+", " ", text).strip()


def _abbreviations(text: str, language: str = "en") -> str:
    if language != "en":
        return text
    return re.sub(rf"\b({'|'.join(_ABBREVIATIONS)})\.", lambda m: _ABBREVIATIONS[m[1].lower()], text, flags=re.I)


def _symbols(text: str, language: str) -> str:
    text = text if language == "el" else text.replace(";", ",")
    text = text.replace("-", "" if language == "ca" else " ").replace(":", ",")
    return text.replace("&", _AND.get(language, "&")).replace("'", "" if language == "ca" else "'")


def _numbers(text: str, _: str) -> str:
    """English: sums of money, decimals, ordinals and whole numbers as words, without commas between thousands."""
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"(£|\$)(\d+)(?:\.(\d+))?", _money, text)
    text = re.sub(r"(\d)\.(?=\d)", r"\1 point ", text)
    text = re.sub(r"(\d+)(?:st|nd|rd|th)\b", lambda m: _ordinal(int(m[1])), text)
    return re.sub(r"\d+", lambda m: _year(int(m[0])), text)


_UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen").split()  # fmt: skip
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_GROUPS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip
_MONEY = {"$": ("dollar", "dollars", "cent", "cents"), "£": ("pound sterling", "pounds sterling", "penny", "pence")}


def _cardinal(number: int) -> str:
    if number >= 10**15:
        return " ".join(_UNITS[int(d)] for d in str(number))
    for size, name in _GROUPS:
        if number >= size:
            head, rest = divmod(number, size)
            comma = "," if size > 100 and rest else ""
            return f"{_cardinal(head)} {name}{comma}" + (f" {_cardinal(rest)}" if rest else "")
    if number < 20:
        return _UNITS[number]
    return _TENS[number // 10] + (f"-{_UNITS[number % 10]}" if number % 10 else "")


def _ordinal(number: int) -> str:
    head, mark, last = re.fullmatch(r"(.*?)([- ]?)(\w+)", _cardinal(number)).groups()  # type: ignore[union-attr]
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return head + mark + last


def _year(number: int) -> str:
    """Whole numbers, those that look like a year in two halves."""
    if not 1000 < number < 3000 or number == 2000:
        return _cardinal(number)
    if 2000 < number < 2010:
        return f"two thousand {_UNITS[number % 100]}"
    if number % 100 == 0:
        return f"{_cardinal(number // 100)} hundred"
    low = number % 100
    return f"{_cardinal(number // 100)} {'oh ' if low < 10 else ''}{_cardinal(low)}"


def _money(match: re.Match[str]) -> str:
    units, amounts = _MONEY[match[1]], (int(match[2]), int(match[3] or 0))
    pairs = zip(amounts, (units[:2], units[2:]))
    return " ".join(f"{n} {unit[n != 1]}" for n, unit in pairs if n) or f"zero {units[1]}"


_STEP = {
    "lower": lambda text, _: text.lower(),
    "space": _space,
    "numbers": _numbers,
    "abbreviations": _abbreviations,
    "symbols": _symbols,
    "brackets": lambda text, _: re.sub(r"[<>()\[\]\"]+", "", text),
    "romanise": romanise,
}
