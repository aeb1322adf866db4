"""Checkpoints of jaywalnut310/glow-tts and of the GlowTTS of coqui-tts under our names.

Both spellings of weight norm, and checkpoints saved after `store_inverse()`: those have the weight norm of the
decoder's stacks folded and carry the inverse of each mixing matrix, which is recomputed here and so dropped.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxtts.models.glow_tts.model import Config, Decoder, Model
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import Rule, layer, load_into

_LAYER = r"encoder\.encoder\."
_FLOW = r"decoder\.flows\.(\d+)"


def _norm(pattern: str, name: str) -> list[Rule]:
    return [Rule(rf"{pattern}\.gamma", f"{name}.scale", np.ravel), Rule(rf"{pattern}\.beta", f"{name}.bias", np.ravel)]


def _block(suffix: str) -> Callable[[re.Match[str]], str]:
    """The name of a layer of block i from the reference's one list of 3 * blocks layers."""
    return lambda match: match.expand(f"decoder.blocks.{int(match[1]) // 3}.{suffix}")


def _flow_layer(pattern: str, name: str) -> list[Rule]:
    rules = layer(rf"{_FLOW}\.{pattern}", name, "conv")
    return [Rule(r.pattern, _block(str(r.name)), r.transform) for r in rules]


RULES = [
    Rule(r"emb_g\.weight", "speaker_embedding"),
    Rule(r"encoder\.emb\.weight", "encoder.embedding"),
    *layer(r"encoder\.pre(?:net)?\.conv_layers\.(\d+)", r"encoder.prenet.convs.\1", "conv"),
    *_norm(r"encoder\.pre(?:net)?\.norm_layers\.(\d+)", r"encoder.prenet.norms.\1"),
    *layer(r"encoder\.pre(?:net)?\.proj", "encoder.prenet.out", "conv"),
    *layer(rf"{_LAYER}attn_layers\.(\d+)\.conv_q", r"encoder.body.layers.\1.attention.query", "conv"),
    *layer(rf"{_LAYER}attn_layers\.(\d+)\.conv_k", r"encoder.body.layers.\1.attention.key", "conv"),
    *layer(rf"{_LAYER}attn_layers\.(\d+)\.conv_v", r"encoder.body.layers.\1.attention.value", "conv"),
    *layer(rf"{_LAYER}attn_layers\.(\d+)\.conv_o", r"encoder.body.layers.\1.attention.out", "conv"),
    Rule(rf"{_LAYER}attn_layers\.(\d+)\.emb_rel_k", r"encoder.body.layers.\1.attention.key_positions", lambda x: x[0]),
    Rule(
        rf"{_LAYER}attn_layers\.(\d+)\.emb_rel_v", r"encoder.body.layers.\1.attention.value_positions", lambda x: x[0]
    ),
    *_norm(rf"{_LAYER}norm_layers_1\.(\d+)", r"encoder.body.layers.\1.attention_norm"),
    *layer(rf"{_LAYER}ffn_layers\.(\d+)\.conv_1", r"encoder.body.layers.\1.ffn_in", "conv"),
    *layer(rf"{_LAYER}ffn_layers\.(\d+)\.conv_2", r"encoder.body.layers.\1.ffn_out", "conv"),
    *_norm(rf"{_LAYER}norm_layers_2\.(\d+)", r"encoder.body.layers.\1.ffn_norm"),
    *layer(rf"{_LAYER}conv_layers\.(\d+)", r"encoder.body.convs.\1", "conv"),
    *_norm(rf"{_LAYER}norm_layers\.(\d+)", r"encoder.body.norms.\1"),
    *layer(r"encoder\.proj_m", "encoder.mean", "conv"),
    *layer(r"encoder\.proj_s", "encoder.log_scale", "conv"),
    *[
        rule
        for i in (0, 1)
        for rule in (
            *layer(rf"encoder\.(?:proj_w|duration_predictor)\.conv_{i + 1}", f"duration_predictor.convs.{i}", "conv"),
            *_norm(rf"encoder\.(?:proj_w|duration_predictor)\.norm_{i + 1}", f"duration_predictor.norms.{i}"),
        )
    ],
    *layer(r"encoder\.(?:proj_w|duration_predictor)\.proj", "duration_predictor.out", "conv"),
    Rule(rf"{_FLOW}\.logs", _block("act_norm.log_scale"), np.ravel),
    Rule(rf"{_FLOW}\.bias", _block("act_norm.bias"), np.ravel),
    Rule(rf"{_FLOW}\.weight", _block("mix.weight")),
    Rule(rf"{_FLOW}\.weight_inv", None),
    *_flow_layer("start", "coupling.start"),
    *_flow_layer("end", "coupling.end"),
    *_flow_layer(r"wn\.in_layers\.(\d+)", r"coupling.wavenet.gates.\2"),
    *_flow_layer(r"wn\.res_skip_layers\.(\d+)", r"coupling.wavenet.res_skips.\2"),
    *_flow_layer(r"wn\.cond_layer", "coupling.wavenet.cond"),
]


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The reference's state dict as the parameters of `Model(config)`; weight norm is kept if config.weight_norm.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(params), weights, RULES))


def convert_decoder(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The flow's part alone of a state dict ('decoder.flows...') as the parameters of `Decoder(config)`."""
    _, params, _ = structure(lambda: Decoder(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(params, "decoder."), weights, RULES))["decoder"]


def config_from(values: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None = None) -> Config:
    """Our Config from the reference's: base.json of jaywalnut310/glow-tts, its model section, or Coqui's config.json.

    Args:
        values: the parsed JSON.
        weights: the checkpoint; sizes that the reference does not write down (alphabet, speakers) are read off it.

    Raises:
        ValueError: names an option that this model does not have.
    """
    sizes: dict[str, Any] = {}
    if weights is not None and "encoder.emb.weight" in weights:
        sizes["num_symbols"] = weights["encoder.emb.weight"].shape[0]
    if weights is not None and "emb_g.weight" in weights:
        sizes["num_speakers"], sizes["speaker_dim"] = weights["emb_g.weight"].shape
    return (_from_coqui if is_coqui(values) else _from_reference)(values, sizes)


def is_coqui(values: Mapping[str, Any]) -> bool:
    """Whether a configuration is in the names of coqui-tts."""
    return "encoder_params" in values or "encoder_type" in values


def _from_reference(values: Mapping[str, Any], sizes: dict[str, Any]) -> Config:
    v = dict(values)
    if "model" in values:  # the whole base.json
        data = values.get("data", {})
        v = {"out_channels": data.get("n_mel_channels", 80)} | dict(values["model"])
        v.setdefault("n_vocab", 148 + bool(data.get("add_blank", False)))
    if v.get("block_length") is not None:
        raise ValueError(f"block_length={v['block_length']}: local attention is not supported, only null is")
    dim = v["hidden_channels"]
    multi = v.get("n_speakers", 0) > 1
    found = Config(
        num_symbols=v.get("n_vocab", 148),
        num_mels=v.get("out_channels", 80),
        encoder_dim=v.get("hidden_channels_enc") or dim,
        encoder_layers=v.get("n_layers_enc", 6),
        encoder_heads=v.get("n_heads", 2),
        encoder_ffn_dim=v["filter_channels"],
        encoder_kernel_size=v.get("kernel_size", 3),
        encoder_dropout=v.get("p_dropout", 0.0),
        attention_window=v.get("window_size"),
        prenet=v.get("prenet", False),
        duration_dim=v["filter_channels_dp"],
        duration_kernel_size=v.get("kernel_size", 3),
        duration_dropout=v.get("p_dropout", 0.0),
        mean_only=v.get("mean_only", False),
        decoder_dim=v.get("hidden_channels_dec") or dim,
        decoder_blocks=v.get("n_blocks_dec", 12),
        decoder_layers=v.get("n_block_layers", 4),
        decoder_kernel_size=v.get("kernel_size_dec", 5),
        decoder_dilation=v.get("dilation_rate", 5),
        decoder_dropout=v.get("p_dropout_dec", 0.0),
        num_squeeze=v.get("n_sqz", 1),
        num_splits=v.get("n_split", 4),
        sigmoid_scale=v.get("sigmoid_scale", False),
        num_speakers=v["n_speakers"] if multi else 1,
        speaker_dim=v["gin_channels"] if multi else 0,
    )
    return replace(found, **sizes)


def _from_coqui(values: Mapping[str, Any], sizes: dict[str, Any]) -> Config:
    v, encoder = values, {"kernel_size": 3, "dropout_p": 0.1} | dict(values.get("encoder_params") or {})
    kinds = {"rel_pos_transformer": "transformer", "gated_conv": "gated_conv"}
    kind = v.get("encoder_type", "rel_pos_transformer").lower()
    if kind not in kinds:
        raise ValueError(f"encoder_type={kind!r} is not supported; use one of {', '.join(kinds)}")
    if encoder.get("input_length") is not None:
        raise ValueError(f"input_length={encoder['input_length']}: local attention is not supported, only null is")
    shape: dict[str, Any] = {}
    if kind == "rel_pos_transformer":
        shape = dict(
            encoder_heads=encoder["num_heads"],
            encoder_ffn_dim=encoder["hidden_channels_ffn"],
            attention_window=encoder.get("rel_attn_window_size"),
        )
    if v.get("use_d_vector_file"):
        shape |= dict(num_speakers=1, speaker_dim=v.get("d_vector_dim") or 512)
    elif v.get("use_speaker_embedding"):
        shape |= dict(num_speakers=v.get("num_speakers", 1), speaker_dim=v.get("hidden_channels_enc", 192))
    found = Config.coqui(
        num_symbols=v.get("num_chars") or 67,
        num_mels=v.get("out_channels", 80),
        encoder=kinds[kind],
        encoder_dim=v.get("hidden_channels_enc", 192),
        encoder_layers=encoder["num_layers"],
        encoder_kernel_size=encoder["kernel_size"],
        encoder_dropout=encoder["dropout_p"],
        prenet=v.get("use_encoder_prenet", True),
        duration_dim=v.get("hidden_channels_dp", 256),
        duration_dropout=v.get("dropout_p_dp", 0.1),
        mean_only=v.get("mean_only", True),
        decoder_dim=v.get("hidden_channels_dec", 192),
        decoder_blocks=v.get("num_flow_blocks_dec", 12),
        decoder_layers=v.get("num_block_layers", 4),
        decoder_kernel_size=v.get("kernel_size_dec", 5),
        decoder_dilation=v.get("dilation_rate", 1),
        decoder_dropout=v.get("dropout_p_dec", 0.05),
        num_squeeze=v.get("num_squeeze", 2),
        num_splits=v.get("num_splits", 4),
        sigmoid_scale=v.get("sigmoid_scale", False),
        **shape,
    )
    return replace(found, **sizes)
