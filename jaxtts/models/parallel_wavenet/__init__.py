"""Parallel WaveNet (arXiv 1711.10433) and ClariNet's student (arXiv 1807.07281)."""

from jaxtts.models.parallel_wavenet.model import Config, Model
from jaxtts.models.parallel_wavenet.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
