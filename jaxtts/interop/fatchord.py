"""WaveRNN of fatchord (`latest_weights.pyt`) and of Real-Time-Voice-Cloning (`vocoder.pt`), with no configuration.

The second holds the first's tensors as its `model_state`, beside the optimiser. Sizes are read off the tensors; what
the frames mean follows from the hop, see `models.wavernn.convert`, or is given.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, flat
from jaxtts.models.wavernn import convert as wavernn
from jaxtts.weights import read_weights

TITLE = "WaveRNN (fatchord, Real-Time-Voice-Cloning)"


def recognises(values: Mapping[str, Any]) -> bool:
    """It has no configuration."""
    return False


def recognises_weights(names: Collection[str]) -> bool:
    """Whether tensors have its names."""
    return wavernn.is_wavernn(names)


def read(source: Source) -> Foreign:
    """Reads it.

    Raises:
        ValueError: damaged, or the frames chosen for it have another hop.
    """
    weights = read_weights(source.file("*wavernn*", "vocoder*.pt", "*.pyt", "*.pt", "*.safetensors"))
    config = wavernn.config_of(weights, source.mel)
    return Foreign(
        TITLE, source.name, "wavernn", config, config.mel, None, ("default",), flat(wavernn.convert(weights, config)),
        missing="an acoustic model, which it turns into sound: give one with --acoustic",
    )  # fmt: skip
