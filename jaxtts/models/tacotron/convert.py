"""Checkpoints of the Tacotron of coqui-tts and of Real-Time-Voice-Cloning's synthesizer under our names.

Where Real-Time-Voice-Cloning puts the context first (attention GRU, the layer ahead of the residual cells) its rows
change places, and its projection to frames, whose values lie bin by bin, is turned to lie frame by frame. What only
training knows is dropped by name: the decoders that coqui-tts trains beside the one that speaks (coarse, backward).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.tacotron.model import Config, Model
from jaxtts.nn.functional import Tree, merged, named, nested, rngs_for_shapes, structure
from jaxtts.weights.fields import Fields
from jaxtts.weights.match import Rule, layer, load_into, renamed


def _norm(pattern: str, name: str) -> list[Rule]:
    ours = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    rules = [Rule(rf"{pattern}\.{theirs}", f"{name}.{our}") for theirs, our in ours.items()]
    return [*rules, Rule(rf"{pattern}\.num_batches_tracked", None)]


def _cell(pattern: str, name: str, suffix: str = "") -> list[Rule]:
    """A cell, or one direction of a layer, whose parameters end in `suffix`."""
    ours = {
        "weight_ih": "input_kernel",
        "weight_hh": "hidden_kernel",
        "bias_ih": "input_bias",
        "bias_hh": "hidden_bias",
    }
    return [Rule(rf"{pattern}\.{theirs}{suffix}", f"{name}.{our}", np.transpose) for theirs, our in ours.items()]


def _cbhg(pattern: str, name: str, coqui: bool) -> list[Rule]:
    conv, norm, rnn = ("conv1d", "bn", "gru") if coqui else ("conv", "bnorm", "rnn")
    lists = {r"conv1d_banks?": "bank", **({"conv1d_projections": "projections"} if coqui else {})}
    rules = []
    for theirs, ours in lists.items():
        rules += layer(rf"{pattern}\.{theirs}\.(\d+)\.{conv}", rf"{name}.{ours}.\1.conv", "conv")
        rules += _norm(rf"{pattern}\.{theirs}\.(\d+)\.{norm}", rf"{name}.{ours}.\1.norm")
    for i in (0, 1):
        rules += layer(rf"{pattern}\.conv_project{i + 1}\.{conv}", f"{name}.projections.{i}.conv", "conv")
        rules += _norm(rf"{pattern}\.conv_project{i + 1}\.{norm}", f"{name}.projections.{i}.norm")
    return [
        *rules,
        *_dense(rf"{pattern}\.pre_highway", f"{name}.widen"),
        *_dense(rf"{pattern}\.highways\.(\d+)\.(?:H|W1)", rf"{name}.highways.\1.linear"),
        *_dense(rf"{pattern}\.highways\.(\d+)\.(?:T|W2)", rf"{name}.highways.\1.gate"),
        *_cell(rf"{pattern}\.{rnn}", f"{name}.rnn.forward", "_l0"),
        *_cell(rf"{pattern}\.{rnn}", f"{name}.rnn.backward", "_l0_reverse"),
    ]


def _dense(pattern: str, name: str, change: Callable[[np.ndarray], np.ndarray] = lambda w: w) -> list[Rule]:
    """A linear layer as a convolution of width 1, its weight [O, I] changed first."""
    return [
        Rule(rf"{pattern}\.weight", f"{name}.kernel", lambda w: change(w).T[None]),
        Rule(rf"{pattern}\.bias", f"{name}.bias"),
    ]


COQUI_RULES = [
    Rule(r"(?:coarse_decoder|decoder_backward)\..*", None),
    Rule(r"embedding\.weight", "encoder.embedding"),
    Rule(r"speaker_embedding\.weight", "speaker_embedding"),
    *_dense(r"(encoder|decoder)\.prenet\.linear_layers\.(\d+)\.linear_layer", r"\1.prenet.layers.\2"),
    *_cbhg(r"encoder\.cbhg\.cbhg", "encoder.cbhg", coqui=True),
    *_cell(r"decoder\.attention_rnn", "decoder.attention_rnn"),
    *_dense(r"decoder\.attention\.query_layer\.linear_layer", "decoder.attention.query"),
    *_dense(r"decoder\.attention\.inputs_layer\.linear_layer", "decoder.attention.key"),
    *_dense(r"decoder\.attention\.v\.linear_layer", "decoder.attention.score"),
    *_dense(r"decoder\.attention\.ta", "decoder.attention.agent"),
    *layer(r"decoder\.attention\.location_layer\.location_conv1d", "decoder.attention.location_conv", "conv"),
    *_dense(r"decoder\.attention\.location_layer\.location_dense\.linear_layer", "decoder.attention.location_dense"),
    *_dense(r"decoder\.project_to_decoder_in", "decoder.join"),
    *_cell(r"decoder\.decoder_rnns\.(\d+)", r"decoder.rnns.\1"),
    *_dense(r"decoder\.proj_to_mel", "decoder.projection"),
    *_dense(r"decoder\.stopnet\.linear", "decoder.stop"),
    *_cbhg(r"postnet\.cbhg", "postnet.cbhg", coqui=True),
    *_dense("last_linear", "postnet.out"),
]


def _rtvc_rules(weights: Mapping[str, np.ndarray]) -> list[Rule]:
    context, bins = weights["encoder_proj.weight"].shape[1], weights["postnet.conv1d_bank.0.conv.weight"].shape[1]

    def context_last(w: np.ndarray) -> np.ndarray:
        return np.concatenate([w[:, context:], w[:, :context]], axis=1)

    def by_frame(w: np.ndarray) -> np.ndarray:
        return w.reshape(bins, -1, w.shape[1]).swapaxes(0, 1).reshape(w.shape)

    prenets = [_dense(rf"(encoder|decoder)\.pre_?net\.fc{i + 1}", rf"\1.prenet.layers.{i}") for i in (0, 1)]
    cells = [_cell(rf"decoder\.res_rnn{i + 1}", f"decoder.rnns.{i}") for i in (0, 1)]
    return [
        Rule(r"step|stop_threshold|decoder\.r", None),
        Rule(r"encoder\.embedding\.weight", "encoder.embedding"),
        *sum(prenets, []),
        *_cbhg(r"encoder\.cbhg", "encoder.cbhg", coqui=False),
        *_dense("encoder_proj", "decoder.attention.key"),
        *layer(r"decoder\.attn_net\.conv", "decoder.attention.location_conv", "conv"),
        *_dense(r"decoder\.attn_net\.L", "decoder.attention.location_dense"),
        *_dense(r"decoder\.attn_net\.W", "decoder.attention.query"),
        *_dense(r"decoder\.attn_net\.v", "decoder.attention.score"),
        Rule(r"decoder\.attn_rnn\.weight_ih", "decoder.attention_rnn.input_kernel", lambda w: context_last(w).T),
        *_cell(r"decoder\.attn_rnn", "decoder.attention_rnn"),
        *_dense(r"decoder\.rnn_input", "decoder.join", context_last),
        *sum(cells, []),
        *_dense(r"decoder\.mel_proj", "decoder.projection", by_frame),
        *_dense(r"decoder\.stop_proj", "decoder.stop"),
        *_cbhg("postnet", "postnet.cbhg", coqui=False),
        *_dense("post_proj", "postnet.out"),
    ]


def is_rtvc(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether these are of Real-Time-Voice-Cloning's synthesizer."""
    return {"encoder_proj.weight", "postnet.conv1d_bank.0.conv.weight"} <= set(weights)


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """A state dict of either system as the parameters and statistics of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, rest = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(merged(params, rest)), weights, _rules(weights)))


def rtvc_config_from(weights: Mapping[str, np.ndarray]) -> Config:
    """Our Config of a `synthesizer.pt`, which says all but what its frames mean.

    Raises:
        ValueError: it lacks a layer.
    """
    sizes = _sizes(weights)
    config = Config.rtvc(mel=mel_spec("rtvc").replace(num_mels=sizes.pop("num_mels")), **sizes)
    made = {name: int(weights[name]) for name in ("decoder.r",) if name in weights}
    return replace(config, reduction_factor=made.get("decoder.r", 2))


def coqui_config_from(values: Mapping[str, Any], weights: Mapping[str, np.ndarray], mel: MelSpec) -> Config:
    """Our Config of a Tacotron of coqui-tts: its options from config.json, its sizes from the checkpoint.

    Args:
        mel: what its frames mean.

    Raises:
        ValueError: names an option that this model does not have, or a layer that the checkpoint lacks.
    """
    v = Fields(values)
    v.expect("attention_type", "original")
    v.expect("prenet_type", "original")
    v.expect("stopnet", True)
    for name in ("use_gst", "use_capacitron_vae", "windowing", "forward_attn_mask"):
        v.expect(name, False)
    sizes, forward = _sizes(weights), v.flag("use_forward_attn")
    if (made := sizes.pop("num_mels")) != mel.num_bins:
        raise ValueError(f"the checkpoint makes frames of {made} bins, config.json says {mel.num_bins}")
    told = v.whole("memory_size", -1, least=-1)
    return Config.coqui(
        mel=mel,
        prenet_dropout=0.5 if v.flag("prenet_dropout", True) else 0.0,
        spoken_dropout=("decoder",) if v.flag("prenet_dropout_at_inference") else (),
        reduction_factor=v.whole("r", 2),
        attention_norm=v.text("attention_norm", "sigmoid"),
        transition="forward" if forward else None,
        agent=forward and v.flag("transition_agent"),
        told_frames=max(told, 0),
        **sizes,
    )


def _rules(weights: Mapping[str, np.ndarray]) -> list[Rule]:
    return _rtvc_rules(weights) if is_rtvc(weights) else COQUI_RULES


def _sizes(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of Config that a checkpoint tells, and num_mels."""
    found = renamed(weights, _rules(weights))

    def size(name: str, axis: int) -> int:
        if name not in found:
            raise ValueError(f"the checkpoint is not of a Tacotron: it has nothing that becomes {name}")
        return found[name].shape[axis]

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in found)

    def widths(net: str) -> tuple[int, ...]:
        layers = f"{net}.prenet.layers."
        return tuple(size(f"{layers}{i}.kernel", -1) for i in range(count(layers, ".kernel")))

    seen = "decoder.attention.location_conv.kernel"
    bins, rnn = size("postnet.cbhg.bank.0.conv.kernel", 1), size("encoder.cbhg.rnn.forward.hidden_kernel", 0)
    sizes: dict[str, Any] = dict(
        num_mels=bins,
        num_symbols=size("encoder.embedding", 0),
        embedding_dim=size("encoder.embedding", 1),
        max_reduction_factor=size("decoder.projection.kernel", -1) // bins,
        encoder_prenet=widths("encoder"),
        decoder_prenet=widths("decoder"),
        encoder_bank=count("encoder.cbhg.bank.", ".conv.kernel"),
        encoder_dim=size("encoder.cbhg.bank.0.conv.kernel", -1),
        encoder_rnn_dim=rnn,
        post_bank=count("postnet.cbhg.bank.", ".conv.kernel"),
        post_dim=size("postnet.cbhg.bank.0.conv.kernel", -1),
        post_projection_dim=size("postnet.cbhg.projections.0.conv.kernel", -1),
        post_rnn_dim=size("postnet.cbhg.rnn.forward.hidden_kernel", 0),
        num_highways=count("encoder.cbhg.highways.", ".gate.kernel"),
        attention_rnn_dim=size("decoder.attention_rnn.hidden_kernel", 0),
        attention_dim=size("decoder.attention.key.kernel", -1),
        location=found[seen].shape[1] if seen in found else 0,
        decoder_dim=size("decoder.join.kernel", -1),
        speaker_dim=size("decoder.attention.key.kernel", 1) - 2 * rnn,
    )
    if "speaker_embedding" in found:
        sizes["num_speakers"] = size("speaker_embedding", 0)
    return sizes
