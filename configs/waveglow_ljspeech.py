"""WaveGlow on LJSpeech with the values of the paper (arXiv 1811.00002, section 3).

    jaxtts train waveglow_ljspeech --data LJSpeech-1.1 --workdir runs/waveglow_ljspeech

512 channels, batches of 24 cuts, latent of variance 0.5, Adam with 1e-4 for 580,000 steps (the paper halves the rate
once the loss stays where it is). Cuts have 16,128 samples, whole frames, in place of 16,000. Not yet run here: no
figures.
"""

from jaxtts.models.waveglow import Config, default_optim
from jaxtts.recipe import DataConfig, Recipe


def get_config() -> Recipe:
    """The recipe."""
    config = Config.large(sigma=0.5**0.5)
    return Recipe(
        name="waveglow",
        model=config,
        optim=default_optim(),
        data=DataConfig(mel=config.mel, batch_size=24, segment_length=16_128, held_out=100),
        steps=580_000,
        eval_every=5000,
        sample_every=5000,
        save_every=5000,
    )
