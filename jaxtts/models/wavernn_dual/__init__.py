"""WaveRNN with a dual softmax (arXiv 1802.08435)."""

from jaxtts.models.wavernn_dual.model import Config, Model
from jaxtts.models.wavernn_dual.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
