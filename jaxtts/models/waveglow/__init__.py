"""WaveGlow (arXiv 1811.00002)."""

from jaxtts.models.waveglow.model import Config, Model
from jaxtts.models.waveglow.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
