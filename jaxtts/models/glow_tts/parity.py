"""Our answers to recorded cases of jaywalnut310/glow-tts and of coqui-tts, in their names and layouts.

See tools/parity.py. Where coqui-tts lets padded symbols speak for one frame each, or divides by lengths before they
are cut to whole groups, it is followed here, not in the model.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.models.glow_tts.convert import RULES, config_from, convert, convert_decoder, is_coqui
from jaxtts.models.glow_tts.model import Decoder, Model
from jaxtts.models.glow_tts.task import duration_loss, mle_loss
from jaxtts.nn.alignment import monotonic_alignment_search, path_from_durations
from jaxtts.nn.flow import squeeze
from jaxtts.nn.functional import Tree, merge, named, rngs_for_shapes, structure
from jaxtts.nn.masking import sequence_mask

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value, for cases of either system.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts (none for the alignment search alone).
        inputs: 'in.*' -> array.
    """
    config = meta["config"]
    x = {name.removeprefix("in."): jnp.asarray(value) for name, value in inputs.items()}
    if "value" in x:
        out = _search(x)
    elif "x" not in x:
        ours = config_from(config)
        graph, _, _ = structure(lambda: Decoder(ours, rngs=rngs_for_shapes()))
        out = jax.jit(lambda params, x: _initialize(merge(graph, params), x))(convert_decoder(weights, ours), x)
    else:
        ours = config_from(config)
        graph, _, _ = structure(lambda: Model(ours, rngs=rngs_for_shapes()))

        def answer(params, x):
            if is_coqui(config):
                return _coqui(merge(graph, params), config, x)
            if "y" in x:
                return _train(graph, params, x, meta.get("grad_keys", []))
            return _generate(merge(graph, params), config, x)

        out = jax.jit(answer)(convert(weights, ours), x)
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def _search(x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    value = x["value"]  # [B, S, T]
    durations = monotonic_alignment_search(value.transpose(2, 0, 1), x["x_lengths"], x["y_lengths"])
    path = path_from_durations(durations, value.shape[2]).swapaxes(1, 2)
    return {"path": path, "score": jnp.sum(path * value, axis=(1, 2))}


def _initialize(decoder: Decoder, x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    mel = x["y"].swapaxes(1, 2)
    mask = sequence_mask(x["y_lengths"], mel.shape[1])
    decoder.initialize(mel, mask)
    z, log_det = decoder.forward(mel, mask)
    out = {"z": _channels_first(z), "logdet": log_det}
    for i, block in enumerate(decoder.blocks):
        out[f"flows.{3 * i}.logs"] = block.act_norm.log_scale[...][None, :, None]
        out[f"flows.{3 * i}.bias"] = block.act_norm.bias[...][None, :, None]
    return out


def _train(graph: Any, params: Tree, x: Mapping[str, jax.Array], grad_keys: list[str]) -> dict[str, jax.Array]:
    mel = x["y"].swapaxes(1, 2)

    def loss(params, mel):
        model = merge(graph, params)
        output = model(x["x"], x["x_lengths"], mel, x["y_lengths"], speaker=x.get("g"))
        mle = mle_loss(output, jnp.sum(output.mel_lengths))
        duration = duration_loss(output, x["x_lengths"])
        return mle + duration, (output, mle, duration)

    objective = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, (output, mle, duration)), (grads, grad_mel) = objective(params, mel)
    norms = {name: jnp.sqrt(jnp.sum(g * g)) for name, g in named(grads).items()}
    model, prior, frames = merge(graph, params), output.prior, output.z.shape[1]
    out = {
        "enc": _channels_first(model.encoder(x["x"], prior.mask)),
        "z": _channels_first(output.z),
        "z_m": _channels_first(output.mean),
        "z_logs": _channels_first(output.log_scale),
        "logdet": output.log_det,
        "z_mask": sequence_mask(output.mel_lengths, frames)[:, None],
        "x_m": _channels_first(prior.mean),
        "x_logs": _channels_first(prior.log_scale),
        "x_mask": prior.mask[:, None],
        "attn": path_from_durations(output.durations, frames).swapaxes(1, 2)[:, None],
        "logw": prior.log_durations[:, None],
        "logw_": output.target_log_durations[:, None],
        "l_mle": mle,
        "l_length": duration,
        "grad_y": _channels_first(grad_mel),
    }
    if grad_keys:
        out["grad_norm"] = jnp.stack([norms[our_name(name)] for name in grad_keys])
    mask = sequence_mask(output.mel_lengths, frames)
    h, mask = squeeze(mel[:, :frames], mask, model.config.num_squeeze)
    out["flow_sqz_in"] = _channels_first(h)
    layers = [layer for block in model.decoder.blocks for layer in block.layers()]
    for i, layer in enumerate(layers):
        h, _ = layer.forward(h, mask, model.speaker(x.get("g")))
        out[f"flow{i}"] = _channels_first(h)
    return out


def _generate(model: Model, config: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    noise = x["noise"].swapaxes(1, 2)
    frames, cond = noise.shape[1], model.speaker(x.get("g"))
    prior = model.prior(x["x"], x["x_lengths"], cond)
    durations = model.durations(prior, config["length_scale"])

    def infer(noise_scale):
        return model.infer(
            x["x"],
            x["x_lengths"],
            max_frames=frames,
            noise_scale=noise_scale,
            length_scale=config["length_scale"],
            speaker=x.get("g"),
            noise=noise,
        )

    mel, lengths, alignment = infer(config["noise_scale"])
    return {
        "y_noise0": _channels_first(infer(0.0)[0]),
        "y_noisen": _channels_first(mel),
        "z_m": _channels_first(alignment @ prior.mean),
        "z_logs": _channels_first(alignment @ prior.log_scale),
        "z_mask": sequence_mask(lengths, frames)[:, None],
        "attn": alignment.swapaxes(1, 2)[:, None],
        "logw": prior.log_durations[:, None],
        "w_ceil": durations[:, None],
        "x_m": _channels_first(prior.mean),
        "x_logs": _channels_first(prior.log_scale),
    }


def _coqui(model: Model, config: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    text, mel, speaker = (x["x"], x["x_lengths"]), (x["y"], x["y_lengths"]), x.get("speaker_ids")
    cond = model.speaker(speaker)
    output = model(*text, *mel, speaker=speaker)
    prior, frames = output.prior, output.z.shape[1]
    mle, duration = mle_loss(output, jnp.sum(x["y_lengths"])), duration_loss(output, x["x_lengths"])
    mask = sequence_mask(x["y_lengths"], x["y"].shape[1])
    z, _ = model.decoder.forward(x["y"], mask, cond)
    out = {
        "train.z": output.z,
        "train.logdet": output.log_det,
        "train.y_mean": output.mean,
        "train.y_log_scale": output.log_scale,
        "train.alignments": path_from_durations(output.durations, frames),
        "train.durations_log": prior.log_durations[..., None],
        "train.total_durations_log": output.target_log_durations[..., None],
        "train.log_mle": mle,
        "train.loss_dur": duration,
        "train.loss": mle + duration,
        "roundtrip.model_outputs": model.decoder.inverse(z, mask[:, : z.shape[1]], cond),
    }
    # Padded symbols lengthen an item by one frame each, but own none of its frames.
    durations = model.durations(prior, config["length_scale"])
    lengths = jnp.sum(jnp.maximum(durations, 1), axis=1)
    mask = sequence_mask(lengths, x["noise"].shape[2])
    alignment = path_from_durations(durations, mask.shape[1])
    mean, log_scale = alignment @ prior.mean, alignment @ prior.log_scale
    noise = jnp.exp(log_scale) * x["noise"].swapaxes(1, 2)
    for name, scale in (("infer0", 0.0), ("infer", config["inference_noise_scale"])):
        z = jnp.where(mask[..., None], mean + scale * noise, 0.0)
        out[f"{name}.model_outputs"] = model.decoder.inverse(z, mask, cond)
    total = jnp.where(prior.mask, jnp.log(model.config.duration_offset + jnp.sum(alignment, axis=1)), 0.0)
    return out | {
        "infer.y_mean": mean,
        "infer.y_log_scale": log_scale,
        "infer.alignments": alignment,
        "infer.durations_log": prior.log_durations[..., None],
        "infer.total_durations_log": total[..., None],
    }


def our_name(name: str) -> str:
    """The parameter that a tensor of the reference becomes.

    Raises:
        ValueError: it becomes none.
    """
    for rule in RULES:
        if (match := re.fullmatch(rule.pattern, name)) and rule.name is not None:
            return rule.name(match) if callable(rule.name) else match.expand(rule.name)
    raise ValueError(f"{name} is no parameter of Glow-TTS")


def _channels_first(x: jax.Array) -> jax.Array:
    return x.swapaxes(1, 2)  # [B, T, C] -> [B, C, T]
