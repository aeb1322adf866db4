"""Glow-TTS on LJSpeech with the values of the paper (arXiv 2005.11129, appendix A and section 5; configs/base.json).

    jaxtts train glow_tts_ljspeech --data LJSpeech-1.1 --workdir runs/glow_tts_ljspeech

Batches of 64 (2 GPUs of 32 in the paper), 240,000 steps. Text is gruut's phonemes, with a blank between any two, which
the authors recommend since (jaywalnut310/glow-tts, README). Differs from the paper in the mels: HiFi-GAN's, so that the
vocoders of hifigan_ljspeech and vocos_ljspeech can speak them. Not yet run here: no figures.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.glow_tts import Config
from jaxtts.models.glow_tts.task import paper_optim
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import GRUUT_EN_US, TextSpec


def get_config() -> Recipe:
    """The recipe."""
    text = TextSpec(symbols=(*GRUUT_EN_US, "<blank>"), blank="<blank>")
    return Recipe(
        name="glow_tts",
        model=Config(num_symbols=len(text.symbols)),
        optim=paper_optim(),
        data=DataConfig(mel=mel_spec("hifigan"), text=text, batch_size=64, held_out=100),
        steps=240_000,
    )
