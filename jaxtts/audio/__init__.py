"""Sound in and out: named mel specs, STFT and mel features, Griffin-Lim, mu-law, audio files.

Importing this package loads its names on first use, so that nothing heavy (jax, soundfile, soxr) is imported before
it is needed. `spec`, `features`, `mulaw` and `io` are the NumPy side; `stft` and `griffin_lim` are the JAX side.
"""

import importlib
from typing import Any

_MODULES = {
    "spec": ("MEL_SPECS", "MelSpec", "compatible", "mel_spec", "require_same"),
    "features": ("linear_spectrogram_np", "mel_basis", "mel_spectrogram_np"),
    "stft": ("istft", "linear_spectrogram", "mel_spectrogram"),  # `stft` and `griffin_lim` are the modules themselves
    "griffin_lim": ("mel_to_linear", "mel_to_wave"),
    "io": ("encode", "load", "resample", "save"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
