"""Checkpoints of r9y9/wavenet_vocoder and of ksw0306/ClariNet's teacher under our names.

Theirs keep a layer's residual and skip, filter and gate, and each layer's share of the conditioning apart; they become
one kernel each. The last layer's residual output, which leads nowhere, is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.wavenet.model import Config, Model
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.nn.output import Output
from jaxtts.weights.match import Rule, layer, load_into

Weights = Mapping[str, np.ndarray]
KINDS = {"Logistic": "logistic", "Normal": "gaussian"}
PREEMPHASIS = 0.85  # theirs, which is no setting


def config_from(values: Mapping[str, Any], mel: MelSpec | None = None) -> Config:
    """Our Config from r9y9's hyperparameters (a preset, or hparams.json).

    Raises:
        ValueError: names the fields that are missing, or what is not known here.
    """
    v = values
    needed = (
        "layers",
        "stacks",
        "residual_channels",
        "gate_channels",
        "skip_out_channels",
        "kernel_size",
        "out_channels",
    )
    if missing := [name for name in needed if name not in v]:
        raise ValueError(f"the WaveNet config lacks {', '.join(missing)}; give the reference's hparams.json")
    conditional = v.get("cin_channels", -1) > 0
    up = v.get("upsample_params", {})
    scales = tuple(up.get("upsample_scales", ()))
    if conditional and not (
        v.get("upsample_conditional_features") and v.get("upsample_net") == "ConvInUpsampleNetwork"
    ):
        raise ValueError(f"upsample_net={v.get('upsample_net')!r} is not known here: use 'ConvInUpsampleNetwork'")
    scalar = v.get("scalar_input", v.get("input_type", "mulaw-quantize") != "mulaw-quantize")
    loss = v.get("loss", v)
    output = Output("softmax", v["out_channels"])
    if scalar:
        kind = KINDS.get(v.get("output_distribution", "Logistic"), "")
        levels = loss.get("num_classes", loss.get("quantize_channels", 65536))
        mixtures = v["out_channels"] // 3 if kind == "logistic" else 1
        output = Output(kind, levels, num_mixtures=mixtures, log_scale_min=loss.get("log_scale_min", -7.0))
    speakers = v.get("n_speakers", 1) if v.get("gin_channels", -1) > 0 else 1
    params = up.get("upsample_activation_params", {})
    return Config(
        mel=mel or _mel_from(v, int(np.prod(scales)) if scales else 0),
        conditional=conditional,
        output=output,
        num_layers=v["layers"],
        num_stacks=v["stacks"],
        channels=v["residual_channels"],
        gate_channels=v["gate_channels"],
        skip_channels=v["skip_out_channels"],
        kernel_size=v["kernel_size"],
        upsample_scales=scales,
        upsample_bins=up.get("freq_axis_kernel_size", 1),
        upsample_slope=params.get("negative_slope", 0.01)
        if up.get("upsample_activation", "none") == "LeakyReLU"
        else None,
        context=v.get("cin_pad", up.get("cin_pad", 0)),
        num_speakers=speakers,
        speaker_dim=v["gin_channels"] if speakers > 1 else 0,
        gain=v["global_gain_scale"] if v.get("global_gain_scale", 0) > 0 else 1.0,
        preemphasis=PREEMPHASIS if v.get("postprocess") == "inv_preemphasis" else 0.0,
    )


def clarinet_config(values: Mapping[str, Any]) -> Config:
    """Our Config from the arguments of ksw0306/ClariNet's `Wavenet`."""
    v = values
    scales = tuple(v["upsample_scales"])
    mel = mel_spec("hifigan").replace(name="clarinet", num_mels=v["cin_channels"], hop_length=int(np.prod(scales)))
    return Config.clarinet(
        mel=mel if mel != mel_spec("hifigan") else mel_spec("hifigan"),
        num_layers=v["num_blocks"] * v["num_layers"],
        num_stacks=v["num_blocks"],
        channels=v["residual_channels"],
        gate_channels=2 * v["gate_channels"],
        skip_channels=v["skip_channels"],
        kernel_size=v["kernel_size"],
        upsample_scales=scales,
    )


def _mel_from(v: Mapping[str, Any], hop: int) -> MelSpec:
    """r9y9's frames: base-10 logarithms of magnitudes, of the wave ahead of gain and pre-emphasis.

    Its recipes then subtract a mean and divide by a scale, which are in no setting.
    """
    if not hop:
        return mel_spec("hifigan")
    rate, fmax = v.get("sample_rate", 22050), v.get("fmax", 7600)

    def samples(name: str, milliseconds: str, default: int) -> int:
        count = v.get(name, default)
        return count if count is not None and count > 0 else int(v[milliseconds] / 1000 * rate)

    return MelSpec(
        "wavenet_vocoder", rate, v.get("fft_size", 1024), samples("hop_size", "frame_shift_ms", hop),
        samples("win_length", "win_length_ms", 1024), v.get("num_mels", v.get("cin_channels", 80)),
        float(v.get("fmin", 125)), None if fmax is None else float(fmax),
        padding="center", log="log10", clip=1e-10,
    )  # fmt: skip


def convert(weights: Weights, config: Config) -> Tree:
    """r9y9's state dict as the parameters of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    joined = stack_joined(weights, config.num_layers, "conv1x1c")
    rules = [
        *stack_rules(2 if config.upsample_slope is None else 3),
        Rule(r"embed_speakers\.weight", "speakers"),
    ]
    return nested(load_into(named(params), joined, rules))


def stack_joined(weights: Weights, num_layers: int, cond: str) -> dict[str, np.ndarray]:
    """r9y9's and kan-bayashi's tensors joined as ours are; `cond`: a layer's share of the conditioning in theirs."""
    joined = dict(weights)
    for i in range(num_layers):
        name, last = f"conv_layers.{i}", i == num_layers - 1
        if last:
            _dropped(joined, f"{name}.conv1x1_out")
        _join(joined, [*([] if last else [f"{name}.conv1x1_out"]), f"{name}.conv1x1_skip"], f"{name}.res_skip")
    _join(joined, [f"conv_layers.{i}.{cond}" for i in range(num_layers)], "cond")
    _join(joined, [f"conv_layers.{i}.conv1x1g" for i in range(num_layers)], "speaker")
    return joined


def stack_rules(every: int) -> list[Rule]:
    """The rules of what `stack_joined` gives; `every`: theirs list the upsampling's filters so far from each other."""
    return [
        *layer(r"first_conv", "network.first", "conv"),
        *layer(r"conv_layers\.(\d+)\.conv", r"network.layers.gates.\1", "conv"),
        *layer(r"conv_layers\.(\d+)\.res_skip", r"network.layers.res_skips.\1", "conv"),
        *layer(r"(cond|speaker)", r"network.layers.\1", "conv"),
        *layer(r"last_conv_layers\.1", "network.last.0", "conv"),
        *layer(r"last_conv_layers\.3", "network.last.1", "conv"),
        *layer(r"upsample_net\.conv_in", "upsample.first", "conv"),
        *_filters(r"upsample_net\.(?:upsample\.)?up_layers\.(\d+)", _every(every, 1)),
    ]


def convert_clarinet(weights: Weights, config: Config) -> Tree:
    """The same of ksw0306/ClariNet's teacher."""
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    rules = [
        *clarinet_network(config.num_layers, "", "network."),
        *_filters(r"upsample_conv\.(\d+)", _every(2, 0)),
    ]
    return nested(load_into(named(params), clarinet_joined(weights, config.num_layers, ""), rules))


def clarinet_joined(weights: Weights, num_layers: int, prefix: str) -> dict[str, np.ndarray]:
    """The tensors of one network of theirs, joined as ours are; `clarinet_network` has their rules."""
    joined = {name.replace(".conv.", "."): x for name, x in weights.items()}
    for i in range(num_layers):
        name = f"{prefix}res_blocks.{i}"
        _join(joined, [f"{name}.filter_conv", f"{name}.gate_conv"], f"{name}.gate")
        if i == num_layers - 1:
            _dropped(joined, f"{name}.res_conv")
        parts = [] if i == num_layers - 1 else [f"{name}.res_conv"]
        _join(joined, [*parts, f"{name}.skip_conv"], f"{name}.res_skip")
    sides = [f"{prefix}res_blocks.{i}.{side}_conv_c" for i in range(num_layers) for side in ("filter", "gate")]
    _join(joined, sides, f"{prefix}cond")
    return joined


def clarinet_network(num_layers: int, prefix: str, name: str) -> list[Rule]:
    """Rules of one network of theirs whose names begin with the pattern `prefix`, to ours that begin with `name`."""
    return [
        *layer(rf"{prefix}front_conv\.0", f"{name}first", "conv"),
        *layer(rf"{prefix}res_blocks\.(\d+)\.gate", rf"{name}layers.gates.\1", "conv"),
        *layer(rf"{prefix}res_blocks\.(\d+)\.res_skip", rf"{name}layers.res_skips.\1", "conv"),
        *layer(rf"{prefix}cond", f"{name}layers.cond", "conv"),
        *layer(rf"{prefix}final_conv\.1", f"{name}last.0", "conv"),
        *layer(rf"{prefix}final_conv\.3", f"{name}last.1", "conv"),
    ]


def _every(step: int, first: int):
    return lambda match: (int(match[1]) - first) // step


def _filters(pattern: str, place) -> list[Rule]:
    """Rules of 2-D layers of one channel, [1, 1, F, W] -> [W, F, 1]."""

    def name(leaf: str):
        return lambda match: f"upsample.layers.{place(match)}.{leaf}"

    def kernel(weight: np.ndarray) -> np.ndarray:
        return weight[0, 0].T[..., None]

    return [
        Rule(rf"{pattern}\.weight", name("kernel"), kernel),
        Rule(rf"{pattern}\.weight_v", name("v"), kernel),
        Rule(rf"{pattern}\.weight_g", name("g"), "gain"),
        Rule(rf"{pattern}\.bias", name("bias")),
    ]


def _join(weights: dict[str, np.ndarray], parts: list[str], whole: str) -> None:
    """The tensors of the layers `parts`, side by side along the output channels, as one layer."""
    for leaf in ("weight", "weight_v", "weight_g", "bias"):
        found = [weights.pop(f"{part}.{leaf}") for part in parts if f"{part}.{leaf}" in weights]
        if found and len(found) == len(parts):
            weights[f"{whole}.{leaf}"] = np.concatenate(found)
        elif found:
            raise ValueError(f"{', '.join(parts)}: some have a {leaf} and some have none")


def _dropped(weights: dict[str, np.ndarray], name: str) -> None:
    for leaf in ("weight", "weight_v", "weight_g", "bias"):
        weights.pop(f"{name}.{leaf}", None)
