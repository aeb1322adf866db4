"""Checkpoints of NVIDIA/waveglow under our names.

Weight norm is read in both spellings, and folded (`remove_weightnorm`). The conditioning of a group of samples lies bin
by bin in the reference and sample by sample here, so the inputs of `cond_layer` change places.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.waveglow.model import Config, Model
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import Rule, layer, load_into


def config_from(values: Mapping[str, Any]) -> Config:
    """Our Config from the reference's config.json, or from its 'waveglow_config' alone.

    Raises:
        ValueError: names the fields that are missing.
    """
    v = values.get("waveglow_config", values)
    fields = ("n_mel_channels", "n_flows", "n_group", "n_early_every", "n_early_size", "WN_config")
    wavenet = v.get("WN_config", {})
    missing = [name for name in fields if name not in v]
    missing += [f"WN_config.{name}" for name in ("n_layers", "n_channels", "kernel_size") if name not in wavenet]
    if missing:
        raise ValueError(f"the WaveGlow config lacks {', '.join(missing)}; give the reference's config.json")
    return Config(
        mel=_mel_from(values.get("data_config", {}), v["n_mel_channels"]),
        num_squeeze=v["n_group"],
        num_flows=v["n_flows"],
        early_every=v["n_early_every"],
        early_size=v["n_early_size"],
        channels=wavenet["n_channels"],
        num_layers=wavenet["n_layers"],
        kernel_size=wavenet["kernel_size"],
        sigma=values.get("train_config", {}).get("sigma", 1.0),
    )


def config_of(weights: Mapping[str, np.ndarray]) -> Config:
    """The Config that a checkpoint's shapes tell, where its config.json is not at hand.

    Raises:
        ValueError: it is none of this reference, or one of its older form.
    """
    if any(".cond_layers." in name or ".res_layers." in name for name in weights):
        raise ValueError(
            "an older WaveGlow, whose steps change the halves' places: take a checkpoint for the reference's glow.py"
        )

    def shape(name: str) -> tuple[int, ...]:
        found = next((weights[n].shape for n in (f"{name}.weight", f"{name}.weight_v") if n in weights), None)
        if found is None:
            raise ValueError(f"{name} is missing: this is no checkpoint of NVIDIA/waveglow")
        return found

    flows = sum(name.startswith("convinv.") for name in weights)
    widths = [shape(f"convinv.{k}.conv")[0] for k in range(flows)]
    early = next((k for k in range(1, flows) if widths[k] < widths[0]), flows)
    channels, _, width = shape("WN.0.in_layers.0")
    layers = {name.split(".")[3] for name in weights if name.startswith("WN.0.in_layers.")}
    return Config(
        mel=mel_spec("waveglow").replace(num_mels=shape("upsample")[0]),
        num_squeeze=widths[0],
        num_flows=flows,
        early_every=early,
        early_size=widths[0] - widths[early] if early < flows else 2,
        channels=channels // 2,
        num_layers=len(layers),
        kernel_size=width,
        upsample_kernel_size=shape("upsample")[2],
    )


def _mel_from(data: Mapping[str, Any], num_mels: int) -> MelSpec:
    default = mel_spec("waveglow")
    spec = default.replace(
        sample_rate=data.get("sampling_rate", default.sample_rate),
        n_fft=data.get("filter_length", default.n_fft),
        hop_length=data.get("hop_length", default.hop_length),
        win_length=data.get("win_length", default.win_length),
        num_mels=num_mels,
        fmin=data.get("mel_fmin", default.fmin),
        fmax=data.get("mel_fmax", default.fmax),
    )
    return spec if spec == default else spec.replace(name="waveglow_custom")


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The reference's state dict as the parameters of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(params), weights, _rules(config)))


def _rules(config: Config) -> list[Rule]:
    def sample_by_sample(weight: np.ndarray) -> np.ndarray:
        outputs = weight.shape[0]  # [O, M * num_squeeze, 1]
        inputs = weight.reshape(outputs, -1, config.num_squeeze).swapaxes(1, 2)
        return inputs.reshape(1, outputs, -1).swapaxes(1, 2)  # [1, num_squeeze * M, O]

    cond = [
        r._replace(transform=sample_by_sample) if r.transform == "conv" else r
        for r in layer(r"WN\.(\d+)\.cond_layer", r"flows.\1.coupling.wavenet.cond", "conv")
    ]
    return [
        *layer(r"upsample", "upsample", "conv_transpose"),
        Rule(r"convinv\.(\d+)\.conv\.weight", r"flows.\1.mix.weight", lambda w: w[..., 0]),
        *layer(r"WN\.(\d+)\.(start|end)", r"flows.\1.coupling.\2", "conv"),
        *layer(r"WN\.(\d+)\.in_layers\.(\d+)", r"flows.\1.coupling.wavenet.gates.\2", "conv"),
        *layer(r"WN\.(\d+)\.res_skip_layers\.(\d+)", r"flows.\1.coupling.wavenet.res_skips.\2", "conv"),
        *cond,
    ]
