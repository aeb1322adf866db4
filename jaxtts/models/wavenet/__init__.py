"""WaveNet (arXiv 1609.03499)."""

from jaxtts.models.wavenet.model import Config, Model
from jaxtts.models.wavenet.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
