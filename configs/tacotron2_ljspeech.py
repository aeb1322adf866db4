"""Tacotron 2 on LJSpeech with the values of NVIDIA/tacotron2@185cd24 (hparams.py).

    jaxtts train tacotron2_ljspeech --data LJSpeech-1.1 --workdir runs/tacotron2_ljspeech

Batches of 64, Adam with 1e-3, weight decay 1e-6, gradients clipped at norm 1; the frames are those that NVIDIA's
WaveGlow reads. Text is gruut's phonemes in place of letters. Not yet run here: no figures.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.tacotron2 import Config
from jaxtts.models.tacotron2.task import reference_optim
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec


def get_config() -> Recipe:
    """The recipe."""
    text = TextSpec(bos="^")
    return Recipe(
        name="tacotron2",
        model=Config(num_symbols=len(text.symbols)),
        optim=reference_optim(),
        data=DataConfig(mel=mel_spec("tacotron2"), text=text, batch_size=64, held_out=100),
        steps=200_000,
    )
