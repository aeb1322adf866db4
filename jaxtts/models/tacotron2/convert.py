"""Checkpoints of NVIDIA/tacotron2, and of the Tacotron 2 of coqui-tts, under our names.

The decoders that coqui-tts trains beside the one that speaks (coarse, backward) are dropped by name.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.models.tacotron2.model import Config, Model
from jaxtts.nn.functional import Tree, merged, named, nested, rngs_for_shapes, structure
from jaxtts.weights.fields import Fields
from jaxtts.weights.match import Rule, layer, load_into, renamed

_ATTENTION = r"decoder\.attention(?:_layer)?"

RULES = [
    Rule(r"(?:coarse_decoder|decoder_backward)\..*", None),
    Rule(r"embedding\.weight", "encoder.embedding"),
    Rule(r"speaker_embedding\.weight", "speaker_embedding"),
    *layer(r"(encoder|postnet)\.convolutions\.(\d+)\.(?:0\.conv|convolution1d)", r"\1.convs.\2", "conv"),
    *layer(r"(encoder|postnet)\.convolutions\.(\d+)\.(?:1|batch_normalization)", r"\1.norms.\2", "batch_norm"),
    *layer(r"encoder\.lstm", "encoder.lstm", "bidirectional"),
    *layer(r"decoder\.prenet\.(?:linear_)?layers\.(\d+)\.linear_layer", r"decoder.prenet.layers.\1", "conv"),
    *layer(r"decoder\.(attention_rnn|decoder_rnn)", r"decoder.\1", "cell"),
    *layer(rf"{_ATTENTION}\.query_layer\.linear_layer", "decoder.attention.query", "conv"),
    *layer(rf"{_ATTENTION}\.(?:memory|inputs)_layer\.linear_layer", "decoder.attention.key", "conv"),
    *layer(rf"{_ATTENTION}\.v\.linear_layer", "decoder.attention.score", "conv"),
    *layer(rf"{_ATTENTION}\.ta", "decoder.attention.agent", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_conv(?:\.conv|1d)", "decoder.attention.location_conv", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_dense\.linear_layer", "decoder.attention.location_dense", "conv"),
    *layer(r"decoder\.linear_projection\.linear_layer", "decoder.projection", "conv"),
    *layer(r"decoder\.(?:gate_layer|stopnet\.1)\.linear_layer", "decoder.gate", "conv"),
]

_FIELDS = {
    "n_symbols": "num_symbols",
    "n_mel_channels": "num_mels",
    "encoder_embedding_dim": "encoder_dim",
    "encoder_n_convolutions": "encoder_layers",
    "encoder_kernel_size": "encoder_kernel_size",
    "attention_rnn_dim": "attention_rnn_dim",
    "attention_dim": "attention_dim",
    "attention_location_n_filters": "location_filters",
    "attention_location_kernel_size": "location_kernel_size",
    "decoder_rnn_dim": "decoder_rnn_dim",
    "prenet_dim": "prenet_dim",
    "n_frames_per_step": "reduction_factor",
    "p_attention_dropout": "recurrent_dropout",
    "postnet_embedding_dim": "postnet_dim",
    "postnet_n_convolutions": "postnet_layers",
    "postnet_kernel_size": "postnet_kernel_size",
    "gate_threshold": "stop_threshold",
}


def config_from(hparams: Mapping[str, Any]) -> Config:
    """The Config of the reference's hyperparameters (hparams.py)."""
    return Config(**{ours: hparams[theirs] for theirs, ours in _FIELDS.items() if theirs in hparams})


def config_of(weights: Mapping[str, np.ndarray]) -> Config:
    """The Config that a checkpoint's shapes tell: NVIDIA stores no hyperparameters beside its weights.

    Raises:
        ValueError: a tensor that decides is missing.
    """
    return Config(**_sizes(weights))


def coqui_config_from(values: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Config:
    """Our Config of a Tacotron 2 of coqui-tts: its options from config.json, its sizes from the checkpoint.

    Raises:
        ValueError: names an option that this model does not have, or a layer that the checkpoint lacks.
    """
    v = Fields(values)
    v.expect("attention_type", "original")
    v.expect("prenet_type", "original")
    v.expect("stopnet", True)
    for name in ("use_gst", "use_capacitron_vae", "attention_win", "windowing", "forward_attn_mask"):
        v.expect(name, False)
    sizes, forward = _sizes(weights), v.flag("use_forward_attn")
    return Config.coqui(
        **sizes
        | dict(
            prenet_dropout=0.5 if v.flag("prenet_dropout", True) else 0.0,
            spoken_dropout=v.flag("prenet_dropout_at_inference"),
            reduction_factor=v.whole("r", 2),
            max_reduction_factor=sizes["reduction_factor"],
            attention_norm=v.text("attention_norm", "sigmoid"),
            transition="forward" if forward else None,
            agent=forward and v.flag("transition_agent"),
        )
    )


def _sizes(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = renamed(weights, RULES)

    def shape(name: str) -> tuple[int, ...]:
        if name not in found:
            raise ValueError(f"nothing becomes {name}: this is no checkpoint of NVIDIA/tacotron2 or coqui-tts")
        return found[name].shape

    def count(net: str) -> int:
        return sum(name.startswith(f"{net}.convs.") and name.endswith(".kernel") for name in found)

    symbols, encoder_dim = shape("encoder.embedding")
    postnet_width, num_mels, postnet_dim = shape("postnet.convs.0.kernel")
    sizes: dict[str, Any] = dict(
        num_symbols=symbols,
        num_mels=num_mels,
        encoder_dim=encoder_dim,
        encoder_layers=count("encoder"),
        encoder_kernel_size=shape("encoder.convs.0.kernel")[0],
        attention_rnn_dim=shape("decoder.attention_rnn.hidden_kernel")[1],
        attention_dim=shape("decoder.attention.query.kernel")[2],
        location=0,
        decoder_rnn_dim=shape("decoder.decoder_rnn.hidden_kernel")[1],
        prenet_dim=shape("decoder.prenet.layers.0.kernel")[2],
        reduction_factor=shape("decoder.projection.kernel")[2] // num_mels,
        postnet_dim=postnet_dim,
        postnet_layers=count("postnet"),
        postnet_kernel_size=postnet_width,
        speaker_dim=shape("decoder.attention.key.kernel")[1] - encoder_dim,
    )
    if (location := "decoder.attention.location_conv.kernel") in found:
        names = ("location_kernel_size", "location", "location_filters")
        sizes |= dict(zip(names, shape(location), strict=True))
    if "speaker_embedding" in found:
        sizes["num_speakers"] = len(found["speaker_embedding"])
    return sizes


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The reference's state dict -> our parameters and running statistics, as one tree (`functional.merged`).

    Raises:
        ValueError: every missing, unexpected and misshapen name, in one message.
    """
    _, params, rest = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(merged(params, rest)), weights, RULES))
