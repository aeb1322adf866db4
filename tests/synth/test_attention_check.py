"""The check of attention on courses that were drawn by hand."""

import numpy as np
import pytest

from jaxtts.synth.attention_check import Faults, check, is_spoken

TEXT = "the birch canoe slid on the smooth planks."
SPOKEN = np.array([is_spoken(c) for c in TEXT])
PACE, LONGEST = 6, 120


def course(centres, width=0.0):
    """Alignment [T, S] of attention around these places: a bell of that width, or all on one symbol."""
    centres = np.asarray(centres, np.float64)[:, None]
    places = np.arange(len(TEXT))
    if width:
        weights = np.exp(-((places - centres) ** 2) / (2 * width**2))
    else:
        weights = (places == np.round(centres)).astype(float)
    return weights / weights.sum(axis=1, keepdims=True)


def read(first, last, pace=PACE):
    """Moving on from one symbol to another, both included."""
    return np.repeat(np.arange(first, last + 1), pace)


def found(alignment, longest=LONGEST):
    return check(alignment.argmax(axis=1), alignment.max(axis=0), SPOKEN, longest)


def letters(places):
    return "".join(TEXT[p] for p in places)


END = len(TEXT) - 1
WHOLE = read(0, END)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("pace", [1, 2, 6, 15])
def test_a_diagonal_is_fine(width, pace):
    assert found(course(read(0, END, pace), width)) == Faults()


def test_trembling_is_fine():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        centres = np.clip(WHOLE + rng.integers(-1, 2, len(WHOLE)), 0, END)
        assert found(course(centres, 1.0)) == Faults()


def test_pauses_may_wander():
    rest = np.full(35, 15)
    wandering = np.concatenate([read(0, 15), rest, [3], rest, [30], rest, read(16, END), np.full(40, END)])
    assert TEXT[15] == " " and found(course(wandering, 0.7)) == Faults()


def test_steps_over_spaces_are_fine():
    centres = [p for p in WHOLE if SPOKEN[p]]
    assert found(course(centres)) == Faults()


def test_silent_letters_are_not_skipped():
    """What attention glides over between two frames."""
    alignment = course([p for p in WHOLE if p != 14])  # the e of canoe
    place = np.flatnonzero(alignment.argmax(axis=1) == 13)[-1]
    alignment[place] = 0.9 * alignment[place] + 0.1 * (np.arange(len(TEXT)) == 14)
    assert found(alignment) == Faults()


@pytest.mark.parametrize("width", [0.0, 0.5])
def test_a_skipped_word(width):
    first, last = TEXT.index("canoe"), TEXT.index("canoe") + 4
    faults = found(course(np.concatenate([read(0, first - 1), read(last + 1, END)]), width))
    assert set(letters(faults.skipped)) <= set("canoe") and len(faults.skipped) >= 2 and not faults.repeated
    if not width:
        assert letters(faults.skipped) == "canoe"


def test_an_end_that_is_never_reached():
    faults = found(course(read(0, TEXT.index("h planks")), 0.2))
    assert letters(faults.skipped) == "planks" and not faults.repeated


def test_a_word_read_twice():
    first, last = TEXT.index("canoe"), TEXT.index("canoe") + 4
    faults = found(course(np.concatenate([read(0, last + 3), read(first, END)]), 0.7))
    assert letters(faults.repeated).startswith("ca") and set(letters(faults.repeated)) <= set("canoes")
    assert not faults.skipped


def test_a_beginning_read_again_at_the_end():
    faults = found(course(np.concatenate([WHOLE, read(0, 8)]), 0.7))
    assert letters(faults.repeated) == "thebirch" and not faults.skipped


def test_back_and_forth():
    turn = np.concatenate([read(10, 22), read(10, 22)[::-1]])
    faults = found(course(np.concatenate([read(0, 22), turn[::-1], turn, read(22, END)]), 0.7))
    assert set(range(10, 15)) <= set(faults.repeated) and not faults.skipped


def test_attention_that_sticks():
    stuck = found(course(np.concatenate([read(0, 11), np.full(LONGEST, 11), read(12, END)]), 0.7))
    assert stuck == Faults(False, (), (11,))
    assert not found(course(np.concatenate([read(0, 11), np.full(LONGEST // 2, 11), read(12, END)]), 0.7)).repeated
    stuck = found(course(np.full(500, 4)))
    assert stuck.repeated == (4, END - 1) or stuck.repeated == (4,)
    assert 4 not in stuck.skipped and letters(stuck.skipped) == TEXT[:4].strip() + TEXT[5:].replace(" ", "")[:-1]


@pytest.mark.parametrize("end", [[END], [END - 1], [END, END - 1, END - 2]], ids=["mark", "letter", "wandering"])
def test_going_on_after_the_end(end):
    """What nobody would call repeated while it lasts no longer than a pause."""
    assert found(course(np.concatenate([WHOLE, np.resize(end, 60)]), 0.5)) == Faults()
    faults = found(course(np.concatenate([WHOLE, np.resize(end, 300)]), 0.5))
    assert END - 1 in faults.repeated and not faults.skipped


def test_babble():
    """Attention everywhere at once, and attention on anything at random."""
    rng = np.random.default_rng(1)
    smeared = rng.uniform(0.9, 1.1, (300, len(TEXT)))
    assert letters(found(smeared / smeared.sum(axis=1, keepdims=True)).skipped) == TEXT.replace(" ", "")[:-1]
    random = found(course(rng.integers(0, END + 1, 300)))
    assert len(random.repeated) > 20


def test_nothing_to_read():
    assert check(np.zeros(9, int), np.ones(1), np.array([False]), 5.0) == Faults()
    assert check(np.zeros(0, int), np.zeros(2), np.array([True, True]), 5.0).skipped == (0, 1)


def test_a_sentence_that_does_not_end_is_worst():
    assert Faults(True).weight > Faults(False, tuple(range(9)), tuple(range(9))).weight > Faults().weight


def test_what_is_spoken():
    spoken = ["a", "ɹ", "d͡ʒ", "aʊ", "@AH0", "ç", "é", "7", "м", "你"]
    silent = [" ", ".", "?", "'", "_", "^", "$", "ˈ", "ˌ", "ː", "̩", "-", "↗"]
    assert all(map(is_spoken, spoken)) and not any(map(is_spoken, silent))


def test_a_short_text_under_a_flat_alignment_is_not_read():
    spoken = np.ones(8, bool)
    faults = check(np.zeros(30, int), np.full(8, 1 / 8), spoken, 1000)
    assert faults.skipped == tuple(range(8))


def test_fewer_frames_than_symbols_read_only_what_they_look_at():
    spoken = np.ones(8, bool)
    faults = check(np.array([0, 3]), np.full(8, 0.3), spoken, 1000)
    assert faults.skipped == (1, 2, 4, 5, 6, 7)
