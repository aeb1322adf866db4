"""Checkpoints of fatchord/WaveRNN and of Real-Time-Voice-Cloning's vocoder under our names.

Both have the same names; `step`, the number of training steps, is no weight and is dropped. A checkpoint tells all
sizes, but not what its frames mean: that follows from the hop (200 and classes: Real-Time-Voice-Cloning). Of classes
both say by default that their levels lie on the mu-law curve.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.models.wavernn.model import Config, Model
from jaxtts.nn.functional import Tree, merged, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import Rule, layer, load_into

MOL_WIDTH = 30  # of a mixture, where a softmax has 2**bits classes

_RESNET = r"upsample\.resnet"
RULES = [
    Rule("step", None),
    *layer(rf"{_RESNET}\.conv_in", "upsample.resnet.first", "conv"),
    *layer(rf"{_RESNET}\.batch_norm", "upsample.resnet.norm", "batch_norm"),
    *(
        rule
        for i in (1, 2)
        for theirs, ours, kind in (("conv", "convs", "conv"), ("batch_norm", "norms", "batch_norm"))
        for rule in layer(rf"{_RESNET}\.layers\.(\d+)\.{theirs}{i}", rf"upsample.resnet.blocks.\1.{ours}.{i - 1}", kind)
    ),
    *layer(rf"{_RESNET}\.conv_out", "upsample.resnet.last", "conv"),
    Rule(
        r"upsample\.up_layers\.(\d+)\.weight",
        lambda match: f"upsample.layers.{int(match[1]) // 2}.kernel",  # each follows a layer without weights
        lambda w: w.reshape(-1, 1, 1),
    ),
    *layer("I", "first", "conv"),
    *layer("rnn1", "rnns.0", "cell"),
    *layer("rnn2", "rnns.1", "cell"),
    *layer("fc1", "layers.0", "conv"),
    *layer("fc2", "layers.1", "conv"),
    *layer("fc3", "last", "conv"),
]


def is_wavernn(names: Collection[str]) -> bool:
    """Whether tensors of these names are of either system."""
    return {"upsample.resnet.conv_in.weight", "rnn1.weight_ih_l0", "fc3.weight"} <= set(names)


def config_from(values: Mapping[str, Any]) -> Config:
    """Our Config from the arguments of the reference's `WaveRNN` and, with mode RAW, its `mu_law`.

    Raises:
        ValueError: names the fields that are missing, or a mode that is not known.
    """
    v = values
    fields = ("rnn_dims", "fc_dims", "bits", "pad", "upsample_factors", "feat_dims", "compute_dims", "res_out_dims",
              "res_blocks", "hop_length", "sample_rate", "mode")  # fmt: skip
    if missing := [name for name in fields if name not in v]:
        raise ValueError(
            f"the WaveRNN config lacks {', '.join(missing)}; give the arguments of the reference's WaveRNN"
        )
    if v["mode"] not in ("MOL", "RAW"):
        raise ValueError(f"mode={v['mode']!r}: use 'MOL' or 'RAW'")
    return _config(
        raw=v["mode"] == "RAW",
        classes=2 ** v["bits"],
        mu_law=v.get("mu_law", True),
        sample_rate=v["sample_rate"],
        num_mels=v["feat_dims"],
        gru_dim=v["rnn_dims"],
        fc_dim=v["fc_dims"],
        upsample_factors=tuple(v["upsample_factors"]),
        pad=v["pad"],
        resnet_channels=v["compute_dims"],
        resnet_blocks=v["res_blocks"],
        aux_channels=v["res_out_dims"],
    )


def config_of(weights: Mapping[str, np.ndarray], mel: MelSpec | None = None) -> Config:
    """The Config that a checkpoint's shapes tell.

    Args:
        mel: what its frames mean; None: of a hop of 200 Real-Time-Voice-Cloning's, else fatchord's.

    Raises:
        ValueError: a layer is missing.
    """

    def size(name: str, axis: int) -> int:
        if name not in weights:
            raise ValueError(f"{name} is missing: this is no checkpoint of fatchord/WaveRNN")
        return weights[name].shape[axis]

    up = sorted(int(name.split(".")[2]) for name in weights if name.startswith("upsample.up_layers."))
    blocks = {name.split(".")[3] for name in weights if name.startswith("upsample.resnet.layers.")}
    width = size("fc3.weight", 0)
    config = _config(
        raw=width != MOL_WIDTH,
        classes=width,
        mu_law=True,
        sample_rate=None,
        num_mels=size("upsample.resnet.conv_in.weight", 1),
        gru_dim=size("rnn1.weight_hh_l0", 1),
        fc_dim=size("fc1.weight", 0),
        upsample_factors=tuple((size(f"upsample.up_layers.{n}.weight", -1) - 1) // 2 for n in up),
        pad=(size("upsample.resnet.conv_in.weight", 2) - 1) // 2,
        resnet_channels=size("upsample.resnet.conv_in.weight", 0),
        resnet_blocks=len(blocks),
        aux_channels=size("upsample.resnet.conv_out.weight", 0),
        mel=mel,
    )
    return config


def _config(
    *, raw: bool, classes: int, mu_law: bool, sample_rate: int | None, num_mels: int, mel: MelSpec | None = None,
    **sizes: Any,
) -> Config:  # fmt: skip
    hop = int(np.prod(sizes["upsample_factors"]))
    cloning = Config.rtvc()
    of_cloning = hop == cloning.mel.hop_length and raw and sample_rate in (None, cloning.mel.sample_rate)
    default = cloning if of_cloning else Config()
    if mel is None:
        spec = default.mel
        found = spec.replace(hop_length=hop, sample_rate=sample_rate or spec.sample_rate, num_mels=num_mels)
        found = found if found.hop_length <= found.win_length else found.replace(win_length=hop)
        mel = spec if found == spec else found.replace(name=f"{spec.name}_custom")
    output = replace(Config.raw().output, num_classes=classes, mu_law=mu_law) if raw else Config().output
    return Config(mel=mel, output=output, input_scale=default.input_scale, preemphasis=default.preemphasis, **sizes)


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The reference's state dict as the parameters and statistics of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, rest = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(merged(params, rest)), weights, RULES))
