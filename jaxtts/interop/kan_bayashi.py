"""Parallel WaveGANs of kan-bayashi/ParallelWaveGAN: `checkpoint-*steps.pkl` and config.yml.

Their frames are normalised by the mean and scale in the corpus's stats.h5, or stats.npy. HDF5 is not read: give them as
stats.npz. As theirs, it does not undo a `global_gain_scale` (1 in all recipes).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from jaxtts.interop.foreign import Foreign, Source, checkpoint, flat, statistics
from jaxtts.models.parallel_wavegan import convert as parallel_wavegan
from jaxtts.weights.fields import Fields

TITLE = "Parallel WaveGAN (kan-bayashi)"
_KIND = "ParallelWaveGANGenerator"
_HINT = (
    """where h5py is, python -c "import h5py, numpy; f = h5py.File('stats.h5'); """
    """numpy.savez('stats.npz', mean=f['mean'][()], scale=f['scale'][()])" makes it, """
    "or name other frames to `jaxtts import-weights --mel-spec`"
)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether this is its config.yml, of whatever generator."""
    return isinstance(values.get("generator_params"), dict)


def recognises_weights(names: Collection[str]) -> bool:
    """Whether tensors have the names of a Parallel WaveGAN."""
    names = {name.removeprefix("generator.").removesuffix("_v") for name in names}
    return {"first_conv.weight", "conv_layers.0.conv1x1_aux.weight"} <= names


def read(source: Source) -> Foreign:
    """Reads it.

    Raises:
        ValueError: damaged, another generator, an option that has no counterpart here, or config.yml or the statistics
            are missing.
    """
    if not source.values:
        raise ValueError(f"{source.folder} has no config.yml: put the checkpoint's own beside it")
    v = Fields(source.values, str(source.config))
    if (kind := v.text("generator_type", _KIND)) != _KIND:
        raise ValueError(f"{source.config} is of generator_type={kind!r}: supported is {_KIND!r}")
    v.expect("window", "hann")
    v.expect("sampling_rate_for_feats", v.whole("sampling_rate"))
    params = v.section("generator_params")
    params.whole("layers", most=1000)
    params.expect("in_channels", 1)
    params.expect("out_channels", 1)
    params.expect("upsample_conditional_features", True)
    up = params.section("upsample_params")
    up.expect("interpolate_mode", "nearest")
    up.expect("nonlinear_activation", "LeakyReLU")
    config = parallel_wavegan.config_from(source.values, source.mel)
    if source.mel is None:
        stats = statistics(source, config.mel.num_bins, "stats", _HINT)
        config = replace(config, mel=config.mel.replace(**stats))
    path = source.file("checkpoint-*steps.pkl", "checkpoint*.pkl", "*.pkl", "*.safetensors")
    weights, _ = checkpoint(path, "model", "generator")
    return Foreign(
        TITLE, source.name, "parallel_wavegan", config, config.mel, None, ("default",),
        flat(parallel_wavegan.convert(weights, config)),
        missing="an acoustic model, which it turns into sound: give one with --acoustic",
    )  # fmt: skip
