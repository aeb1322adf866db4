"""Sentences to train a voice on, out of texts that Debian packages ship. The same arguments give the same list.

    python tools/sentences.py --fetch CACHE --out text.txt
    python tools/sentences.py --cache CACHE --source austen --source wordnet --shuffle 1 --limit 9000 --out text.txt

--fetch downloads the packages with apt-get and unpacks them into CACHE; nothing is installed. A sentence is kept if it
has 3 to 20 words, letters and , . ; : ? ! ' - only (no digits, no abbreviations, no capitals within), begins with a
capital, ends with . ? or !, and was not there before (case and punctuation aside). --lexicon takes only sentences of
words in a CMU-style dictionary, which keeps out the names that synthesisers guess at. --exclude leaves out whatever
shares six running words with a list of held-out sentences.
"""

import argparse
import gzip
import random
import re
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# source -> Debian package and licence of its text; the order is that of the list before it is shuffled
SOURCES = {
    "austen": ("r-cran-janeaustenr", "public domain (the package: MIT)"),
    "wordnet": ("wordnet-base", "WordNet 3.0 (permissive)"),
    "devil": ("dict-devil", "public domain"),
    "jargon": ("dict-jargon", "public domain"),
    "state": ("miscfiles", "public domain"),
}
GRAM = 6  # running words that two sentences must not share

ABBREVIATIONS = {
    "Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "St": "Saint", "Messrs": "Messieurs", "Capt": "Captain",
    "Col": "Colonel", "Gen": "General", "Lt": "Lieutenant", "Prof": "Professor", "Rev": "Reverend", "Hon": "Honorable",
}  # fmt: skip
PLAIN = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "--", "\u2014": "--", "\u2026": "...",
    "\u00a0": " ", "`": "'",
})  # fmt: skip


def fetch(cache: Path, source: str) -> None:
    """Downloads and unpacks the package of a source into `cache/x/PACKAGE`."""
    package = SOURCES[source][0]
    if not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise ValueError("--fetch needs apt-get and dpkg: run it on Debian, or unpack the packages yourself")
    (cache / "x").mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{package}_*.deb")):
        done = subprocess.run(["apt-get", "download", package], cwd=cache, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"apt-get cannot download {package}: {done.stderr.strip().splitlines()[-1]}")
    for archive in cache.glob(f"{package}_*.deb"):
        subprocess.run(["dpkg", "-x", str(archive), str(cache / "x" / package)], check=True)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text, each in one line."""
    yield from (" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p.strip())


def austen(root: Path) -> Iterator[str]:
    """Jane Austen's novels: the lines of each are one character vector of the R package."""
    for path in _find(root, "janeaustenr/data/Rdata.rdb"):
        for lines in r_strings(path.read_bytes()):
            yield from paragraphs("\n".join(lines))


def r_strings(database: bytes) -> Iterator[list[str]]:
    """The character vectors of an R lazy-load database: zlib chunks behind a length, in XDR serialisation."""
    position = 0
    while position + 4 < len(database):
        stream = zlib.decompressobj()
        data = stream.decompress(database[position + 4 :])
        position = len(database) - len(stream.unused_data)
        # version 3 names the encoding behind its header of 14 bytes
        start = 18 + struct.unpack(">I", data[14:18])[0] if b"\0\0\0\3" in (data[2:6], data[6:10]) else 14
        vector = re.search(rb"\x00[\x00-\x0f]\x00\x10", data[start - 4 : start + 16])
        if not vector:
            continue
        at = start - 4 + vector.end()
        count, at, strings = struct.unpack(">I", data[at : at + 4])[0], at + 4, []
        for _ in range(count):
            if at + 8 > len(data) or data[at + 3] != 9:
                break
            length = max(0, struct.unpack(">i", data[at + 4 : at + 8])[0])
            strings.append(data[at + 8 : at + 8 + length].decode("utf-8", "replace"))
            at += 8 + length
        yield strings


def wordnet(root: Path) -> Iterator[str]:
    """The examples of use, quoted in the glosses of WordNet."""
    for path in _find(root, "share/wordnet/data.*"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            for quote in re.findall(r'"([^"]+)"', line.partition(" | ")[2]):
                quote = quote.strip()
                if quote:
                    quote = quote[0].upper() + quote[1:]
                    yield quote if quote[-1] in ".?!" else quote.rstrip(",;: ") + "."


def devil(root: Path) -> Iterator[str]:
    """Bierce's dictionary, without headwords and etymologies."""
    kind = r"(?:n|v|adj|adv|pp|pl|v\.[ti]|v\. [ti]|n\.pl|p\.p)"
    for p in paragraphs(_dictionary(root, "devil")):
        yield re.sub(rf"^[A-Z' -]+,\s+{kind}\.[a-z.]*\s+(?:\[[^]]*\]\s*)?", "", p)


def jargon(root: Path) -> Iterator[str]:
    """The Jargon File."""
    yield from paragraphs(re.sub(r"[{}]", "", _dictionary(root, "jargon")))


def state(root: Path) -> Iterator[str]:
    """Declaration and constitution of the United States."""
    for path in _find(root, "share/state/us-*.gz"):
        yield from paragraphs(gzip.open(path, "rt", encoding="utf-8", errors="replace").read())


READERS = {"austen": austen, "wordnet": wordnet, "devil": devil, "jargon": jargon, "state": state}


def _find(root: Path, pattern: str) -> list[Path]:
    paths = sorted(root.rglob(pattern))
    if not paths:
        raise ValueError(f"{root} has no {pattern}: run with --fetch first")
    return paths


def _dictionary(root: Path, name: str) -> str:
    return gzip.open(_find(root, f"{name}.dict.dz")[0]).read().decode("utf-8", "replace")


def sentences(paragraph: str) -> Iterator[str]:
    """A paragraph's sentences: abbreviations written out, quotation marks, dashes and emphasis taken off."""
    p = unicodedata.normalize("NFKD", paragraph.translate(PLAIN))
    p = "".join(c for c in p if not unicodedata.combining(c))
    p = re.sub(rf"\b({'|'.join(ABBREVIATIONS)})\.(?=\s)", lambda m: ABBREVIATIONS[m.group(1)], p)
    p = re.sub(r"_(?=\w)|(?<=\w)_|(?<=[.,!?;])_", "", p)
    p = re.sub(r"\s*--+\s*|\s+-\s+", ", ", p).replace("''", '"')
    for s in re.split(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z])", " ".join(p.split())):
        s = s.replace('"', "").strip()
        s = re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])", "", s)  # quotation marks, not apostrophes
        s = re.sub(r"\s+([,.;:?!])", r"\1", s)
        s = re.sub(r"[,;:]+([,;:.?!])", r"\1", s)
        s = re.sub(r"([.?!])[,;:]", r"\1", s)
        s = " ".join(re.sub(r"^[\s,.;:?!-]+", "", s).split())
        if s:
            yield s


def words(sentence: str) -> list[str]:
    """Lower-case words, hyphenated ones apart."""
    return re.findall(r"[a-z']+", sentence.lower().replace("-", " "))


def readable(s: str, shortest: int, longest: int) -> bool:
    """Whether a sentence is one that a synthesiser reads without guessing."""
    if not re.fullmatch(r"[A-Za-z ,.;:?!'-]+", s) or not s[0].isupper() or s[-1] not in ".?!":
        return False
    if ".." in s or re.search(r"[?!]{2}|[:;,][A-Za-z]", s) or re.search(r"[.?!] ?\w", s[:-1]):
        return False  # an inner full stop is an abbreviation
    tokens = [t.strip(",;:'.") for t in s[:-1].replace("-", " ").split()]
    return shortest <= len(words(s)) <= longest and not any(
        (len(t) > 1 and t.isupper()) or (len(t) == 1 and t not in "aAIO") or re.search(r"[a-z][A-Z]", t) or len(t) > 18
        for t in tokens
    )


def grams(lines: Iterable[str]) -> set[tuple[str, ...]]:
    """The runs of six words in some sentences (`id|text` or text); a shorter sentence is a run itself."""
    found = set()
    for line in lines:
        w = words(line.rpartition("|")[2])
        size = min(GRAM, len(w))
        found |= {tuple(w[i : i + size]) for i in range(len(w) - size + 1) if size}
    return found


def collect(
    cache: Path, sources: Iterable[str], shortest: int, longest: int, lexicon: set[str] | None,
    excluded: set[tuple[str, ...]],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """(source, sentence) of everything that passes."""
    seen: set[str] = set()
    sizes = {len(g) for g in excluded}
    for source in sources:
        for paragraph in READERS[source](cache / "x" / SOURCES[source][0]):
            for s in sentences(paragraph):
                w = words(s)
                key = " ".join(w)
                if key in seen or not readable(s, shortest, longest) or (lexicon and not lexicon.issuperset(w)):
                    continue
                if not any(tuple(w[i : i + n]) in excluded for n in sizes for i in range(len(w) - n + 1)):
                    seen.add(key)
                    yield source, s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--fetch", type=Path, metavar="CACHE", help="download the packages into this folder first")
    place.add_argument("--cache", type=Path, help="the folder of an earlier --fetch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", action="append", choices=SOURCES, help="repeatable; all by default")
    parser.add_argument("--lexicon", type=Path, help="CMU-style dictionary, such as pocketsphinx's cmudict-en-us.dict")
    parser.add_argument("--exclude", type=Path, help="held-out sentences, one a line")
    parser.add_argument("--min-words", type=int, default=3)
    parser.add_argument("--max-words", type=int, default=20)
    parser.add_argument("--shuffle", type=int, metavar="SEED")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many (behind the shuffle)")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many (0: never)")
    args = parser.parse_args()
    names = [name for name in SOURCES if name in (args.source or SOURCES)]
    try:
        if args.fetch:
            for name in names:
                fetch(args.fetch, name)
        lexicon = None
        if args.lexicon:
            lines = args.lexicon.read_text(encoding="utf-8", errors="replace").splitlines()
            lexicon = {re.sub(r"\(\d+\)$", "", line.split(None, 1)[0]) for line in lines if line.strip()}
        held = grams(args.exclude.read_text(encoding="utf-8").splitlines()) if args.exclude else set()
        found = list(collect(args.fetch or args.cache, names, args.min_words, args.max_words, lexicon, held))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if args.shuffle is not None:
        random.Random(args.shuffle).shuffle(found)
    found = found[args.skip :][: args.limit or None]
    args.out.write_text("".join(f"{s}\n" for _, s in found), encoding="utf-8")
    counts = Counter(source for source, _ in found)
    print(f"{args.out}: {len(found)} sentences ({', '.join(f'{n} {counts[n]}' for n in names)})")


if __name__ == "__main__":
    main()
