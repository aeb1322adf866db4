"""HiFi-GAN V1 on LJSpeech with the values of the paper (arXiv 2010.05646, section 3.1 and 3.3; config_v1.json).

    jaxtts train hifigan_ljspeech --data LJSpeech-1.1 --workdir runs/hifigan_ljspeech

Batches of 16 cuts of 8,192 samples, 2,500,000 steps, learning rate times 0.999 per epoch of 12,950 utterances. Not yet
run here: no figures.
"""

from jaxtts.models.hifigan import Config, default_optim
from jaxtts.recipe import DataConfig, Recipe


def get_config() -> Recipe:
    """The recipe."""
    config = Config()
    return Recipe(
        name="hifigan",
        model=config,
        optim=default_optim(steps_per_epoch=12_950 // 16),
        data=DataConfig(mel=config.mel, batch_size=16, segment_length=8192, held_out=150),
        steps=2_500_000,
        eval_every=5000,
        sample_every=5000,
        save_every=5000,
    )
