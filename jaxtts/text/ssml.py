"""SSML (W3C, Speech Synthesis Markup Language 1.1) to what gruut reads.

Understood: `speak`, `p`, `s`, `w` and `token`, `sub`, `phoneme` (alphabet ipa), `break`, `prosody` (rate) and `say-as`.
Everything else is refused by name. How this differs from gruut's own reading of it:

- A `break` counts wherever it stands; gruut drops one between sentences that have no `s`. Without a time it is as long
  as its strength says (`STRENGTHS`).
- `prosody` is known at all. Names and plain numbers (`slow`, `80%`, `0.8`) are shares of the voice's usual rate, signed
  ones (`+20%`) change the rate around them.
- `say-as` takes the usual names (`SAY_AS`), for dates, times and telephone numbers in the forms that people write, and
  says so if it cannot read one; gruut leaves such text as it is, or silent.

gruut is given text alone, cut into runs: stretches of one rate without a break within. A run travels through gruut as
the name of a `voice`.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.75}
STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.25, "medium": 0.5, "strong": 0.75, "x-strong": 1.0}
SAY_AS = (
    "cardinal", "number", "ordinal", "digits", "year", "characters", "spell-out", "verbatim", "date", "time",
    "telephone", "currency",
)  # fmt: skip
ELEMENTS = ("speak", "p", "s", "w", "token", "sub", "say-as", "phoneme", "break", "prosody")
_STRUCTURE = ("speak", "p", "s")
_RATE_RANGE = (0.2, 5.0)
_LONGEST_BREAK = 1000.0  # seconds
_SIGNS = {
    ".": "dot", "-": "dash", "_": "underscore", "@": "at", "/": "slash", "\\": "backslash", "+": "plus", "#": "hash",
    "&": "and", "*": "star", ":": "colon", ",": "comma", "=": "equals", "%": "percent", "$": "dollar",
    "'": "apostrophe", "!": "exclamation mark", "?": "question mark", "(": "parenthesis", ")": "parenthesis",
}  # fmt: skip
_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_ENDS = " \t\r\n,;:"
_WORDS, _READ, _SPELL = "", "read", 'interpret-as="spell-out"'
_MONTHS = [datetime.date(2000, month, 1).strftime("%B") for month in range(1, 13)]


class Run(NamedTuple):
    """A stretch of speech: its rate (1: as usual), and the seconds of all breaks ahead of it."""

    rate: float
    pause: float


@dataclass
class Document:
    """What SSML says.

    Attributes:
        xml: for gruut; the name of each `voice` is the number of a run.
        runs: in order, the last one for what lies behind the text.
        plain: the text alone.
    """

    xml: str = ""
    runs: list[Run] = field(default_factory=list)
    plain: str = ""


def read(text: str, language: str, clean: Callable[[str], str]) -> Document:
    """Reads SSML.

    Args:
        text: the document.
        language: of the voice.
        clean: text between the marks to what gruut can speak.

    Raises:
        ValueError: not XML, an element or an attribute's value that is not understood (it is named).
    """
    return _Reader(ElementTree.fromstring(text), language.lower(), clean).document


class _Reader:
    def __init__(self, root: ElementTree.Element, language: str, clean: Callable[[str], str]):
        self.language, self.clean, self.document = language, clean, Document()
        self.pause, self.text, self.rate = 0.0, "", 1.0
        self.walk(root, 1.0)
        self.flush()
        self.document.runs.append(Run(1.0, self.pause))

    def walk(self, element: ElementTree.Element, rate: float) -> None:
        """An element and what lies in it, at the rate around it."""
        name = str(element.tag).rpartition("}")[2]
        if name not in ELEMENTS:
            raise ValueError(f"SSML element <{name}> is not supported: take {', '.join(sorted(ELEMENTS))}")
        for attribute, value in element.attrib.items():
            if attribute.endswith("}lang") and value[:2].lower() != self.language[:2]:
                raise ValueError(f"SSML asks for the language {value!r}; this voice speaks {self.language!r}")
        if name == "break":
            self.flush()
            self.pause += _seconds(element)
        elif name in _STRUCTURE or name == "prosody":
            self.flush()
            rate = _rate(element, rate) if name == "prosody" else rate
            self.document.xml += f"<{name}>" if name in _STRUCTURE else ""
            self.say(element.text, rate)
            for child in element:
                self.walk(child, rate)
                self.say(child.tail, rate)
            self.flush()
            self.document.xml += f"</{name}>" if name in _STRUCTURE else ""
            self.document.plain += " "
        else:
            self.leaf(name, element, rate)

    def leaf(self, name: str, element: ElementTree.Element, rate: float) -> None:
        """An element that holds text alone."""
        content = " ".join("".join(element.itertext()).split())
        if name == "sub":
            self.say(element.get("alias", ""), rate)
        elif name == "say-as":
            for kind, part in _say_as(
                content, element.get("interpret-as", ""), element.get("format", ""), self.language
            ):
                if kind in (_WORDS, _READ):
                    self.say(f" {part} ", rate, finished=kind == _WORDS)
                else:
                    part = self.clean(part) if kind == _SPELL else part
                    self.mark(f"<say-as {kind}>{escape(part)}</say-as>", part, rate)
        elif name == "phoneme":
            alphabet, phonemes = element.get("alphabet", "ipa"), "".join(element.get("ph", "").split())
            if alphabet.lower() != "ipa" or not phonemes:
                raise ValueError(
                    f"SSML phoneme has alphabet={alphabet!r}, ph={phonemes!r}: give ph in the alphabet 'ipa'"
                )
            word = "".join(filter(str.isalpha, content.lower())) or "x"  # one word, or gruut speaks the others as well
            self.mark(f"<phoneme ph={quoteattr(phonemes)}>{escape(word)}</phoneme>", word, rate)
        else:
            role = f" role={quoteattr(element.attrib['role'])}" if "role" in element.attrib else ""
            word = self.clean(content)
            self.mark(f"<w{role}>{escape(word)}</w>", word, rate)

    def say(self, text: str | None, rate: float, finished: bool = False) -> None:
        """Text, which is put together with the text ahead of it if nothing lies between."""
        if text and text.strip():
            self.run(rate)
            if not finished:  # cleaning takes away what stands at the ends
                inner = text.strip(_ENDS)
                before, _, after = text.partition(inner) if inner else (text, "", "")
                text = before + self.clean(inner) + after
            self.text += text
        elif text:
            self.text += " "

    def mark(self, xml: str, plain: str, rate: float) -> None:
        """Finished markup."""
        self.flush()
        self.run(rate)
        self.document.xml += f'<voice name="{len(self.document.runs) - 1}">{xml}</voice>'
        self.document.plain += plain

    def run(self, rate: float) -> None:
        """Begins a new run if the rate or the pause has changed."""
        now = Run(rate, self.pause)
        if not self.document.runs or self.document.runs[-1] != now:
            self.flush()
            self.document.runs.append(now)

    def flush(self) -> None:
        """Hands the text that has come together to gruut."""
        if self.text.strip():
            name = len(self.document.runs) - 1
            self.document.xml += f'<voice name="{name}">{escape(self.text)}</voice>'
        self.document.plain += self.text
        self.text = ""


def _seconds(element: ElementTree.Element) -> float:
    strength, time = element.get("strength", "medium"), element.get("time")
    if strength not in STRENGTHS:
        raise ValueError(f"SSML break has strength={strength!r}: take {', '.join(STRENGTHS)}")
    if time is None:
        return STRENGTHS[strength]
    match = re.fullmatch(r"\+?(\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})(ms|s)", time.strip(), re.ASCII)
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else -1.0
    if not 0 <= seconds <= _LONGEST_BREAK:
        raise ValueError(f"SSML break has time={time!r}: take seconds or milliseconds, '0.5s' or '500ms'")
    return seconds


def _rate(element: ElementTree.Element, around: float) -> float:
    wish = element.get("rate", "").strip()
    if others := [
        f"{n}={v!r}" for n, v in element.attrib.items() if n in ("pitch", "contour", "range", "duration", "volume")
    ]:
        raise ValueError(f"SSML prosody asks for {', '.join(others)}: voices here change their rate alone")
    match = re.fullmatch(r"([+-]?)(\d{1,4}(?:\.\d{0,6})?|\.\d{1,6})(%?)", wish, re.ASCII)
    if wish in RATES:
        rate = RATES[wish]
    elif match:
        number = float(match[2]) / (100 if match[3] else 1)
        rate = around * (1 + float(f"{match[1]}{number}")) if match[1] else number
    else:
        raise ValueError(
            f"SSML prosody has rate={wish!r}: take {', '.join(RATES)}, or a share as '80%', '+20%' or '0.8'"
        )
    low, high = _RATE_RANGE
    if not low <= rate <= high:
        raise ValueError(
            f"SSML prosody has rate={wish!r}: the rate must lie between {low:.0%} and {high:.0%} of the usual"
        )
    return rate


def _say_as(content: str, kind: str, form: str, language: str) -> list[tuple[str, str]]:
    """Content to parts: attributes of gruut's `say-as`, or _WORDS (words and digits) or _READ (text as any other)."""
    if kind not in SAY_AS:
        raise ValueError(f"SSML say-as has interpret-as={kind!r}: take {', '.join(SAY_AS)}")
    if kind == "number":
        kind = form or "cardinal"
    if kind in ("date", "time", "currency", "telephone") and not language.startswith("en"):
        raise ValueError(
            f"SSML say-as interpret-as={kind!r} is known for English alone, not for {language!r}: write it out"
        )
    match kind:
        case "cardinal" | "ordinal" | "year":
            found = _number(content, kind)
        case "digits":
            found = [(_WORDS, " ".join(content))] if re.fullmatch(r"\d+", content, re.ASCII) else []
        case "characters" | "spell-out" | "verbatim":
            found = _spelled(content)
        case "telephone":
            found = _telephone(content)
        case "date":
            found = _date(content, form)
        case "time":
            found = _time(content)
        case "currency":
            code = re.fullmatch(r"([A-Z]{3})?\s*([$£€¥₹]?\s?\d[\d,]*(?:\.\d+)?\s?[$£€¥₹]?)\s*([A-Z]{3})?", content)
            sign = _CODES.get(code[1] or code[3] or "", "") if code else ""
            found = [(_READ, f"{sign}{code[2].strip()}")] if code and (sign or re.search("[$£€¥₹]", content)) else []
        case _:
            raise ValueError(f"SSML say-as has format={kind!r} for a number: take cardinal, ordinal, digits or year")
    if not found:
        raise ValueError(
            f"SSML say-as cannot read {content!r} as {kind}" + (f" ({form})" if form and form != kind else "")
        )
    return found


def _number(content: str, form: str) -> list[tuple[str, str]]:
    """What gruut writes out itself, in a form that it surely takes."""
    pattern = {"cardinal": r"-?\d[\d,]*(\.\d+)?", "ordinal": r"(\d[\d,]*)(?:st|nd|rd|th)?", "year": r"\d{1,4}"}[form]
    if not (match := re.fullmatch(pattern, content, re.ASCII)):
        return []
    digits = (match[1] if form == "ordinal" else content).replace(",", "")
    if form == "cardinal":  # with commas, or gruut takes four digits for a year
        whole, *point = digits.partition(".")
        digits = "".join([re.sub(r"\d(?=(\d{3})+$)", r"\g<0>,", whole), *point])
    return [(f'interpret-as="number" format="{form}"', digits)]


def _spelled(content: str) -> list[tuple[str, str]]:
    """Letters by their names, digits one by one, signs by name."""
    parts: list[tuple[str, str]] = []
    for letters, other in re.findall(r"([^\W\d_]+)|(\S)", content):
        name = (_WORDS, _SIGNS[other]) if other in _SIGNS else (_READ, other)
        parts.append((_SPELL, letters) if letters else name)
    return parts


def _telephone(content: str) -> list[tuple[str, str]]:
    """Digit by digit, a comma between groups."""
    match = re.fullmatch(r"(\+?)([\d\s().\-/]+?)(?:\s*(?:ext\.?|x)\s*(\d+))?", content, re.ASCII | re.IGNORECASE)
    groups = re.findall(r"\d+", match[2]) if match else []
    if not match or not groups:
        return []
    spoken = ", ".join(" ".join(group) for group in groups)
    extension = f", extension {' '.join(match[3])}" if match[3] else ""
    return [(_WORDS, f"{'plus ' if match[1] else ''}{spoken}{extension}")]


def _date(content: str, form: str) -> list[tuple[str, str]]:
    """Month, day, year, in whatever order `form` says they are written ('mdy', 'dmy', 'ymd', 'yyyymmdd', 'md', ...)."""
    form = re.sub(r"(.)\1+", r"\1", form.lower())
    if form and (set(form) - set("dmy") or len(set(form)) != len(form)):
        raise ValueError(f"SSML say-as has format={form!r} for a date: take an order of d, m and y, as 'mdy' or 'ym'")
    fields = re.findall(r"\d+", content)
    if not re.fullmatch(r"\d+([/.\- ]\d+)*", content, re.ASCII):
        return (
            [(_READ, content)] if not form and re.search(r"[^\W\d_]", content) else []
        )  # words: read as any other text
    if len(fields) == 1 and len(content) == 8 and (len(form) == 3 or not form):
        widths = [4 if letter == "y" else 2 for letter in form or "ymd"]
        fields = [content[sum(widths[:i]) : sum(widths[: i + 1])] for i in range(3)]
    form = form or {1: "y", 2: "md", 3: "ymd" if len(fields[0]) == 4 else "mdy"}.get(len(fields), "")
    if len(form) != len(fields):
        return []
    given = {letter: int(number) for letter, number in zip(form, fields)}
    try:
        datetime.date(max(1, given.get("y", 2000)), given.get("m", 1), given.get("d", 1))
    except ValueError:
        return []
    parts = [(_WORDS, _MONTHS[given["m"] - 1])] if "m" in given else []
    parts += _number(str(given["d"]), "ordinal") if "d" in given else []
    if "y" in given:
        parts += [(_WORDS, ",")] if "d" in given else []
        parts += _number(str(given["y"]), "year")
    return parts


def _time(content: str) -> list[tuple[str, str]]:
    """Hours, minutes and seconds, of 12 or of 24 hours."""
    match = re.fullmatch(
        r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s*(?:([ap])\.?m\.?)?", content, re.ASCII | re.IGNORECASE
    )  # fmt: skip
    if not match or not (match[2] or match[4]):
        return []
    hours, minutes, seconds = (int(n or 0) for n in match.groups()[:3])
    if hours > (12 if match[4] else 24) or minutes > 59 or seconds > 59:
        return []
    words = [str(hours)]
    if minutes:
        words.append(f"oh {minutes}" if minutes < 10 else str(minutes))
    elif not match[4]:
        words.append("o'clock")
    if match[3]:
        words.append(f"and {seconds} second{'s' * (seconds != 1)}")
    parts: list[tuple[str, str]] = [(_WORDS, " ".join(words))]
    return parts + ([(_SPELL, f"{match[4]}m".upper())] if match[4] else [])
