"""Text clean-up ahead of any front end: one spelling for quotes, dashes and spaces, and no unspeakable characters.

Policy: what has no sound but a reason (zero-width marks, bidi controls, variation selectors) goes in silence;
a character that the language cannot speak (emoji, control characters, foreign scripts) is cut out and returned
by name, so that the caller can warn or refuse.
"""

import re
import unicodedata

_SAME = {
    ord(c): to
    for chars, to in {
        "‘’‚‛′ʼ`´": "'",
        "“”„‟″«»": '"',
        "‐‑‒−": "-",
        "—–―⸺": " -- ",
        "…": "... ",
        "。": ". ",
        "⁄∕": "/",
        "×": " times ",
        "÷": " divided by ",
        "±": " plus or minus ",
        "™®©": " ",
    }.items()
    for c in chars
}
_LATIN = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "Ae",
        "œ": "oe",
        "Œ": "Oe",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "ð": "th",
        "Ð": "Th",
        "þ": "th",
        "Þ": "Th",
        "ı": "i",
        "ħ": "h",
        "Ħ": "H",
    }
)
_ENGLISH_MARKS = set(" \n.,;:?!'\"()[]{}<>-_*/|\\~^$£€¥₹%&@#+=°")

_FRACTIONS = {"1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter", "3/4": "three quarters"}
_UNITS = {
    "km": "kilometers",
    "cm": "centimeters",
    "mm": "millimeters",
    "kg": "kilograms",
    "mg": "milligrams",
    "mph": "miles per hour",
    "ft": "feet",
    "lb": "pounds",
    "lbs": "pounds",
    "hz": "hertz",
    "khz": "kilohertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "kb": "kilobytes",
    "mb": "megabytes",
    "gb": "gigabytes",
}
_DIGITS = "zero one two three four five six seven eight nine".split()
_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "₹": "rupees"}
_WORDS = {
    "%": " percent ",
    "&": " and ",
    "@": " at ",
    "+": " plus ",
    "=": " equals ",
    "#": " number ",
    "°": " degrees ",
}


def normalise(text: str, language: str = "en-us", write_out: bool = True) -> tuple[str, list[str]]:
    """Cleans a text for speaking.

    Args:
        text: any text.
        language: for English, accents are folded and the Latin alphabet alone is kept; for other languages every
            letter, digit and punctuation mark stays.
        write_out: for English, write out as words what gruut leaves unspoken (symbols, units, fractions, addresses),
            and turn brackets into commas.

    Returns:
        The clean text (paragraphs separated by one empty line, otherwise single spaces) and the characters that
        were cut out, each once, in order of appearance.
    """
    english = language.lower().startswith("en")
    text = unicodedata.normalize("NFKC", text.translate(_SAME)).translate(_SAME)
    if english:
        text = unicodedata.normalize("NFKD", text.translate(_LATIN))
    kept, unknown = [], {}
    for character in text:
        category = unicodedata.category(character)
        if character in "\n\x0b\x0c\x85\u2028\u2029":
            kept.append("\n")
        elif character.isspace():
            kept.append(" ")
        elif category in ("Cf", "Mn") and (english or category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F):
            continue
        elif (
            (character.isascii() and character.isalnum() or character in _ENGLISH_MARKS)
            if english
            else (category[0] in "LMNP" or category == "Sc" or character in _ENGLISH_MARKS)
        ):
            kept.append(character)
        else:
            unknown[character] = None
            kept.append(" ")
    text = _collapse("".join(kept))
    if english and write_out:
        text = _collapse(_write_out(text))
    text = re.sub(r"\s-{1,3}(?=\s)|-{2,}", ", ", text)
    text = re.sub(r"\s+([,;:.?!])", r"\1", text)
    text = re.sub(r"([,;:])[,;:]+", r"\1", re.sub(r"([.?!,;:])\s*,(?=\s)", r"\1", text))
    paragraphs = (re.sub(r"\s+", " ", p).strip(" ,;:") for p in re.split(r"\n\s*\n", text))
    return "\n\n".join(p for p in paragraphs if p), list(unknown)


def _collapse(text: str) -> str:
    """Runs of spaces to one space, runs of newlines to at most two."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", re.sub(" {2,}", " ", text)))


def _write_out(text: str) -> str:
    """Writes out what gruut's English leaves unspoken: symbols, units, fractions, web addresses, very long numbers."""
    text = re.sub(r"\b\w{1,20}://", " ", text)
    text = re.sub(r"(?<=\w\w)\.(?=[a-z]{2})", " dot ", text)
    text = re.sub(r"(?<![\d/])\d/\d(?![\d/])", lambda m: _FRACTIONS.get(m[0], m[0].replace("/", " slash ")), text)
    text = re.sub(r"\d{16,}", lambda m: " " + " ".join(_DIGITS[int(d)] for d in m[0]) + " ", text)
    text = re.sub(r"(?<=\d),(?!\d{3}(?!\d))(?=\d)", ", ", text)
    text = re.sub(r"([¥₹])\s?(\d[\d,]*(?:\.\d+)?)", lambda m: f"{m[2]} {_CURRENCIES[m[1]]}", text)
    text = re.sub(r"(?<![\w$£€.,])(\d[\d,]*(?:\.\d+)?)\s?([$£€])(?!\s?-?\d)", r"\2\1", text)
    text = re.sub(r"[$£€¥₹](?!\s?-?\d)", lambda m: f" {_CURRENCIES[m[0]]} ", text)
    text = re.sub(
        r"(\d)\s?([A-Za-z]{2,3})\b",
        lambda m: f"{m[1]} {_UNITS[m[2].lower()]}" if m[2].lower() in _UNITS else m[0],
        text,
    )
    text = re.sub(r"(?<=\d)(?!(?:st|nd|rd|th|s|am|pm|a\.m|p\.m)\b)(?=[A-Za-z])|(?<=[A-Za-z])(?=\d)", " ", text)
    text = re.sub(r"\s<\s|<(?=\d)", " less than ", text)
    text = re.sub(r"\s>\s|>(?=\d)", " greater than ", text)
    text = re.sub(r"(?<=[A-Za-z])/(?=[A-Za-z])|</|[<>\[\]{}|\\~^*_]", " ", text)
    text = re.sub(r"\"", "", re.sub(r"[()]", " -- ", text))
    return re.sub(f"[{''.join(_WORDS)}]", lambda m: _WORDS[m[0]], text)
