"""fatchord's WaveRNN on LJSpeech with the values of the reference's hparams.py.

    jaxtts train wavernn_ljspeech --data LJSpeech-1.1 --workdir runs/wavernn_ljspeech

A mixture of logistics, batches of 32 cuts of 5 frames and 2 more on each side that are only heard, Adam with 1e-4 for
1,000,000 steps. Not yet run here: no figures.
"""

from jaxtts.models.wavernn import Config, default_optim
from jaxtts.recipe import DataConfig, Recipe


def get_config() -> Recipe:
    """The recipe."""
    config = Config()
    segment = (5 + 2 * config.pad) * config.mel.hop_length
    return Recipe(
        name="wavernn",
        model=config,
        optim=default_optim(),
        data=DataConfig(mel=config.mel, batch_size=32, segment_length=segment, held_out=50),
        steps=1_000_000,
        eval_every=25_000,
        sample_every=25_000,
        save_every=5000,
    )
