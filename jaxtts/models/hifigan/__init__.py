"""HiFi-GAN (arXiv 2010.05646)."""

from jaxtts.models.hifigan.model import Config
from jaxtts.models.hifigan.model import Generator as Model
from jaxtts.models.hifigan.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
