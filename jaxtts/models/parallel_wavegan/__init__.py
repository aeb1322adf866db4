"""Parallel WaveGAN (arXiv 1910.11480)."""

from jaxtts.models.parallel_wavegan.model import Config, Model
from jaxtts.models.parallel_wavegan.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
