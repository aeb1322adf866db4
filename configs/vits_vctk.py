"""VITS on VCTK with the values of the paper (arXiv 2106.06103, section 3.1; configs/vctk_base.json of the authors).

    jaxtts train vits_vctk --data VCTK-Corpus-0.92 --workdir runs/vits_vctk

The 109 speakers of version 0.92 that have transcripts (those of p315 are lost), its recordings of the first microphone,
whose silence is trimmed already, resampled from 48,000 to 22,050 Hz. Version 0.80 has 108 of them (--set
model.num_speakers=108). Batches of 64 (the paper's four GPUs took 64 each), 800,000 steps, the learning rate times
0.999875 after each epoch of 43,470 utterances. Text as in vits_ljspeech. Not yet run here: no figures.
"""

from jaxtts.models.vits import Config
from jaxtts.models.vits.task import paper_optim
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec


def get_config() -> Recipe:
    """The recipe."""
    config, batch_size = Config.vctk(), 64
    optim = paper_optim(steps_per_epoch=43_470 // batch_size)
    text = TextSpec("espeak", blank="_", lowercase=True, cleaner="english_cleaners2")
    return Recipe(
        name="vits",
        model=config,
        optim={"generator": optim, "discriminator": optim},
        data=DataConfig(mel=config.mel, text=text, batch_size=batch_size, held_out=100),
        steps=800_000,
    )
