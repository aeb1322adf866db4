"""Vocos on LJSpeech: the paper's model and optimiser (arXiv 2306.00814, section 4) on HiFi-GAN's 22.05 kHz mels.

    jaxtts train vocos_ljspeech --data LJSpeech-1.1 --workdir runs/vocos_ljspeech

Batches of 16 cuts of 16,384 samples, 1,000,000 steps, as configs/vocos.yaml of gemelo-ai/vocos has them. Not yet run
here: no figures.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.vocos import Config, default_optim
from jaxtts.recipe import DataConfig, Recipe


def get_config() -> Recipe:
    """The recipe."""
    mel, steps = mel_spec("hifigan"), 1_000_000
    return Recipe(
        name="vocos",
        model=Config(mel=mel),
        optim=default_optim(steps),
        data=DataConfig(mel=mel, batch_size=16, segment_length=16_384, held_out=150),
        steps=steps,
        eval_every=5000,
        sample_every=5000,
        save_every=5000,
    )
