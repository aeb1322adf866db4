"""Checkpoints of the Tacotron of coqui-tts and of Real-Time-Voice-Cloning's synthesizer under our names.

Where Real-Time-Voice-Cloning puts the context first (attention GRU, the layer ahead of the residual cells) its rows
change places, and its projection to frames, whose values lie bin by bin, is turned to lie frame by frame. What only
training knows is dropped by name: the decoders that coqui-tts trains beside the one that speaks (coarse, backward).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.tacotron.model import Config, Model
from jaxtts.nn.functional import Tree, merged, named, nested, rngs_for_shapes, structure
from jaxtts.weights.fields import Fields
from jaxtts.weights.match import Rule, layer, load_into, renamed


def _cbhg(pattern: str, name: str, coqui: bool) -> list[Rule]:
    conv, norm, rnn = ("conv1d", "bn", "gru") if coqui else ("conv", "bnorm", "rnn")
    lists = [(r"conv1d_banks?\.(\d+)", r"bank.\1"), (r"conv1d_projections\.(\d+)", r"projections.\1")]
    lists += [(f"conv_project{i + 1}", f"projections.{i}") for i in (0, 1)]
    rules = []
    for theirs, ours in lists:
        rules += layer(rf"{pattern}\.{theirs}\.{conv}", f"{name}.{ours}.conv", "conv")
        rules += layer(rf"{pattern}\.{theirs}\.{norm}", f"{name}.{ours}.norm", "batch_norm")
    return [
        *rules,
        *layer(rf"{pattern}\.pre_highway", f"{name}.widen", "conv"),
        *layer(rf"{pattern}\.highways\.(\d+)\.(?:H|W1)", rf"{name}.highways.\1.linear", "conv"),
        *layer(rf"{pattern}\.highways\.(\d+)\.(?:T|W2)", rf"{name}.highways.\1.gate", "conv"),
        *layer(rf"{pattern}\.{rnn}", f"{name}.rnn", "bidirectional"),
    ]


_ATTENTION = r"decoder\.attention"

COQUI_RULES = [
    Rule(r"(?:coarse_decoder|decoder_backward)\..*", None),
    Rule(r"embedding\.weight", "encoder.embedding"),
    Rule(r"speaker_embedding\.weight", "speaker_embedding"),
    *layer(r"(encoder|decoder)\.prenet\.linear_layers\.(\d+)\.linear_layer", r"\1.prenet.layers.\2", "conv"),
    *_cbhg(r"encoder\.cbhg\.cbhg", "encoder.cbhg", coqui=True),
    *layer(r"decoder\.attention_rnn", "decoder.attention_rnn", "cell"),
    *layer(rf"{_ATTENTION}\.query_layer\.linear_layer", "decoder.attention.query", "conv"),
    *layer(rf"{_ATTENTION}\.inputs_layer\.linear_layer", "decoder.attention.key", "conv"),
    *layer(rf"{_ATTENTION}\.v\.linear_layer", "decoder.attention.score", "conv"),
    *layer(rf"{_ATTENTION}\.ta", "decoder.attention.agent", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_conv1d", "decoder.attention.location_conv", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_dense\.linear_layer", "decoder.attention.location_dense", "conv"),
    *layer(r"decoder\.project_to_decoder_in", "decoder.join", "conv"),
    *layer(r"decoder\.decoder_rnns\.(\d+)", r"decoder.rnns.\1", "cell"),
    *layer(r"decoder\.proj_to_mel", "decoder.projection", "conv"),
    *layer(r"decoder\.stopnet\.linear", "decoder.stop", "conv"),
    *_cbhg(r"postnet\.cbhg", "postnet.cbhg", coqui=True),
    *layer("last_linear", "postnet.out", "conv"),
]


def _rtvc_rules(weights: Mapping[str, np.ndarray]) -> list[Rule]:
    context, bins = weights["encoder_proj.weight"].shape[1], weights["postnet.conv1d_bank.0.conv.weight"].shape[1]

    def context_last(w: np.ndarray) -> np.ndarray:
        """[O, C + I] -> [O, I + C]."""
        return np.concatenate([w[:, context:], w[:, :context]], axis=1)

    def by_frame(w: np.ndarray) -> np.ndarray:
        """[M * R, I] -> [1, I, R * M]."""
        return w.reshape(bins, -1, w.shape[1]).swapaxes(0, 1).reshape(w.shape).T[None]

    prenets = [layer(rf"(encoder|decoder)\.pre_?net\.fc{i + 1}", rf"\1.prenet.layers.{i}", "conv") for i in (0, 1)]
    cells = [layer(rf"decoder\.res_rnn{i + 1}", f"decoder.rnns.{i}", "cell") for i in (0, 1)]
    return [
        Rule(r"step|stop_threshold|decoder\.r", None),
        Rule(r"encoder\.embedding\.weight", "encoder.embedding"),
        *sum(prenets, []),
        *_cbhg(r"encoder\.cbhg", "encoder.cbhg", coqui=False),
        *layer("encoder_proj", "decoder.attention.key", "conv"),
        *layer(r"decoder\.attn_net\.conv", "decoder.attention.location_conv", "conv"),
        *layer(r"decoder\.attn_net\.L", "decoder.attention.location_dense", "conv"),
        *layer(r"decoder\.attn_net\.W", "decoder.attention.query", "conv"),
        *layer(r"decoder\.attn_net\.v", "decoder.attention.score", "conv"),
        Rule(r"decoder\.attn_rnn\.weight_ih", "decoder.attention_rnn.input_kernel", context_last),
        *layer(r"decoder\.attn_rnn", "decoder.attention_rnn", "cell"),
        Rule(r"decoder\.rnn_input\.weight", "decoder.join.kernel", lambda w: context_last(w).T[None]),
        *layer(r"decoder\.rnn_input", "decoder.join", "conv"),
        *sum(cells, []),
        Rule(r"decoder\.mel_proj\.weight", "decoder.projection.kernel", by_frame),
        *layer(r"decoder\.stop_proj", "decoder.stop", "conv"),
        *_cbhg("postnet", "postnet.cbhg", coqui=False),
        *layer("post_proj", "postnet.out", "conv"),
    ]


def is_rtvc(weights: Collection[str]) -> bool:
    """Whether tensors of these names are of Real-Time-Voice-Cloning's synthesizer."""
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
    bins, rnn = size("postnet.cbhg.bank.0.conv.kernel", 1), size("encoder.cbhg.rnn.forward.hidden_kernel", 1)
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
        post_rnn_dim=size("postnet.cbhg.rnn.forward.hidden_kernel", 1),
        num_highways=count("encoder.cbhg.highways.", ".gate.kernel"),
        attention_rnn_dim=size("decoder.attention_rnn.hidden_kernel", 1),
        attention_dim=size("decoder.attention.key.kernel", -1),
        location=found[seen].shape[1] if seen in found else 0,
        decoder_dim=size("decoder.join.kernel", -1),
        speaker_dim=size("decoder.attention.key.kernel", 1) - 2 * rnn,
    )
    if "speaker_embedding" in found:
        sizes["num_speakers"] = size("speaker_embedding", 0)
    return sizes
