"""tools/sentences.py and tools/make_corpus.py, with a synthesiser of our own in the place of flite."""

import gzip
import hashlib
import importlib
import sys
import zlib
from typing import NamedTuple

import numpy as np
import pytest
import sentences
import soundfile

from jaxtts.data import read_corpus

# speaks a tone of a tenth of a second for each letter between silences; says nothing to "Hush."
FLITE = f"""#!{sys.executable} -SE
import array, math, sys, wave
if "-lv" in sys.argv:
    sys.exit(print("Voices available: rms slt "))
option = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text, base = option["-t"], 100 if option["-voice"] == "rms" else 200
if text == "Fail.":
    sys.exit("flite: cannot")
samples = [0] * 8000
for c in "" if text == "Hush." else text:
    samples += [round(32767 * math.sin(n * (base + ord(c)) * 2e-3)) for n in range(1600)]
with wave.open(option["-o"], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(array.array("h", samples + [0] * 8000).tobytes())
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool's `main` as its command line would."""

    def call(tool, *arguments, path=None):
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        if path:
            monkeypatch.setenv("PATH", str(path))
        try:
            importlib.import_module(tool).main()
            code = 0
        except SystemExit as error:
            code = error.code
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def flite(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "flite").write_text(FLITE)
    (folder / "flite").chmod(0o755)
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text('# a comment\nOne two three.\nHush.\nown|Another "quoted" line!\nA last line, a bit longer.\n')
    return path


def test_the_corpus_is_in_the_ljspeech_layout(run, flite, text, tmp_path):
    done = run("make_corpus", "--text", text, "--voice", "flite:rms", "--out", tmp_path / "rms", path=flite)
    assert done.returncode == 0, done.stderr
    assert "3 utterances" in done.stdout and "1 without sound or of another length left out: s000003" in done.stdout
    utterances = read_corpus(tmp_path / "rms")
    assert [(u.id, u.text) for u in utterances] == [
        ("s000002", "One two three."), ("own", 'Another "quoted" line!'), ("s000005", "A last line, a bit longer."),
    ]  # fmt: skip
    for u in utterances:
        wave, rate = soundfile.read(u.path)
        loud = np.flatnonzero(np.abs(wave) > 1e-3)
        assert rate == 22050 and 0.9 < np.abs(wave).max() <= 0.9991
        assert 2190 < loud[0] <= 2225 and 2190 < len(wave) - loud[-1] <= 2225
        assert abs(len(wave) / rate - (len(u.text) * 0.1 + 0.2)) < 0.02


def test_jobs_do_not_change_it_and_limits_cut_it(run, flite, text, tmp_path):
    def digest(*arguments):
        out = tmp_path / "-".join(arguments)
        done = run("make_corpus", "--text", text, "--voice", "flite:rms", "--out", out, *arguments, path=flite)
        assert done.returncode == 0, done.stderr
        files = [u.path for u in read_corpus(out)]
        assert sorted(files) == sorted(out.glob("wavs/*"))
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]

    whole = digest("--jobs", "1")
    assert len(whole) == 3 == len(set(whole))
    assert digest("--jobs", "3") == whole
    assert digest("--limit", "1") == whole[:1]
    assert digest("--minutes", "0.03") == whole[:2]  # 1.6 s and 2.4 s


def test_several_voices_are_several_speakers(run, flite, text, tmp_path):
    voices = ("--voice", "flite:rms", "--voice", "flite:slt")
    run("make_corpus", "--text", text, *voices, "--out", tmp_path / "two", "--sample-rate", 16000, path=flite)
    utterances = read_corpus(tmp_path / "two")
    assert [u.speaker for u in utterances] == ["flite_rms"] * 3 + ["flite_slt"] * 3
    assert soundfile.info(utterances[0].path).samplerate == 16000


def test_voices_can_speak_different_sentences_of_one_length_and_peak(run, flite, text, tmp_path):
    voices = ("--voice", "flite:rms", "--voice", "flite:slt")
    how = ("--shift", 1, "--seconds", 1.4, 2, "--margin", 0.05, "--peak", 0.5)
    done = run("make_corpus", "--text", text, *voices, *how, "--limit", 1, "--out", tmp_path / "two", path=flite)
    assert done.returncode == 0, done.stderr
    # the first voice: "One two three."; the second begins behind it: "Hush.", too long, too long, "One two three."
    utterances = read_corpus(tmp_path / "two")
    assert [(u.id, u.speaker) for u in utterances] == [
        ("flite_rms/s000002", "flite_rms"),
        ("flite_slt/s000002", "flite_slt"),
    ]
    assert "0 without" not in done.stdout and "3 without sound or of another length left out" in done.stdout
    for u in utterances:
        wave, rate = soundfile.read(u.path)
        loud = np.flatnonzero(np.abs(wave) > 1e-3)
        assert abs(np.abs(wave).max() - 0.5) < 1e-4 and 1090 < loud[0] <= 1120 and 1090 < len(wave) - loud[-1] <= 1120
    assert run("make_corpus", "--text", text, *voices[:2], "--peak", 2, "--out", tmp_path, path=flite).returncode == 2


@pytest.mark.parametrize(
    ("content", "voice", "message"),
    [
        ("Hello.", "espeak:en-us", "espeak-ng is not installed: install the Debian package espeak-ng"),
        ("Hello.", "flite:nobody", "flite has no voice 'nobody'; it has rms, slt"),
        ("Hello.", "rms", "give flite:NAME or espeak:NAME"),
        ("# nothing", "flite:rms", "has no sentences"),
        ("a|Hello.\na|World.", "flite:rms", "an id twice"),
        ("Hush.", "flite:rms", "spoke none of the 1 sentences"),
        ("Fail.", "flite:rms", "flite:rms cannot speak 'Fail.': flite: cannot"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, flite, tmp_path, content, voice, message):
    (tmp_path / "t.txt").write_text(content)
    done = run("make_corpus", "--text", tmp_path / "t.txt", "--voice", voice, "--out", tmp_path / "out", path=flite)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


def test_a_missing_text_is_one_sentence(run, flite, tmp_path):
    done = run("make_corpus", "--text", tmp_path / "no.txt", "--voice", "flite:rms", "--out", tmp_path, path=flite)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "no.txt" in done.stderr


def r_database(*vectors):
    """An R lazy-load database as R 3.5 writes it: a length, then zlib of an XDR serialisation, for each object."""
    chunks = b""
    for strings in vectors:
        data = b"X\n" + b"\0\0\0\3" + bytes(8) + b"\0\0\0\5UTF-8" + b"\0\0\0\x10" + len(strings).to_bytes(4, "big")
        for s in strings:
            data += b"\0\4\0\x09" + len(s.encode()).to_bytes(4, "big") + s.encode()
        chunks += len(data).to_bytes(4, "big") + zlib.compress(data)
    return chunks


@pytest.fixture
def cache(tmp_path):
    x = tmp_path / "cache" / "x"
    novel = ["Mr. Darcy, said she,", "was _not_ proud--only shy. In 1813 nobody knew.", "", "Mr. Darcy, said she,",
             "was not proud, only shy!"]  # fmt: skip
    files = {
        "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb": r_database(novel, ["No sentence"]),
        "wordnet-base/usr/share/wordnet/data.noun": b'1 n | a thing; "the cat sat on the mat"; "too few"\n',
        "dict-devil/usr/share/dictd/devil.dict.dz": gzip.compress(b"APE, n.  A beast of the trees.\n"),
        "dict-jargon/usr/share/dictd/jargon.dict.dz": gzip.compress(b"The {hack} was a fine one. The NSA was not.\n"),
        "miscfiles/usr/share/state/us-const.gz": gzip.compress(b'We hold these\ntruths to be "self-evident."\n'),
    }
    for name, content in files.items():
        (x / name).parent.mkdir(parents=True)
        (x / name).write_bytes(content)
    return tmp_path / "cache"


def test_sentences_come_from_all_sources_and_are_clean(run, cache, tmp_path):
    out = tmp_path / "out.txt"
    done = run("sentences", "--cache", cache, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text().splitlines() == [
        "Mister Darcy, said she, was not proud, only shy.",
        "The cat sat on the mat.",
        "A beast of the trees.",
        "The hack was a fine one.",
        "We hold these truths to be self-evident.",
    ]
    assert "5 sentences (austen 1, wordnet 1" in done.stdout


def test_sentences_are_filtered_shuffled_and_cut(run, cache, tmp_path):
    out, held, lexicon = (tmp_path / name for name in ("out.txt", "held.txt", "lexicon"))

    def lines(*arguments):
        assert run("sentences", "--cache", cache, "--out", out, *arguments).returncode == 0
        return out.read_text().splitlines()

    held.write_text("h1|Yesterday the cat sat on the mat.\n")
    assert "The cat sat on the mat." not in lines("--exclude", held) and len(lines()) == 5
    lexicon.write_text("a AH\na(2) EY\nbeast B\nof AH\nthe DH\ntrees T\n")
    assert lines("--lexicon", lexicon) == ["A beast of the trees."]
    shuffled = lines("--shuffle", 3)
    assert shuffled != lines() and sorted(shuffled) == sorted(lines()) and shuffled == lines("--shuffle", 3)
    assert lines("--shuffle", 3, "--skip", 1, "--limit", 2) == shuffled[1:3]
    assert lines("--source", "state") == ["We hold these truths to be self-evident."]


def test_a_missing_package_is_one_sentence(run, tmp_path):
    done = run("sentences", "--cache", tmp_path, "--out", tmp_path / "o.txt")
    assert done.returncode == 2 and done.stderr.strip().endswith("run with --fetch first")
    done = run("sentences", "--fetch", tmp_path, "--out", tmp_path / "o.txt", path=tmp_path)
    assert done.returncode == 2 and "needs apt-get and dpkg" in done.stderr


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("The cat sat.", True), ("Cat sat.", False), ("the cat sat.", False), ("The cat sat", False),
        ("The 3 cats sat.", False), ("The NSA sat.", False), ("The cat e.g. sat.", False), ("The b cat sat.", False),
        ("The cat sat!?", False), ("The McCoy sat.", False), ("I saw a well-fed cat; it sat.", True),
    ],
)  # fmt: skip
def test_readable(sentence, kept):
    assert sentences.readable(sentence, 3, 20) == kept
