"""Vocos (arXiv 2306.00814)."""

from jaxtts.models.vocos.model import Config
from jaxtts.models.vocos.model import Vocos as Model
from jaxtts.models.vocos.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
