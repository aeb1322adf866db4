"""Checkpoints that other toolkits wrote, read without torch and without executing anything in them.

    voice = read('facebook/mms-tts-eng')       # a folder, or the file of its weights
    voice.model, voice.config, voice.tensors   # what `Model(config)` needs, by our names

Hugging Face `VitsModel` folders, jaywalnut310's VITS and Glow-TTS, Coqui's VITS, Glow-TTS and both Tacotrons, Piper's
training checkpoints, HiFi-GAN generators, NVIDIA's Tacotron 2 and WaveGlow, Real-Time-Voice-Cloning's synthesizer, the
WaveRNN of both it and fatchord, r9y9's WaveNet, kan-bayashi's Parallel WaveGAN, and what `jaxtts import-weights` or a
training run here wrote. Each toolkit has its module with `TITLE`, `recognises(values)` of the configuration (if it
writes none, `recognises_weights(names)`) and `read(source)`.
"""

from importlib import import_module
from pathlib import Path

from jaxtts.audio.spec import mel_spec as named_mel
from jaxtts.interop.foreign import Foreign, Source, locate
from jaxtts.weights import read_weights

__all__ = ["Foreign", "read", "recognise"]

TOOLKITS = (
    "native", "huggingface", "coqui", "piper", "jaywalnut310", "hifigan", "nvidia", "rtvc", "fatchord", "r9y9",
    "kan_bayashi",
)  # fmt: skip
WITHOUT_CONFIG = ("nvidia", "rtvc", "fatchord", "r9y9", "kan_bayashi")  # the last two to say what they lack


def recognise(path: str | Path) -> str | None:
    """Which toolkit wrote a folder or file, in words; None if it is none of those that `read` knows."""
    try:
        source = locate(Path(path).expanduser())
    except (ValueError, OSError):
        return None
    toolkit = _toolkit(source)
    return None if toolkit is None else import_module(f"jaxtts.interop.{toolkit}").TITLE


def read(
    path: str | Path, *, config: str | Path | None = None, language: str | None = None, mel_spec: str | None = None
) -> Foreign:
    """Reads a checkpoint.

    Args:
        path: the folder, or the file of the weights with its configuration beside it.
        config: the configuration, where it lies elsewhere.
        language: which one to speak, of a model of several.
        mel_spec: name of the frames, where the configuration does not say.

    Raises:
        ValueError: what is there is damaged or incomplete, or of a kind that is not supported; one sentence says which.
    """
    mel = named_mel(mel_spec) if mel_spec else None
    source = locate(Path(path).expanduser(), Path(config) if config else None, language=language, mel=mel)
    toolkit = _toolkit(source)
    if toolkit is None and not source.values:
        raise ValueError(f"{source.folder} has no config.json: give the checkpoint's own config with --config")
    if toolkit is None:
        said = ", ".join(map(repr, list(source.values)[:8])) or "nothing"
        titles = ", ".join(import_module(f"jaxtts.interop.{name}").TITLE for name in TOOLKITS)
        raise ValueError(f"{source.config} (which tells {said}) is the configuration of none of: {titles}")
    try:
        return import_module(f"jaxtts.interop.{toolkit}").read(source)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__} at {error}"
        raise ValueError(f"{source.config} does not describe a model of its kind: {reason}") from error


def _toolkit(source: Source) -> str | None:
    if not source.values:
        names = read_weights(source.file()).keys()
        return next((n for n in WITHOUT_CONFIG if import_module(f"jaxtts.interop.{n}").recognises_weights(names)), None)
    return next((n for n in TOOLKITS if import_module(f"jaxtts.interop.{n}").recognises(source.values)), None)
