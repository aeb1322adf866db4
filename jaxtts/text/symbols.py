"""Symbol inventories: which tokens a model knows, in the order of its embedding table.

An inventory is data. It is stored with each checkpoint (`TextSpec.symbols`), so a change here never
changes the meaning of a model that is already trained.
"""

from collections.abc import Mapping
from typing import Any

PAD, SPACE = "_", " "
STRESS = ("ˈ", "ˌ")
PUNCTUATION = (".", "?", "!", ",", ";", ":")
TERMINAL = (".", "?", "!")

# What gruut's American lexicon and its grapheme-to-phoneme model emit, stress marks taken off.
EN_US_VOWELS = ("ɑ", "æ", "ʌ", "ə", "ɔ", "aʊ", "aɪ", "ɛ", "ɚ", "eɪ", "ɪ", "i", "oʊ", "ɔɪ", "ʊ", "u")
EN_US_CONSONANTS = tuple("b d f h j k l m n p s t v w z ð ŋ ɡ ɹ ʃ ʒ θ d͡ʒ t͡ʃ".split())

GRUUT_EN_US = (PAD, "^", "$", SPACE, *PUNCTUATION, *STRESS, *EN_US_VOWELS, *EN_US_CONSONANTS)
"""Default inventory, 52 symbols: padding (identity 0), start, end, word boundary, punctuation, stress, phonemes."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ARPABET_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
_ARPABET_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()

CHARACTERS = (PAD, "^", "$", *" .?!,;:'-\"()", *_LETTERS)
"""Default inventory of the character front end."""

ARPABET = tuple(sorted(_ARPABET_CONSONANTS + [v + s for v in _ARPABET_VOWELS for s in ("", "0", "1", "2")]))

GLOW_TTS = (PAD, "-", *"!'(),.:;? ", *_LETTERS, *("@" + s for s in ARPABET))
"""The 148 symbols of jaywalnut310/glow-tts and NVIDIA/tacotron2 (`text/symbols.py`)."""

RTVC = (PAD, "~", *_LETTERS, *"!'\"(),-.:;? ")
"""The 66 symbols of CorentinJ/Real-Time-Voice-Cloning (`synthesizer/utils/symbols.py`); '~' ends each text."""

_IPA = "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'̩'ᵻ"

VITS = (PAD, *';:,.!?¡¿—…"«»“” ', *_LETTERS, *_IPA)
"""The 178 symbols of jaywalnut310/vits (`text/symbols.py`); the apostrophe stands twice there too."""

IPA_TO_ARPABET = dict(zip(EN_US_VOWELS, "AA AE AH AH AO AW AY EH ER EY IH IY OW OY UH UW".split(), strict=True)) | dict(
    zip(EN_US_CONSONANTS, "B D F HH Y K L M N P S T V W Z DH NG G R SH ZH TH JH CH".split(), strict=True)
)


def symbols_from_coqui(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Reads the inventory out of a Coqui `config.json`.

    Coqui builds `[pad, eos, bos, blank] + characters + punctuations`, with `phonemes` in the place of
    `characters` for phoneme models, duplicates removed and sorted where the config says so; its VITS builds
    `[pad] + punctuations + characters + phonemes + [blank]`.

    Args:
        config: the parsed config, or its section `characters` alone.

    Returns:
        The symbols in the order of the model's embedding table.

    Raises:
        ValueError: the section `characters` is missing or has no characters.
    """
    section = config["characters"] if isinstance(config.get("characters"), Mapping) else config
    if not section.get("characters") and not section.get("phonemes"):
        raise ValueError(
            "config has no section 'characters' with characters or phonemes: "
            "give the config.json that belongs to the checkpoint"
        )
    pad, eos, bos, blank = (section.get(name) or "" for name in ("pad", "eos", "bos", "blank"))
    punctuations = list(section.get("punctuations") or "")
    kind = str(section.get("characters_class") or "")
    if kind.endswith("VitsCharacters"):
        letters = [*(section.get("characters") or ""), *(section.get("phonemes") or "")]
        return (pad, *punctuations, *letters, blank or "<BLNK>")
    uses_phonemes = kind.endswith("IPAPhonemes") or not kind and bool(config.get("use_phonemes", True))
    letters = list((uses_phonemes and section.get("phonemes")) or section.get("characters") or section["phonemes"])
    if section.get("is_unique", True):
        letters = list(dict.fromkeys(letters))
    if section.get("is_sorted", True):
        letters = sorted(letters)
    return tuple(s for s in (pad, eos, bos, blank) if s) + tuple(letters) + tuple(punctuations)
