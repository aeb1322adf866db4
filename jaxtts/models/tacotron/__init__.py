"""Tacotron (arXiv 1703.10135)."""

from jaxtts.models.tacotron.model import Config, Model
from jaxtts.models.tacotron.task import build_task

__all__ = ["Config", "Model", "build_task"]
