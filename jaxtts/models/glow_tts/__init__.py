"""Glow-TTS (arXiv 2005.11129)."""

from jaxtts.models.glow_tts.model import Config, Model
from jaxtts.models.glow_tts.task import build_task

__all__ = ["Config", "Model", "build_task"]
