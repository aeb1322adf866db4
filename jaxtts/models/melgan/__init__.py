"""MelGAN (arXiv 1910.06711) and multi-band MelGAN (arXiv 2005.05106)."""

from jaxtts.models.melgan.model import Config, Model
from jaxtts.models.melgan.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
