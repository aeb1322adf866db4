"""WaveRNN as fatchord has it (after arXiv 1802.08435)."""

from jaxtts.models.wavernn.model import Config, Model
from jaxtts.models.wavernn.task import build_task, default_optim

__all__ = ["Config", "Model", "build_task", "default_optim"]
