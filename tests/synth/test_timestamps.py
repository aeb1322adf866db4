"""When words and phonemes sound: from known durations, of a voice, and as files."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxtts.synth import Audio, load
from jaxtts.synth.timestamps import timed_words
from jaxtts.synth.voice import Voice
from jaxtts.text import TextSpec, build

LONG = "The birch canoe slid on the smooth planks, and so on and so forth, " * 8 + "until the end. Yes."


@pytest.fixture(scope="module")
def voice(voice_folder):
    return load(voice_folder)


def test_words_of_known_durations():
    tokens = ["h", "ˈ", "aɪ", ",", " ", "ə", "ː", "!"]
    places = np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7])  # a beginning symbol
    edges = np.cumsum([0.0, 0.5, 0.1, 0.01, 0.2, 0.3, 0.05, 0.1, 0.02, 0.4])
    hi, a = timed_words(["Hi,", "a!"], tokens, places, edges)
    assert (hi.text, a.text) == ("Hi,", "a!")
    assert [hi.start, hi.end, a.start, a.end] == pytest.approx([0.5, 0.81, 1.16, 1.28])
    assert [(p.text, round(p.start, 3), round(p.end, 3)) for p in hi.phonemes] == [("h", 0.5, 0.6), ("ˈaɪ", 0.6, 0.81)]
    assert [p.text for p in a.phonemes] == ["əː"]
    assert [w.text for w in timed_words([], tokens, places, edges)] == ["hˈaɪ", "əː"]
    hi, a = timed_words(["Hi", "a!"], [*tokens[:3], *tokens[4:]], places[:-1], edges[:-1])  # no comma, no silence
    assert hi.end == a.start == a.phonemes[0].start == pytest.approx(0.81)


@pytest.mark.parametrize(
    "spec", [TextSpec(blank="_", bos="^", eos="$"), TextSpec(blank="_"), TextSpec(eos="$"), TextSpec()]
)
def test_each_symbol_has_its_place(spec):
    front_end = build(spec)
    (tokens,) = front_end.phonemize("Hello, world!")
    ids, places = front_end.encode(tokens), front_end.places(len(tokens))
    assert len(ids) == len(places)
    extra = {spec.blank, spec.bos, spec.eos}
    symbols = [(spec.symbols[i], p) for i, p in zip(ids, places)]
    assert [tokens[p] for s, p in symbols if s not in extra] == [s for s, _ in symbols if s not in extra] == tokens
    assert all(p == 0 or q == p or q == p + 1 for p, q in zip(places, places[1:]))


@pytest.mark.parametrize(
    "text", ["One. Two, three!", LONG, '<speak><break time="1s"/>In 1999 <break/> it was.</speak>']
)
def test_words_of_a_voice(voice, text):
    audio = voice.synthesize(text)
    words = audio.timestamps
    assert [w.text for w in words] == [w for s in voice.front_end.sentences(text) for w in s.text.split()]
    times = [t for w in words for p in w.phonemes for t in (p.start, p.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= audio.duration
    for word in words:
        assert (word.start, word.end) == (word.phonemes[0].start, word.phonemes[-1].end)
    for segment in audio.segments:  # silence between sentences belongs to no word
        first, last = segment.start / 8000, (segment.start + 16 * len(segment.mel)) / 8000
        assert all(first <= w.start < w.end <= last + 1e-9 for w in segment.words)


def test_blanks_and_ends_are_counted(voice):
    spec = replace(voice.files.text, blank="_", bos="^", eos="$")
    other = Voice(replace(voice.files, text=spec))
    audio = other.synthesize("Hello there.")
    (segment,) = audio.segments
    first, second = audio.timestamps
    ends = np.cumsum(segment.durations) * 16 / 8000
    assert segment.symbols[:3] == ("^", "_", "h") and first.start == pytest.approx(ends[1])
    space = segment.symbols.index(" ")  # a blank of the last phoneme ahead of it
    assert first.end == second.start == pytest.approx(ends[space - 1])


def test_files(voice, tmp_path):
    audio = voice.synthesize("Hello there. " + LONG)
    audio.save_timestamps(tmp_path / "t.json")
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["duration"] == pytest.approx(audio.duration, abs=1e-4) and found["sample_rate"] == 8000
    assert len(found["sentences"]) == 3 and found["sentences"][0]["text"] == "Hello there."
    words = [w for s in found["sentences"] for w in s["words"]]
    assert [(w["text"], w["start"]) for w in words] == [(w.text, round(w.start, 4)) for w in audio.timestamps]
    assert words[0]["phonemes"][0]["text"] == "h"

    audio.save_timestamps(tmp_path / "t.srt")
    text = (tmp_path / "t.srt").read_text()
    cues = re.findall(r"(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n((?:.+\n)+)\n", text)
    assert "".join(f"{n}\n{a} --> {b}\n{t}\n" for n, a, b, t in cues) == text  # nothing else in it
    assert [int(n) for n, *_ in cues] == list(range(1, len(cues) + 1))
    assert " ".join(t for *_, t in cues).split() == [w.text for w in audio.timestamps]
    assert all(len(line) <= 42 for *_, t in cues for line in t.split("\n")) and all(
        t.count("\n") <= 2 for *_, t in cues
    )
    seconds = [
        sum(float(x) * u for x, u in zip(re.split("[:,]", t), (3600, 60, 1, 0.001))) for c in cues for t in c[1:3]
    ]
    assert seconds == sorted(seconds) and seconds[-1] <= audio.duration
    assert cues[0][3] == "Hello there.\n" and seconds[0] == pytest.approx(audio.timestamps[0].start, abs=6e-4)


def test_files_refused(voice, tmp_path):
    audio = voice.synthesize("Hello.")
    with pytest.raises(ValueError, match="unknown suffix '.txt'; choose from .json, .srt"):
        audio.save_timestamps(tmp_path / "t.txt")
    with pytest.raises(ValueError, match="does not exist"):
        audio.save_timestamps(tmp_path / "no" / "t.srt")
    with pytest.raises(ValueError, match="no timestamps"):
        Audio(audio.samples, 8000).save_timestamps(tmp_path / "t.srt")
