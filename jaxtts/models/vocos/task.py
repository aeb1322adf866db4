"""Training of Vocos (arXiv 2306.00814, section 3.3): HiFi-GAN's way with the losses of `Config.gan`.

Reference matched: gemelo-ai/vocos `experiment.py`. AdamW (0.8, 0.9), 5e-4 with a cosine to zero (`default_optim`).
Difference: feature matching counts the first layer of a period discriminator too.
"""

from jaxtts.models.hifigan.task import vocoder_task
from jaxtts.models.vocos.model import Config, Vocos
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Task


def default_optim(total_steps: int = 1_000_000) -> OptimConfig:
    """The reference's optimiser, for both nets (configs/vocos.yaml)."""
    return OptimConfig("adamw", 5e-4, "cosine", total_steps=total_steps, b1=0.8, b2=0.9, weight_decay=0.01)


def build_task(config: Config, optim: OptimConfig | dict[str, OptimConfig]) -> Task:
    """Trains Vocos and its discriminators; batches as in `vocoder_task`."""
    return vocoder_task(lambda rngs: Vocos(config, rngs=rngs), config, optim)
