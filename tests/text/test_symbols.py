"""Inventories of public checkpoints."""

import pytest

from jaxtts.text import GLOW_TTS, VITS, symbols_from_coqui


def test_public_inventories():
    assert len(GLOW_TTS) == len(set(GLOW_TTS)) == 148
    assert (GLOW_TTS[:3], GLOW_TTS[11:13], GLOW_TTS[63:66]) == (("_", "-", "!"), (" ", "A"), ("z", "@AA", "@AA0"))
    assert GLOW_TTS[-1] == "@ZH" and GLOW_TTS.index("@HH") == 106
    assert len(VITS) == 178 and VITS[0] == "_" and VITS[16] == " "


SECTION = {
    "pad": "<PAD>",
    "eos": "<EOS>",
    "bos": "<BOS>",
    "blank": "<BLNK>",
    "characters": "bca",
    "punctuations": "!, ",
}


def test_coqui():
    ends = ("<PAD>", "<EOS>", "<BOS>", "<BLNK>")
    assert symbols_from_coqui({"characters": SECTION}) == (*ends, "a", "b", "c", "!", ",", " ")
    assert symbols_from_coqui(SECTION | {"is_sorted": False}) == (*ends, "b", "c", "a", "!", ",", " ")
    assert symbols_from_coqui(SECTION | {"phonemes": "əə", "blank": None}) == (*ends[:3], "ə", "!", ",", " ")
    kind = "TTS.tts.models.vits.VitsCharacters"
    assert symbols_from_coqui(SECTION | {"characters_class": kind, "phonemes": "ə"}) == (
        "<PAD>",
        "!",
        ",",
        " ",
        "b",
        "c",
        "a",
        "ə",
        "<BLNK>",
    )
    with pytest.raises(ValueError, match="section 'characters'"):
        symbols_from_coqui({"model": "glow_tts", "characters": None})
