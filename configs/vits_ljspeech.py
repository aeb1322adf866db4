"""VITS on LJSpeech with the values of the paper (arXiv 2106.06103, section 3.1; configs/ljs_base.json of the authors).

    jaxtts train vits_ljspeech --data LJSpeech-1.1 --workdir runs/vits_ljspeech

Batches of 64 utterances, of each of which 32 frames (8,192 samples) are decoded; the paper's four GPUs took 64 each
(--batch-size 256). 800,000 steps, the learning rate times 0.999875 after each epoch of 12,500 utterances. Text is
espeak-ng's phonemes in the authors' 178 symbols with a blank between any two (pip install "jaxtts[espeak]"), so that a
run can begin with their checkpoint: --from pretrained_ljs.pth. Not yet run here: no figures.
"""

from jaxtts.models.vits import Config
from jaxtts.models.vits.task import paper_optim
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec


def get_config() -> Recipe:
    """The recipe."""
    config, batch_size = Config(), 64
    optim = paper_optim(steps_per_epoch=12_500 // batch_size)
    text = TextSpec("espeak", blank="_", lowercase=True, cleaner="english_cleaners2")
    return Recipe(
        name="vits",
        model=config,
        optim={"generator": optim, "discriminator": optim},
        data=DataConfig(mel=config.mel, text=text, batch_size=batch_size, held_out=100),
        steps=800_000,
    )
