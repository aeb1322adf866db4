"""Checkpoints of kan-bayashi/ParallelWaveGAN's MelGAN generator, of one band or several, under our names.

Both spellings of weight norm are read, and folded weights. The reference's modules are numbered in one sequence, its
activations and paddings counted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.melgan.model import Config, Model
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import Rule, layer, load_into


def config_from(values: Mapping[str, Any], mel: MelSpec | None = None) -> Config:
    """Our Config from the reference's `generator_params`, or from its config.yml around them.

    Raises:
        ValueError: names the fields that are missing, or what is not known here.
    """
    v = values.get("generator_params", values)
    needed = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "channels",
        "upsample_scales",
        "stack_kernel_size",
        "stacks",
    )
    if missing := [name for name in needed if name not in v]:
        raise ValueError(f"the MelGAN config lacks {', '.join(missing)}; give the reference's config.yml")
    known = {"use_causal_conv": False, "bias": True, "pad": "ReflectionPad1d", "use_final_nonlinear_activation": True}
    if other := [name for name, value in known.items() if v.get(name, value) != value]:
        raise ValueError(f"a MelGAN with {', '.join(f'{n}={v[n]}' for n in other)} is not known")
    default, base = mel_spec("hifigan"), Config.multiband() if v["out_channels"] > 1 else Config()
    hop = int(np.prod(v["upsample_scales"])) * v["out_channels"]
    frames = default.replace(name="melgan", num_mels=v["in_channels"], hop_length=hop)
    return Config(
        mel=mel or (frames if frames != default else default),
        gan=base.gan,
        upsample_rates=tuple(v["upsample_scales"]),
        upsample_channels=v["channels"],
        kernel_size=v["kernel_size"],
        block_kernel_size=v["stack_kernel_size"],
        num_blocks=v["stacks"],
        num_bands=v["out_channels"],
    )


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The generator's state dict as the parameters of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(params), weights, _rules(config)))


def _rules(config: Config) -> list[Rule]:
    count, stages = config.num_blocks, len(config.upsample_rates)
    rules = [*layer(r"melgan\.1", "conv_pre", "conv")]
    for n in range(stages):
        place = 3 + n * (2 + count)  # an activation ahead of each transposed convolution
        rules += layer(rf"melgan\.{place}", f"ups.{n}", "conv_transpose")
        for i in range(count):
            block = rf"melgan\.{place + 1 + i}"
            for theirs, ours in ((r"stack\.2", "dilated"), (r"stack\.4", "pointwise"), ("skip_layer", "skip")):
                rules += layer(rf"{block}\.{theirs}", f"blocks.{n * count + i}.{ours}", "conv")
    return rules + layer(rf"melgan\.{4 + stages * (2 + count)}", "conv_post", "conv")
