"""Checkpoints of the VITS family under our names.

jaywalnut310/vits and what keeps its graph and names (Piper), the `Vits` of coqui-tts, and the `VitsModel` of Hugging
Face's transformers. Both spellings of weight norm are read, and folded weights. What speaking and training here have no
use for is dropped by name: discriminators and speaker encoders that a checkpoint brings along, and conditioning layers
that the reference never calls since the model has one speaker.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.vits.model import Config, Model
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.fields import Fields
from jaxtts.weights.match import Rule, layer, load_into


def _norm(pattern: str, name: str) -> list[Rule]:
    """A layer norm under either pair of names; some are stored [1, C, 1]."""
    return [
        Rule(rf"{pattern}\.(?:gamma|weight)", f"{name}.scale", np.ravel),
        Rule(rf"{pattern}\.(?:beta|bias)", f"{name}.bias", np.ravel),
    ]


def _shared(positions: np.ndarray) -> np.ndarray:
    """Relative positions [1, 2w + 1, D], which the heads share."""
    if positions.ndim != 3 or len(positions) != 1:
        raise ValueError("one embedding per head")
    return positions[0]


def _every(step: int, first: int, rules: list[Rule]) -> list[Rule]:
    """Rules whose name holds '{}' for a list's index, which the pattern's first group counts in steps from `first`."""

    def numbered(name: str) -> Callable[[re.Match[str]], str]:
        return lambda match: match.expand(name.format((int(match[1]) - first) // step))

    return [Rule(r.pattern, numbered(str(r.name)), r.transform) for r in rules]


def _wavenet(pattern: str, name: str, group: int) -> list[Rule]:
    """`WN`; `group` is the number of the group that finds the layer."""
    return [
        *layer(rf"{pattern}\.in_layers\.(\d+)", rf"{name}.gates.\{group}", "conv"),
        *layer(rf"{pattern}\.res_skip_layers\.(\d+)", rf"{name}.res_skips.\{group}", "conv"),
        *layer(rf"{pattern}\.cond_layer", f"{name}.cond", "conv"),
    ]


def _separable(pattern: str, name: str, group: int, hf: bool) -> list[Rule]:
    """`DDSConv`."""
    spread, mix = ("convs_dilated", "convs_pointwise") if hf else ("convs_sep", "convs_1x1")
    return [
        *layer(rf"{pattern}\.{spread}\.(\d+)", rf"{name}.depthwise.\{group}", "conv"),
        *layer(rf"{pattern}\.{mix}\.(\d+)", rf"{name}.pointwise.\{group}", "conv"),
        *_norm(rf"{pattern}\.norms_1\.(\d+)", rf"{name}.depthwise_norms.\{group}"),
        *_norm(rf"{pattern}\.norms_2\.(\d+)", rf"{name}.pointwise_norms.\{group}"),
    ]


def _durations(dp: str, step: int, hf: bool) -> list[Rule]:
    """Both duration predictors, under a prefix `dp`; `step` counts a flow's layers from one coupling to the next."""
    pre, stack, out = ("conv_pre", "conv_dds", "conv_proj") if hf else ("pre", "convs", "proj")
    ours = "duration_predictor"
    rules = [*layer(rf"{dp}\.cond", f"{ours}.cond", "conv"), *layer(rf"{dp}\.proj", f"{ours}.out", "conv")]
    for i in (0, 1):
        rules += layer(rf"{dp}\.conv_{i + 1}", f"{ours}.convs.{i}", "conv")
        rules += _norm(rf"{dp}\.norm_{i + 1}", f"{ours}.norms.{i}")
    for post in ("", "post_"):
        flow, name = rf"{dp}\.{post}flows", f"{ours}.{post}flows"
        rules += [
            *layer(rf"{dp}\.{post}{pre}", f"{ours}.{post}start", "conv"),
            *_separable(rf"{dp}\.{post}{stack}", f"{ours}.{post}stack", 1, hf),
            *layer(rf"{dp}\.{post}{out}", f"{ours}.{post}out", "conv"),
            Rule(rf"{flow}\.0\.(?:m|translation|translate)", f"{name}.affine.bias", np.ravel),
            Rule(rf"{flow}\.0\.(?:logs|log_scale)", f"{name}.affine.log_scale", np.ravel),
            *_every(step, 1, layer(rf"{flow}\.(\d+)\.{pre}", f"{name}.couplings.{{}}.start", "conv")),
            *_every(step, 1, _separable(rf"{flow}\.(\d+)\.{stack}", f"{name}.couplings.{{}}.stack", 2, hf)),
            *_every(step, 1, layer(rf"{flow}\.(\d+)\.{out}", f"{name}.couplings.{{}}.out", "conv")),
        ]
    return rules


def _couplings(step: int, pre: str, wavenet: str, post: str) -> list[Rule]:
    return [
        *_every(step, 0, layer(rf"flow\.flows\.(\d+)\.{pre}", "flow.blocks.{}.start", "conv")),
        *_every(step, 0, _wavenet(rf"flow\.flows\.(\d+)\.{wavenet}", "flow.blocks.{}.wavenet", 2)),
        *_every(step, 0, layer(rf"flow\.flows\.(\d+)\.{post}", "flow.blocks.{}.end", "conv")),
    ]


def _decoder(decoder: str, ups: str) -> list[Rule]:
    return [
        *layer(rf"{decoder}\.(conv_pre|conv_post|resblocks\.\d+\.convs[12]?\.\d+)", r"decoder.\1", "conv"),
        *layer(rf"{decoder}\.cond(?:_layer)?", "decoder.cond", "conv"),
        *layer(rf"{decoder}\.{ups}\.(\d+)", r"decoder.ups.\1", "conv_transpose"),
    ]


def _reference(text: str, posterior: str, decoder: str, dp: str, step: int) -> list[Rule]:
    """The rules of jaywalnut310's names and of Coqui's, which differ in the four prefixes and in what a flow lists."""
    body, ours = rf"{text}\.encoder", r"text_encoder.body.layers.\1"
    rules = [
        Rule(r"emb_g\.weight", "speaker_embedding"),
        Rule(rf"{text}\.emb\.weight", "text_encoder.embedding"),
        Rule(rf"{body}\.attn_layers\.(\d+)\.emb_rel_k", f"{ours}.attention.key_positions", _shared),
        Rule(rf"{body}\.attn_layers\.(\d+)\.emb_rel_v", f"{ours}.attention.value_positions", _shared),
        *_norm(rf"{body}\.norm_layers_1\.(\d+)", f"{ours}.attention_norm"),
        *_norm(rf"{body}\.norm_layers_2\.(\d+)", f"{ours}.ffn_norm"),
        *layer(rf"{body}\.ffn_layers\.(\d+)\.conv_1", f"{ours}.ffn_in", "conv"),
        *layer(rf"{body}\.ffn_layers\.(\d+)\.conv_2", f"{ours}.ffn_out", "conv"),
        *layer(rf"{text}\.proj", "text_encoder.out", "conv"),
        *layer(rf"{posterior}\.pre", "posterior_encoder.start", "conv"),
        *_wavenet(rf"{posterior}\.enc", "posterior_encoder.wavenet", 1),
        *layer(rf"{posterior}\.proj", "posterior_encoder.out", "conv"),
        *_couplings(step, "pre", "enc", "post"),
        *_decoder(decoder, "ups"),
        *_durations(dp, step, hf=False),
    ]
    for theirs, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
        rules += layer(rf"{body}\.attn_layers\.(\d+)\.conv_{theirs}", f"{ours}.attention.{name}", "conv")
    return rules


def _hugging_face() -> list[Rule]:
    body, ours = r"text_encoder\.encoder\.layers\.(\d+)", r"text_encoder.body.layers.\1"
    rules = [
        Rule(r"embed_speaker\.weight", "speaker_embedding"),
        Rule(r"text_encoder\.embed_tokens\.weight", "text_encoder.embedding"),
        Rule(rf"{body}\.attention\.emb_rel_k", f"{ours}.attention.key_positions", _shared),
        Rule(rf"{body}\.attention\.emb_rel_v", f"{ours}.attention.value_positions", _shared),
        *_norm(rf"{body}\.layer_norm", f"{ours}.attention_norm"),
        *_norm(rf"{body}\.final_layer_norm", f"{ours}.ffn_norm"),
        *layer(rf"{body}\.feed_forward\.conv_1", f"{ours}.ffn_in", "conv"),
        *layer(rf"{body}\.feed_forward\.conv_2", f"{ours}.ffn_out", "conv"),
        *layer(r"text_encoder\.project", "text_encoder.out", "conv"),
        *layer(r"posterior_encoder\.conv_pre", "posterior_encoder.start", "conv"),
        *_wavenet(r"posterior_encoder\.wavenet", "posterior_encoder.wavenet", 1),
        *layer(r"posterior_encoder\.conv_proj", "posterior_encoder.out", "conv"),
        *_couplings(1, "conv_pre", "wavenet", "conv_post"),
        *_decoder("decoder", "upsampler"),
        *_durations("duration_predictor", 1, hf=True),
    ]
    for theirs, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        kernel = Rule(rf"{body}\.attention\.{theirs}_proj\.weight", f"{ours}.attention.{name}.kernel", _pointwise)
        rules += [kernel, Rule(rf"{body}\.attention\.{theirs}_proj\.bias", f"{ours}.attention.{name}.bias")]
    return rules


def _pointwise(weight: np.ndarray) -> np.ndarray:
    """A linear layer's [O, I] as the kernel [1, I, O] of a convolution of width 1."""
    return np.transpose(weight.reshape(weight.shape[:2]))[None]


RULES = _reference("enc_p", "enc_q", "dec", "dp", 2)
COQUI_RULES = [
    Rule(r"(?:disc|speaker_encoder|audio_transform)\..*", None),
    *_reference("text_encoder", "posterior_encoder", "waveform_decoder", "duration_predictor", 1),
]
HF_RULES = _hugging_face()
_UNCALLED = Rule(r".*\.(?:cond|cond_layer)\.[\w.]+", None)


def _convert(weights: Mapping[str, np.ndarray], config: Config, rules: list[Rule]) -> Tree:
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    return nested(load_into(named(params), weights, rules if config.speaker_dim else [_UNCALLED, *rules]))


def convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The `model` of a `G_*.pth` of jaywalnut310/vits as the parameters of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    return _convert(weights, config, RULES)


def hf_convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The same of a `VitsModel`."""
    return _convert(weights, config, HF_RULES)


def config_from(values: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None = None) -> Config:
    """Our Config of the reference's: a whole `*_base.json` (train, data, model), or the arguments of `SynthesizerTrn`.

    Args:
        values: the parsed JSON.
        weights: the checkpoint; sizes that the reference does not write down (alphabet, width of the plain duration
            predictor) are read off it.

    Raises:
        ValueError: a field is missing, absurd, or an option that this model does not have.
    """
    whole = Fields(values)
    data, train = whole.section("data"), whole.section("train")
    v = whole.section("model") if "model" in values else whole
    v.expect("use_spectral_norm", False)
    rates = v.wholes("upsample_rates")
    hop = int(np.prod(rates))
    bins = v.whole("spec_channels", data.whole("filter_length", 1024) // 2 + 1)
    speakers = v.whole("n_speakers", data.whole("n_speakers", 0, least=0), least=0)
    segment = v.whole("segment_size", 32) if "model" not in values else train.whole("segment_size", 32 * hop) // hop
    channels = v.whole("gin_channels", 0, least=0) if speakers > 1 else 0
    kernel = v.whole("kernel_size", 3)
    return Config(
        num_symbols=v.whole("n_vocab", _rows(weights, "enc_p.emb.weight", 178)),
        mel=data_mel(data, bins, hop),
        spectrogram_bins=bins,
        latent_dim=v.whole("inter_channels"),
        encoder_dim=v.whole("hidden_channels"),
        encoder_layers=v.whole("n_layers", most=1000),
        encoder_heads=v.whole("n_heads"),
        encoder_ffn_dim=v.whole("filter_channels"),
        encoder_kernel_size=kernel,
        encoder_dropout=v.real("p_dropout", 0.1),
        hidden_dim=v.whole("hidden_channels"),
        stochastic_durations=v.flag("use_sdp", True),
        duration_dim=_rows(weights, "dp.conv_1.weight", 256),
        num_speakers=max(speakers, 1),
        speaker_dim=channels,
        resblock=_kind(v, "resblock"),
        upsample_rates=rates,
        upsample_kernel_sizes=v.wholes("upsample_kernel_sizes"),
        upsample_channels=v.whole("upsample_initial_channel"),
        resblock_kernel_sizes=v.wholes("resblock_kernel_sizes"),
        resblock_dilations=v.lists("resblock_dilation_sizes"),
        segment_frames=max(segment, 1),
        kl_weight=train.real("c_kl", 1.0),
    )


def hf_config_from(values: Mapping[str, Any]) -> Config:
    """Our Config of a `VitsModel`'s config.json.

    Raises:
        ValueError: a field is missing, absurd, or an option that this model does not have.
    """
    v = Fields(values)
    for name, allowed in _HF_FIXED.items():
        v.expect(name, *allowed)
    rates = v.wholes("upsample_rates", (8, 8, 2, 2))
    bins = v.whole("spectrogram_bins", 513)
    speakers = v.whole("num_speakers", 1, least=0)
    kernel = v.whole("wavenet_kernel_size", 5)
    window = v.whole("window_size", 4, least=0) if values.get("window_size", 4) is not None else 0
    return Config(
        num_symbols=v.whole("vocab_size", 38),
        mel=spectrogram(v.whole("sampling_rate", 16000), 2 * (bins - 1), int(np.prod(rates))),
        spectrogram_bins=bins,
        latent_dim=v.whole("flow_size", 192),
        encoder_dim=v.whole("hidden_size", 192),
        encoder_layers=v.whole("num_hidden_layers", 6, most=1000),
        encoder_heads=v.whole("num_attention_heads", 2),
        encoder_ffn_dim=v.whole("ffn_dim", 768),
        encoder_kernel_size=v.whole("ffn_kernel_size", 3),
        encoder_dropout=v.real("hidden_dropout", 0.1),
        attention_window=window or None,
        hidden_dim=v.whole("hidden_size", 192),
        posterior_layers=v.whole("posterior_encoder_num_wavenet_layers", 16, most=1000),
        posterior_kernel_size=kernel,
        posterior_dilation=v.whole("wavenet_dilation_rate", 1, most=100),
        flow_blocks=v.whole("prior_encoder_num_flows", 4, most=1000),
        flow_layers=v.whole("prior_encoder_num_wavenet_layers", 4, most=1000),
        flow_kernel_size=kernel,
        flow_dilation=v.whole("wavenet_dilation_rate", 1, most=100),
        stochastic_durations=v.flag("use_stochastic_duration_prediction", True),
        duration_dim=v.whole("duration_predictor_filter_channels", 256),
        duration_kernel_size=v.whole("duration_predictor_kernel_size", 3),
        duration_dropout=v.real("duration_predictor_dropout", 0.5),
        duration_flows=v.whole("duration_predictor_num_flows", 4, most=1000),
        duration_layers=v.whole("depth_separable_num_layers", 3, most=100),
        spline_bins=v.whole("duration_predictor_flow_bins", 10, most=1000),
        spline_bound=v.real("duration_predictor_tail_bound", 5.0),
        num_speakers=max(speakers, 1),
        speaker_dim=v.whole("speaker_embedding_size", 0, least=0) if speakers > 1 else 0,
        upsample_rates=rates,
        upsample_kernel_sizes=v.wholes("upsample_kernel_sizes", (16, 16, 4, 4)),
        upsample_channels=v.whole("upsample_initial_channel", 512),
        resblock_kernel_sizes=v.wholes("resblock_kernel_sizes", (3, 7, 11)),
        resblock_dilations=v.lists("resblock_dilation_sizes", ((1, 3, 5),) * 3),
    )


def coqui_convert(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The same of the `Vits` of coqui-tts."""
    return _convert(weights, config, COQUI_RULES)


def coqui_config_from(values: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Config:
    """Our Config of a config.json of coqui-tts and the tensors beside it.

    Raises:
        ValueError: a field is missing, absurd, or an option that this model does not have.
    """
    whole = Fields(values)
    v, audio = whole.section("model_args"), whole.section("audio")
    v.expect("encoder_sample_rate")
    rates = v.wholes("upsample_rates_decoder", (8, 8, 2, 2))
    bins = v.whole("out_channels", 513)
    hidden = v.whole("hidden_channels", 192)
    speakers, channels = weights["emb_g.weight"].shape if "emb_g.weight" in weights else (1, 0)
    stochastic = v.flag("use_sdp", True)
    data = {
        "sampling_rate": audio.values.get("sample_rate"), "filter_length": audio.values.get("fft_size"),
        "hop_length": audio.values.get("hop_length"), "win_length": audio.values.get("win_length"),
        "n_mel_channels": audio.values.get("num_mels"), "mel_fmin": audio.values.get("mel_fmin"),
        "mel_fmax": audio.values.get("mel_fmax"),
    }  # fmt: skip
    return Config(
        num_symbols=_rows(weights, "text_encoder.emb.weight", v.whole("num_chars", 100)),
        mel=data_mel(Fields(data, whole.where), bins, int(np.prod(rates))),
        spectrogram_bins=bins,
        latent_dim=hidden,
        encoder_dim=_columns(weights, "text_encoder.emb.weight", hidden),
        encoder_layers=v.whole("num_layers_text_encoder", 6, most=1000),
        encoder_heads=v.whole("num_heads_text_encoder", 2),
        encoder_ffn_dim=v.whole("hidden_channels_ffn_text_encoder", 768),
        encoder_kernel_size=v.whole("kernel_size_text_encoder", 3),
        encoder_dropout=v.real("dropout_p_text_encoder", 0.1),
        hidden_dim=hidden,
        posterior_layers=v.whole("num_layers_posterior_encoder", 16, most=1000),
        posterior_kernel_size=v.whole("kernel_size_posterior_encoder", 5),
        posterior_dilation=v.whole("dilation_rate_posterior_encoder", 1, most=100),
        flow_layers=v.whole("num_layers_flow", 4, most=1000),
        flow_kernel_size=v.whole("kernel_size_flow", 5),
        flow_dilation=v.whole("dilation_rate_flow", 1, most=100),
        stochastic_durations=stochastic,
        stochastic_dim=_rows(weights, "duration_predictor.pre.weight", 192),
        duration_dim=_rows(weights, "duration_predictor.conv_1.weight", 256),
        duration_dropout=v.real("dropout_p_duration_predictor", 0.5),
        duration_norm_eps=1e-4,
        num_speakers=speakers,
        speaker_dim=channels,
        resblock=_kind(v, "resblock_type_decoder"),
        upsample_rates=rates,
        upsample_kernel_sizes=v.wholes("upsample_kernel_sizes_decoder", (16, 16, 4, 4)),
        upsample_channels=v.whole("upsample_initial_channel_decoder", 512),
        resblock_kernel_sizes=v.wholes("resblock_kernel_sizes_decoder", (3, 7, 11)),
        resblock_dilations=v.lists("resblock_dilation_sizes_decoder", ((1, 3, 5),) * 3),
        segment_frames=v.whole("spec_segment_size", 32),
    )


_HF_FIXED: dict[str, tuple[Any, ...]] = {
    "use_bias": (True,),
    "hidden_act": ("relu",),
    "layer_norm_eps": (1e-5,),
    "leaky_relu_slope": (0.1,),
    "depth_separable_channels": (2,),
}


def data_mel(data: Fields, bins: int, hop: int) -> MelSpec:
    """The spectrogram of a config's section `data`; what it does not state is as in the published ones."""
    default = mel_spec("vits")
    n_fft = data.whole("filter_length", 2 * (bins - 1))
    mel = spectrogram(
        data.whole("sampling_rate", default.sample_rate), n_fft, data.whole("hop_length", hop),
        win_length=data.whole("win_length", n_fft),
    )  # fmt: skip
    fmax = None if data.values.get("mel_fmax") is None else data.real("mel_fmax")
    mel = mel.replace(num_mels=data.whole("n_mel_channels", 80), fmin=data.real("mel_fmin", 0.0), fmax=fmax)
    return default if mel == default else mel


def spectrogram(sample_rate: int, n_fft: int, hop_length: int, *, win_length: int | None = None) -> MelSpec:
    """VITS's spectrogram with other numbers; a window shorter than the hop is widened to four hops."""
    default = mel_spec("vits")
    n_fft = n_fft if n_fft >= hop_length else 4 * hop_length
    win_length = n_fft if win_length is None or not hop_length <= win_length <= n_fft else win_length
    mel = default.replace(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, win_length=win_length, fmax=None)
    return default if mel == default else mel.replace(name="vits_custom")


def _columns(weights: Mapping[str, np.ndarray], name: str, default: int) -> int:
    """The second axis of a table, where there is one."""
    return weights[name].shape[1] if name in weights and weights[name].ndim == 2 else default


def _kind(v: Fields, name: str) -> int:
    """The residual block, which the references spell as a text."""
    v.expect(name, "1", "2", 1, 2)
    return int(v.values.get(name, 1))


def _rows(weights: Mapping[str, np.ndarray] | None, name: str, default: int) -> int:
    """The first axis of a tensor, where there is one."""
    return weights[name].shape[0] if weights is not None and name in weights and weights[name].ndim else default
