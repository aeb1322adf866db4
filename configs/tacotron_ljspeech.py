"""Tacotron on LJSpeech with the values of keithito/tacotron (hparams.py), which follow the paper (arXiv 1703.10135).

    jaxtts train tacotron_ljspeech --data LJSpeech-1.1 --workdir runs/tacotron_ljspeech

20 kHz, frames of 50 ms every 12.5 ms in decibels, 5 of them a step, batches of 32, letters closed by '~'. keithito's
published voice had 441,000 steps. The linear spectrogram is for Griffin-Lim. Not yet run here: no figures.
"""

from jaxtts.models.tacotron import Config
from jaxtts.models.tacotron.task import reference_optim
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.text.symbols import RTVC


def get_config() -> Recipe:
    """The recipe."""
    text = TextSpec("characters", symbols=RTVC, eos="~", cleaner="english_cleaners")
    model = Config(num_symbols=len(text.symbols), reduction_factor=5)
    return Recipe(
        name="tacotron",
        model=model,
        optim=reference_optim(),
        data=DataConfig(mel=model.mel, text=text, batch_size=32, held_out=100),
        steps=441_000,
    )
