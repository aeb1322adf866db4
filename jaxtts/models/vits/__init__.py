"""VITS, see model.py."""

from jaxtts.models.vits.model import Config, Model
from jaxtts.models.vits.task import build_task

__all__ = ["Config", "Model", "build_task"]
