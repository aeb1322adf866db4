"""Front ends: known sentences, numbers, bad input, long text, round trips."""

import importlib.util
import json
import re
import subprocess
import sys
import warnings

import gruut
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxtts.text import GLOW_TTS, GRUUT_EN_US, TextSpec, build, split_long
from jaxtts.text.gruut_backend import Phonemizer

FRONT_END = build(TextSpec())

ALICE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: "
    "once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations "
    "in it. So she was considering in her own mind, whether the pleasure of making a daisy chain would be worth "
    "the trouble of getting up and picking the daisies! There was nothing so very remarkable in that? "
)


def spoken(text, front_end=FRONT_END):
    return ["".join(tokens) for tokens in front_end.phonemize(text)]


def words(text):
    return " ".join(s.text for s in FRONT_END.sentences(text))


def test_known_sentence():
    (sentence,) = FRONT_END.sentences("Hello, world!")
    assert sentence.tokens == ["h", "ɛ", "l", "ˈ", "oʊ", ",", " ", "w", "ˈ", "ɚ", "l", "d", "!"]
    assert sentence.text == "Hello, world!"
    ids = FRONT_END.encode(sentence.tokens)
    assert ids.dtype == np.int32 and FRONT_END.decode(ids) == sentence.tokens


def test_sentences_end_in_a_mark():
    assert spoken("the cat sat. is it so? no,") == ["ðə kˈæt sˈæt.", "ˈɪz ˈɪt sˈoʊ?", "nˈoʊ."]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("42 cats", "forty two cats"),
        ("It costs $3.50", "It costs three dollars fifty cents"),
        ("It costs 5$, or £2", "It costs five dollars, or two pounds sterling"),
        ("on 5/6/2021", "on May sixth, twenty twenty one"),
        ("at 10:30pm", "at ten thirty P M"),
        ("Dr. Smith met Mrs. Jones", "Doctor Smith met missus Jones"),
        ("50% & more", "fifty percent and more"),
        ("the 21st", "the twenty first"),
        ("a NASA idea", "a N A S A idea"),
        ("½ of 5km", "one half of five kilometers"),
        ("x < 5", "x less than five"),
        ("1,2,3", "one, two, three"),
        ("¥20", "twenty yen"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three four five six"),
        ("Zoë’s “naïve” idea — then this…", "Zoe's naive idea, then this,"),
        ("a well\u200b-known\u00adly \ufeffthing (so to say) here", "a well knownly thing, so to say, here"),
    ],
)
def test_writes_out(text, expected):
    assert words(text).lower() == expected.lower()


@pytest.mark.parametrize("text", ["1.2.3.4", "99:99", "hmm", "xqzt", "13/13/13", "7" * 400, "www.example.org", "A&B"])
def test_nothing_is_silent(text):
    assert sum(len(t) for t in FRONT_END.phonemize(text)) >= 2 * len(re.findall(r"[a-z]{3,}|\d", text.lower()))


def test_inventory_covers_lexicon_and_guesser():
    import pycrfsuite

    phonemizer = Phonemizer()
    tagger = pycrfsuite.Tagger()
    tagger.open(str(phonemizer._folder / "g2p" / "model.crf"))
    from gruut.g2p import GraphemesToPhonemes

    guessed = {p for label in tagger.labels() for p in GraphemesToPhonemes.decode_string(label).split("|")} - {"_"}
    rows = phonemizer.lexicon._database.execute("SELECT phonemes FROM word_phonemes")
    emitted = guessed | {p for (phonemes,) in rows for p in phonemes.split()}
    assert {p.lstrip("ˈˌ") for p in emitted} <= set(GRUUT_EN_US)
    unused = set(GRUUT_EN_US) - {p.lstrip("ˈˌ") for p in emitted}
    assert unused == set("_^$ .?!,;:ˈˌ") and len(GRUUT_EN_US) == 52


def test_plain_way_equals_gruut():
    phonemizer = Phonemizer()
    for sentence in re.findall(r"[^.!?]+[.!?]", ALICE) + ["The a an of to and.", "I don't think it's so-called."]:
        plain = phonemizer.plain(sentence.strip())
        if plain is not None:
            assert plain == phonemizer._by_gruut(sentence.strip())
    assert phonemizer.plain("I think it's so.") and phonemizer.plain("They record it.") is None


def test_agrees_with_gruut_itself():
    text = "They record a new record, and she read it; he will present the present. The wind was cold."
    expected = [[w.phonemes for w in s if w.is_spoken] for s in gruut.sentences(text, lang="en-us")]
    phonemizer = Phonemizer()
    assert [[list(w.phonemes) for w in s] for s in phonemizer._by_gruut(text)] == expected


def test_plain_sentence_loads_neither_gruut_nor_jax():
    code = (
        "import sys; from jaxtts.text import TextSpec, build; build(TextSpec()).sentences('The cat sat.');"
        "sys.exit(int(any(m in sys.modules for m in ('gruut', 'networkx', 'jax', 'phonemizer'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_same_tokens_in_any_order():
    texts = ["NASA met nasa.", "Nasa and NASA.", "It's 5 o'clock, Mr. Brown."]
    forward = [spoken(t, front_end) for front_end in [build(TextSpec())] for t in texts]
    backward = [spoken(t, front_end) for front_end in [build(TextSpec())] for t in texts[::-1]]
    assert forward == backward[::-1]


def test_long_text_keeps_every_word():
    text = (ALICE * 6)[:2000].rsplit(" ", 1)[0]
    assert re.findall(r"\w+", words(text)) == re.findall(r"\w+", text)
    unbroken = "wonderful daisies " * 400 + "number 7"
    assert words(unbroken).split() == unbroken.replace("7", "seven").split()


@pytest.mark.parametrize(
    "text",
    [
        (ALICE * 300)[:100_000],
        "hello\n" * 16_000,
        "ab " * 33_000,
        "a" * 100_000,
        "<" * 99_999 + "x",
        "1" * 100_000,
        " " * 99_999 + "x",
        "," * 99_999 + "x",
        "\U0001f600" * 99_999 + "x",
    ],
    ids=["prose", "lines", "unpunctuated", "one word", "brackets", "digits", "spaces", "commas", "emoji"],
)
def test_hundred_thousand_characters(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for sentence in FRONT_END.sentences(text):
            FRONT_END.encode(sentence.tokens)


@pytest.mark.parametrize(
    "text", ["", "   ", "\n\n", "...", "?!", "\U0001f600", "中文", "\x00\x07", "'", "--", "(", "\ufeff"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_to_speak(text):
    with pytest.raises(ValueError, match="nothing to speak"):
        FRONT_END.sentences(text)


def test_unspeakable_characters_are_named():
    with pytest.warns(UserWarning, match=r"U\+2764.*U\+4E2D"):
        assert spoken("I ❤ 中 you") == ["ˈaɪ jˈu."]
    with pytest.raises(ValueError, match=r"U\+2764"):
        FRONT_END.sentences("I ❤ you", strict=True)


def test_unknown_symbols_are_named():
    with pytest.raises(ValueError, match="'ʘ' at 1, 'ø' at 2"):
        FRONT_END.encode(["h", "ʘ", "ø"])


@given(st.one_of(st.text(max_size=60), st.text("aeT .,'?!-$€%&@/<>:;0123456789é中\U0001f600\x00\n\ud800", max_size=40)))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzz(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            sentences = FRONT_END.sentences(text)
        except ValueError as error:
            assert "nothing to speak" in str(error) or "SSML" in str(error)
            assert not re.search("[a-zA-Z0-9]", text)
            return
        for sentence in sentences:
            assert FRONT_END.decode(FRONT_END.encode(sentence.tokens)) == sentence.tokens
            assert sentence.tokens[-1] in (".", "?", "!")


@given(st.lists(st.sampled_from(ALICE.split()), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_fuzz_no_word_is_lost(chosen):
    text = " ".join(chosen)
    assert re.findall(r"\w+", words(text)) == re.findall(r"\w+", text)
    assert all(s.tokens.count(" ") == len(s.text.split()) - 1 for s in FRONT_END.sentences(text))


def test_ssml():
    text = (
        '<speak xml:lang="en-US">Hello <break time="500ms"/> <sub alias="big world">bw</sub> &amp; '
        '<say-as interpret-as="spell-out">ab</say-as>. '
        '<s>Second <phoneme ph="t͡ʃ ˈɔɪ s">some words</phoneme></s></speak>'
    )
    sentences = FRONT_END.sentences(text)
    assert [s.text for s in sentences] == ["Hello", "big world and a b.", "Second somewords"]
    assert [s.pause for s in sentences] == [0.5, 0.0, 0.0]
    assert "".join(sentences[2].tokens) == "sˈɛkənd t͡ʃˈɔɪs."
    assert "ɔɪ" in sentences[2].tokens
    assert words("<speaker> is < 5 </speak>") == "speaker is less than five speak"


@pytest.mark.parametrize(
    "text",
    [
        "<speak>",
        "<speak>a",
        "<speak>a</b></speak>",
        "<speak>a & b</speak>",
        "<speak a=1>x</speak>",
        '<speak><break time="long"/>x</speak>',
        '<speak><lexicon uri="/etc/passwd"/>x</speak>',
        '<speak><audio src="http://example.org/x.wav"/></speak>',
        '<speak xml:lang="de-DE">x</speak>',
        '<speak><say-as interpret-as="unheard-of">5</say-as></speak>' * 2,
    ],
)
def test_broken_ssml(text):
    with pytest.raises(ValueError, match="SSML"):
        FRONT_END.sentences(text)


def test_spec_survives_json():
    for spec in (TextSpec(blank="_", bos="^", eos="$"), TextSpec("characters", symbols=("_", "a"), lowercase=True)):
        assert TextSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        hash(spec)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"frontend": "festival"}, "frontend is 'festival'"),
        ({"blank": "<blank>"}, "blank is '<blank>'"),
        ({"voice": "x"}, r"unknown fields \['voice'\]"),
        ({"language": "qq"}, "gruut.*'qq'"),
    ],
)
def test_bad_spec(fields, message):
    with pytest.raises(ValueError, match=message):
        build(TextSpec.from_dict(fields)).sentences("hello")


def test_blanks_and_ends():
    front_end = build(TextSpec("characters", symbols=("_", "^", "$", "a", "b"), blank="_", bos="^", eos="$"))
    assert front_end.encode("ab").tolist() == [1, 0, 3, 0, 4, 0, 2]
    assert front_end.decode([1, 0, 3, 0, 4, 0, 2]) == ["a", "b"]


def test_characters():
    front_end = build(TextSpec("characters", lowercase=True))
    assert spoken('Mr. A. "Bee" came. He left!', front_end) == ['mr. a. "bee" came.', "he left!"]
    with pytest.warns(UserWarning, match="'5'"):
        assert spoken("at 5 now", front_end) == ["at now"]


def test_arpabet():
    front_end = build(TextSpec("arpabet"))
    (tokens,) = front_end.phonemize("Hello, world!")
    assert "".join(tokens) == "@HH@EH0@L@OW1, @W@ER1@L@D!"
    assert front_end.decode(front_end.encode(tokens)) == tokens and front_end.spec.symbols == GLOW_TTS


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 10_000])
def test_split_long(limit):
    tokens = [t for sentence in FRONT_END.phonemize(ALICE) for t in sentence] + ["ə"] * 50
    parts = split_long(tokens, limit)
    assert all(0 < len(p) <= limit for p in parts)
    assert [t for p in parts for t in p if t != " "] == [t for t in tokens if t != " "]
    if limit == 40:
        assert parts[0][-1] == "," or tokens[len(parts[0])] == " "


def test_espeak_or_how_to_get_it():
    front_end = build(TextSpec("espeak", blank="_"))
    if importlib.util.find_spec("phonemizer") and importlib.util.find_spec("espeakng_loader"):
        assert spoken("Hello, world! (Fine.)", front_end) == ["həlˈoʊ, wˈɜːld!", "fˈaɪn."]
        assert front_end.encode(front_end.phonemize("Hello")[0]).tolist()[::2] == [0] * 8
    else:
        with pytest.raises(ValueError, match=re.escape('pip install "jaxtts[espeak]"')):
            front_end.sentences("Hello")


def test_load_fails_at_once_where_a_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonemizer", None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"jaxtts\[espeak\]"):
        build(TextSpec("espeak")).load()
    assert build(TextSpec("characters")).load().sentences("Hi.")
