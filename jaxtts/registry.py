"""Every model, by name. Importing this imports none of them."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Entry(NamedTuple):
    """One row of the table that `jaxtts models` prints.

    Attributes:
        traits: what those who call the model must know: 'autoregressive' (it ends by itself, and may fail to),
            'noise' (a vocoder that reads noise) or 'samples' (a vocoder that draws one sample at a time);
            'weights_dtype' (and can do so with weights in fewer bits).
    """

    module: str
    kind: str
    paper: str
    title: str
    traits: tuple[str, ...] = ()


MODELS: dict[str, Entry] = {
    "glow_tts": Entry("jaxtts.models.glow_tts", "acoustic", "arXiv 2005.11129", "Glow-TTS"),
    "hifigan": Entry("jaxtts.models.hifigan", "vocoder", "arXiv 2010.05646", "HiFi-GAN"),
    "melgan": Entry("jaxtts.models.melgan", "vocoder", "arXiv 1910.06711", "MelGAN"),
    "parallel_wavegan": Entry(
        "jaxtts.models.parallel_wavegan", "vocoder", "arXiv 1910.11480", "Parallel WaveGAN", ("noise",)
    ),
    "parallel_wavenet": Entry(
        "jaxtts.models.parallel_wavenet", "vocoder", "arXiv 1711.10433", "Parallel WaveNet", ("noise",)
    ),
    "tacotron": Entry("jaxtts.models.tacotron", "acoustic", "arXiv 1703.10135", "Tacotron", ("autoregressive",)),
    "tacotron2": Entry("jaxtts.models.tacotron2", "acoustic", "arXiv 1712.05884", "Tacotron 2", ("autoregressive",)),
    "vits": Entry("jaxtts.models.vits", "end-to-end", "arXiv 2106.06103", "VITS"),
    "vocos": Entry("jaxtts.models.vocos", "vocoder", "arXiv 2306.00814", "Vocos"),
    "waveglow": Entry("jaxtts.models.waveglow", "vocoder", "arXiv 1811.00002", "WaveGlow", ("noise",)),
    "wavenet": Entry("jaxtts.models.wavenet", "vocoder", "arXiv 1609.03499", "WaveNet", ("samples", "weights_dtype")),
    "wavernn": Entry("jaxtts.models.wavernn", "vocoder", "fatchord/WaveRNN", "WaveRNN", ("samples",)),
    "wavernn_dual": Entry(
        "jaxtts.models.wavernn_dual", "vocoder", "arXiv 1802.08435", "WaveRNN, dual softmax", ("samples",)
    ),
}


def module(name: str) -> ModuleType:
    """The model's module, which exports Config, Model and build_task.

    Raises:
        ValueError: no such model.
    """
    if name not in MODELS:
        raise ValueError(f"model={name!r} is not known; use one of {', '.join(MODELS)}")
    return import_module(MODELS[name].module)
