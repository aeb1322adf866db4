"""The voices that come with the package: one folder each, in the format of `synth/folder.py`."""

from importlib.resources import files
from pathlib import Path


def folders() -> dict[str, Path]:
    """Name -> folder of each embedded voice, the default voice first (the first by name)."""
    root = Path(str(files(__name__)))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/voice.json"))}
