"""Checkpoints of NVIDIA/tacotron2 under our names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.models.tacotron2.model import Config, Model
from jaxtts.nn.functional import Tree, merged, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import Rule, layer, load_into

_ATTENTION = r"decoder\.attention_layer"

RULES = [
    Rule(r"embedding\.weight", "encoder.embedding"),
    *layer(r"(encoder|postnet)\.convolutions\.(\d+)\.0\.conv", r"\1.convs.\2", "conv"),
    *layer(r"(encoder|postnet)\.convolutions\.(\d+)\.1", r"\1.norms.\2", "batch_norm"),
    *layer(r"encoder\.lstm", "encoder.lstm", "bidirectional"),
    *layer(r"decoder\.prenet\.layers\.(\d+)\.linear_layer", r"decoder.prenet.layers.\1", "conv"),
    *layer(r"decoder\.(attention_rnn|decoder_rnn)", r"decoder.\1", "cell"),
    *layer(rf"{_ATTENTION}\.query_layer\.linear_layer", "decoder.attention.query", "conv"),
    *layer(rf"{_ATTENTION}\.memory_layer\.linear_layer", "decoder.attention.key", "conv"),
    *layer(rf"{_ATTENTION}\.v\.linear_layer", "decoder.attention.score", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_conv\.conv", "decoder.attention.location_conv", "conv"),
    *layer(rf"{_ATTENTION}\.location_layer\.location_dense\.linear_layer", "decoder.attention.location_dense", "conv"),
    *layer(r"decoder\.linear_projection\.linear_layer", "decoder.projection", "conv"),
    *layer(r"decoder\.gate_layer\.linear_layer", "decoder.gate", "conv"),
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
    """The Config that a checkpoint's shapes tell: the reference stores no hyperparameters beside its weights.

    Raises:
        ValueError: a tensor that decides is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise ValueError(f"{name} is missing: this is no checkpoint of NVIDIA/tacotron2")
        return weights[name].shape

    def count(prefix: str) -> int:
        return len({name.split(".")[2] for name in weights if name.startswith(prefix)})

    symbols, encoder_dim = shape("embedding.weight")
    location = "decoder.attention_layer.location_layer.location_conv.conv.weight"
    filters, channels, width = shape(location)
    postnet_dim, num_mels, postnet_width = shape("postnet.convolutions.0.0.conv.weight")
    frames = shape("decoder.linear_projection.linear_layer.weight")[0]
    return Config(
        num_symbols=symbols,
        num_mels=num_mels,
        encoder_dim=encoder_dim,
        encoder_layers=count("encoder.convolutions."),
        encoder_kernel_size=shape("encoder.convolutions.0.0.conv.weight")[2],
        attention_rnn_dim=shape("decoder.attention_rnn.weight_hh")[1],
        attention_dim=shape("decoder.attention_layer.query_layer.linear_layer.weight")[0],
        location=channels,
        location_filters=filters,
        location_kernel_size=width,
        decoder_rnn_dim=shape("decoder.decoder_rnn.weight_hh")[1],
        prenet_dim=shape("decoder.prenet.layers.0.linear_layer.weight")[0],
        reduction_factor=frames // num_mels,
        postnet_dim=postnet_dim,
        postnet_layers=count("postnet.convolutions."),
        postnet_kernel_size=postnet_width,
    )


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The reference's state dict -> our parameters and running statistics, as one tree (`functional.merged`).

    Raises:
        ValueError: every missing, unexpected and misshapen name, in one message.
    """
    _, params, rest = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(merged(params, rest)), weights, RULES))
