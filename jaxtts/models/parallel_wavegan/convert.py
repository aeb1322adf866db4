"""Checkpoints of kan-bayashi/ParallelWaveGAN's generator and discriminator under our names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.parallel_wavegan.model import Config, Model
from jaxtts.models.wavenet.convert import stack_joined, stack_rules
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import layer, load_into

Weights = Mapping[str, np.ndarray]


def config_from(values: Mapping[str, Any], mel: MelSpec | None = None) -> Config:
    """Our Config from the reference's `generator_params`, or from its config.yml around them.

    Raises:
        ValueError: names the fields that are missing, or what is not known here.
    """
    v = values.get("generator_params", values)
    needed = ("layers", "stacks", "residual_channels", "gate_channels", "skip_channels", "kernel_size", "aux_channels")
    if missing := [name for name in needed if name not in v]:
        raise ValueError(f"the Parallel WaveGAN config lacks {', '.join(missing)}; give the reference's config.yml")
    if v.get("use_causal_conv") or v.get("upsample_net", "ConvInUpsampleNetwork") != "ConvInUpsampleNetwork":
        raise ValueError(
            "a causal Parallel WaveGAN, or one with another upsampling than ConvInUpsampleNetwork, is not known"
        )
    up = v["upsample_params"]
    scales, slope = tuple(up["upsample_scales"]), None
    if up.get("nonlinear_activation") is not None:
        slope = up.get("nonlinear_activation_params", {}).get("negative_slope", 0.01)
    return Config(
        mel=mel or _mel_from(values, v["aux_channels"], int(np.prod(scales))),
        num_layers=v["layers"],
        num_stacks=v["stacks"],
        channels=v["residual_channels"],
        gate_channels=v["gate_channels"],
        skip_channels=v["skip_channels"],
        kernel_size=v["kernel_size"],
        upsample_scales=scales,
        upsample_bins=up.get("freq_axis_kernel_size", 1),
        upsample_slope=slope,
        context=v.get("aux_context_window", 0),
    )


def _mel_from(v: Mapping[str, Any], num_mels: int, hop: int) -> MelSpec:
    """Their frames: base-10 logarithms of magnitudes, whose mean and scale are in no setting."""
    n_fft, fmax = v.get("fft_size", 1024), v.get("fmax", 7600)
    return MelSpec(
        "parallel_wavegan", v.get("sampling_rate", 22050), n_fft, v.get("hop_size", hop), v.get("win_length") or n_fft,
        v.get("num_mels", num_mels), float(v.get("fmin") or 0), None if fmax is None else float(fmax),
        padding="center", log="log10", clip=1e-10,
    )  # fmt: skip


def convert(weights: Weights, config: Config) -> Tree:
    """The generator's state dict as the parameters of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    joined = stack_joined(weights, config.num_layers, "conv1x1_aux")
    return nested(load_into(named(params), joined, stack_rules(2 if config.upsample_slope is None else 3)))


def discriminator_params(weights: Weights, gan: GanConfig) -> Tree:
    """The discriminator's state dict as the parameters of `Discriminators(gan)`, of the family 'dilated' alone."""
    _, params, _ = structure(lambda: Discriminators(gan, rngs=rngs_for_shapes()))
    last = 2 * (gan.dilated_layers - 1)
    renamed = {name.replace(f"conv_layers.{last}.", "conv_post."): x for name, x in weights.items()}
    for i in range(gan.dilated_layers - 1):
        renamed = {name.replace(f"conv_layers.{2 * i}.", f"convs.{i}."): x for name, x in renamed.items()}
    rules = layer(r"(convs\.\d+|conv_post)", r"dilated.\1", "conv")
    return nested(load_into(named(params), renamed, rules))
