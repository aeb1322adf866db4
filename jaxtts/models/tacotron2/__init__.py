"""Tacotron 2 (arXiv 1712.05884)."""

from jaxtts.models.tacotron2.model import Config, Model
from jaxtts.models.tacotron2.task import build_task

__all__ = ["Config", "Model", "build_task"]
