"""WaveNets of r9y9/wavenet_vocoder: `checkpoint_*.pth` and hparams.json.

Their frames are normalised by the mean and scale in the meanvar.joblib of the corpus, a pickle, which is not read: give
them as meanvar.npz. Gain and pre-emphasis of the wave are undone. Difference: they take out what lies below 70 Hz of a
recording (2 dB at 125 Hz, where the frames begin) before its frames are made, we do not.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, statistics
from jaxtts.models.wavenet import convert as wavenet
from jaxtts.weights.fields import Fields

TITLE = "WaveNet (r9y9)"
_HINT = (
    """where joblib is, python -c "import joblib, numpy; s = joblib.load('meanvar.joblib'); """
    """numpy.savez('meanvar.npz', mean=s.mean_, scale=s.scale_)" makes it, """
    "or name other frames to `jaxtts import-weights --mel-spec`"
)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether these are its hyperparameters."""
    return {"skip_out_channels", "cin_channels"} <= set(values)


def recognises_weights(names: Collection[str]) -> bool:
    """Whether tensors have its names."""
    names = {name.removesuffix("_v") for name in names}
    own = {"first_conv.weight", "conv_layers.0.conv1x1_skip.weight"} <= names
    return own and "conv_layers.0.conv1x1_aux.weight" not in names  # which Parallel WaveGAN has


def read(source: Source) -> Foreign:
    """Reads it.

    Raises:
        ValueError: damaged, an option that has no counterpart here, or hparams.json or meanvar.npz is missing.
    """
    if not source.values:
        raise ValueError(f"{source.folder} has no hparams.json: put the checkpoint's own beside it")
    v = Fields(source.values, str(source.config))
    v.expect("input_type", "raw", "mulaw-quantize")
    v.expect("window", "hann")
    v.whole("layers", most=1000)
    emphasised = v.values.get("preprocess") == "preemphasis"
    v.expect("preprocess", "", "none", "preemphasis")
    v.expect("postprocess", *(["inv_preemphasis"] if emphasised else ["", "none"]))
    bins = v.whole("cin_channels", least=-1)
    if bins < 1 or v.whole("gin_channels", -1, least=-1) > 0:
        raise ValueError(f"{source.config} is of a model of several speakers, or told no mel: neither is a vocoder")
    config = wavenet.config_from(source.values, source.mel)
    if source.mel is None:
        config = replace(config, mel=config.mel.replace(**statistics(source, bins, "meanvar", _HINT)))
    path = source.file("checkpoint_latest_ema.pth", "checkpoint*_ema.pth", "checkpoint_latest.pth", "checkpoint*.pth",
                       "*.pth", "*.safetensors")  # fmt: skip
    weights, _ = checkpoint(path, "state_dict")
    return Foreign(
        TITLE, source.name, "wavenet", config, config.mel, None, ("default",), flat(wavenet.convert(weights, config)),
        missing="an acoustic model, which it turns into sound: give one with --acoustic",
    )  # fmt: skip
