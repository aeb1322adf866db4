"""SSML through the front end: each element to the tokens, rates and pauses that it asks for, or a clear refusal."""

import pytest

from jaxtts.text import TextSpec, build
from jaxtts.text.ssml import RATES, STRENGTHS

FRONT_END = build(TextSpec())


def sentences(inside, front_end=FRONT_END):
    return front_end.sentences(f"<speak>{inside}</speak>")


def words(inside):
    return " ".join(s.text for s in sentences(inside))


def say_as(content, kind, form=None):
    attribute = f' format="{form}"' if form else ""
    return words(f'Say <say-as interpret-as="{kind}"{attribute}>{content}</say-as> now.')[4:-5]


@pytest.mark.parametrize(
    "kind, form, content, expected",
    [
        ("cardinal", None, "1999", "one thousand, nine hundred and ninety nine"),
        ("cardinal", None, "-5", "minus five"),
        ("number", None, "3.14", "three point one four"),
        ("number", "ordinal", "21", "twenty first"),
        ("ordinal", None, "3rd", "third"),
        ("ordinal", None, "1,000", "one thousandth"),
        ("digits", None, "007", "zero zero seven"),
        ("year", None, "1999", "nineteen ninety nine"),
        ("characters", None, "NaCl", "N a C l"),
        ("spell-out", None, "A1B2", "A one B two"),
        ("verbatim", None, "a@b-1.com", "a at b dash one dot c o m"),
        ("date", "mdy", "5/6/2021", "May sixth, twenty twenty one"),
        ("date", "dmy", "5/6/2021", "June fifth, twenty twenty one"),
        ("date", "yyyymmdd", "20210506", "May sixth, twenty twenty one"),
        ("date", "ymd", "2021-05-06", "May sixth, twenty twenty one"),
        ("date", None, "2021-05-06", "May sixth, twenty twenty one"),
        ("date", "dm", "5.6", "June fifth"),
        ("date", "my", "5/2021", "May twenty twenty one"),
        ("date", "y", "1999", "nineteen ninety nine"),
        ("time", None, "10:30", "ten thirty"),
        ("time", "hms24", "14:05:01", "fourteen oh five and one second"),
        ("time", "hms12", "2:05pm", "two oh five P M"),
        ("time", None, "12:00", "twelve o'clock"),
        ("telephone", None, "+1 (555) 123-4567", "plus one, five five five, one two three, four five six seven"),
        ("telephone", None, "555-0199 ext. 12", "five five five, zero one nine nine, extension one two"),
        ("currency", None, "$3.50", "three dollars fifty cents"),
        ("currency", "USD", "20 USD", "twenty dollars"),
        ("currency", None, "¥20", "twenty yen"),
    ],
)
def test_say_as(kind, form, content, expected):
    assert say_as(content, kind, form) == expected


def test_letters_have_their_names():
    tokens = sentences('<say-as interpret-as="characters">at</say-as>')[0].tokens
    assert "".join(tokens) == "ˈeɪ tˈi."


@pytest.mark.parametrize(
    "kind, content, message",
    [
        ("unheard-of", "5", "interpret-as='unheard-of': take cardinal, .*currency"),
        ("", "5", "interpret-as=''"),
        ("cardinal", "twelve", "cannot read 'twelve' as cardinal"),
        ("date", "31/02/2021", "cannot read '31/02/2021' as date"),
        ("time", "25:00", "cannot read '25:00' as time"),
        ("telephone", "call me", "cannot read 'call me' as telephone"),
        ("currency", "5", "cannot read '5' as currency"),
        ("digits", "1a", "cannot read '1a' as digits"),
        ("characters", "", "cannot read '' as characters"),
    ],
)
def test_say_as_refuses(kind, content, message):
    with pytest.raises(ValueError, match=f"SSML say-as .*{message}"):
        say_as(content, kind)


def test_say_as_formats_are_checked():
    with pytest.raises(ValueError, match="format='roman' for a number"):
        say_as("5", "number", "roman")
    with pytest.raises(ValueError, match="format='xyz' for a date"):
        say_as("5/6", "date", "xyz")


@pytest.mark.parametrize(
    "inside, pauses",
    [
        ("One.<break/>Two.", [0.5, 0]),
        ("One.<break time='1.5s'/>Two.<break time='20ms'/>", [1.5, 0.02]),
        ("<s>One.</s><break strength='strong'/><s>Two.</s>", [0.75, 0]),
        ("<p>One.</p><break strength='weak'/><break time='1s'/><p>Two.</p>", [1.25, 0]),
        ("One <break strength='none'/> two.", [0]),
        ("One <break strength='x-weak' time='+.3s'/> two.", [0.3, 0]),
        (
            "In 1999<break time='1s'/> or <say-as interpret-as='date'>5/6/2021</say-as><break time='2s'/> it was.",
            [1, 2, 0],
        ),
    ],
)
def test_breaks_count_wherever_they_stand(inside, pauses):
    assert [s.pause for s in sentences(inside)] == pytest.approx(pauses)


def test_a_break_ahead_of_everything():
    first, second = sentences('<break time="1s"/>One.')
    assert first == ("", [], 1.0, ()) and second.tokens[-1] == "."
    with pytest.raises(ValueError, match="nothing to speak"):
        sentences('<break time="1s"/>')


def test_strengths_rise():
    values = [STRENGTHS[name] for name in ("none", "x-weak", "weak", "medium", "strong", "x-strong")]
    assert values == sorted(set(values)) and values[0] == 0


@pytest.mark.parametrize("rate, expected", [*RATES.items(), ("80%", 0.8), ("0.8", 0.8), ("+20%", 1.2), ("-50%", 0.5)])
def test_rate_of_words(rate, expected):
    (sentence,) = sentences(f"Say <prosody rate='{rate}'>the cat 42</prosody> now.")
    tokens, rates = sentence.tokens, list(sentence.rates) or [1.0] * len(sentence.tokens)
    assert sentence.text == "Say the cat forty two now."
    assert {round(r, 6) for r in rates} == {1.0, expected}
    changed = [n for n, r in enumerate(rates) if r != 1.0]
    if changed:  # all tokens of the words inside, numbers written out too, and none outside
        assert "".join(tokens[changed[0] : changed[-1] + 1]).strip() == "ðə kˈæt fˈɔɹti tˈu"
        assert changed == list(range(changed[0], changed[-1] + 1))


def test_rates_within_rates():
    inside = '<prosody rate="slow">a <prosody rate="-20%">b</prosody> <prosody rate="fast">c</prosody></prosody>.'
    (sentence,) = sentences(inside)
    assert [sentence.rates[i] for i in (0, 2, 5)] == pytest.approx([0.75, 0.6, 1.25])
    assert len(sentence.rates) == len(sentence.tokens)


def test_rates_over_sentences_and_breaks():
    found = sentences('<prosody rate="fast">One. <break time="1s"/>Two.</prosody> Three.')
    assert [set(s.rates) for s in found] == [{1.25}, {1.25}, set()] and [s.pause for s in found] == [1.0, 0, 0]


def test_rates_in_arpabet():
    (sentence,) = sentences('Hello, <prosody rate="2">world</prosody>!', build(TextSpec("arpabet")))
    assert "".join(sentence.tokens) == "@HH@EH0@L@OW1, @W@ER1@L@D!"
    assert sentence.rates == [1.0] * 5 + [2.0] * 6


@pytest.mark.parametrize(
    "inside, message",
    [
        ("<prosody pitch='+2st' rate='slow'>a</prosody>", "pitch='\\+2st': voices here change their rate alone"),
        ("<prosody volume='loud'>a</prosody>", "volume='loud'"),
        ("<prosody>a</prosody>", "rate='': take x-slow"),
        ("<prosody rate='huge'>a</prosody>", "rate='huge': take x-slow"),
        ("<prosody rate='1%'>a</prosody>", "between 20% and 500%"),
        ("<break strength='big'/>a", "strength='big': take none"),
        ("<break time='long'/>a", "time='long'"),
        ("<break time='9999s'/>a", "time='9999s'"),
        ("<phoneme alphabet='x-sampa' ph='a'>b</phoneme>", "alphabet='x-sampa'"),
        ("<phoneme>b</phoneme>", "ph=''"),
        ("<emphasis>a</emphasis>", "<emphasis> is not supported: take break, p, phoneme, prosody, s, say-as"),
    ],
)
def test_what_is_not_understood_is_named(inside, message):
    with pytest.raises(ValueError, match=message):
        sentences(inside)


def test_phonemes_aliases_and_roles():
    assert "".join(sentences("<phoneme ph='t͡ʃ ˈɔɪ s'>x y</phoneme> it.")[0].tokens) == "t͡ʃˈɔɪs ˈɪt."
    assert words("It is <sub alias='3 km'>3km</sub>.") == "It is three kilometers."
    tokens = sentences("<w role='gruut:VB'>record</w> the <w role='gruut:NN'>record</w>.")[0].tokens
    assert "".join(tokens) == "ɹɪkˈɔɹd ðə ɹˈɛkɚd."


def test_marks_beside_elements_stay():
    inside = "Well, <sub alias='you'>u</sub>, and <prosody rate='slow'>I: </prosody>we; <w>go</w>!"
    assert words(inside) == "Well, you, and I: we; go!"


def test_other_front_ends_take_structure_alone():
    front_end = build(TextSpec("characters"))
    assert [s.text for s in sentences("<s>One.</s><s>Two.</s>", front_end)] == ["One.", "Two."]
    with pytest.raises(ValueError, match="<prosody> needs the front end 'gruut'"):
        sentences("<prosody rate='slow'>One</prosody>", front_end)
