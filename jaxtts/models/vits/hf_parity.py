"""Our answers to recorded cases of transformers' VitsModel, in its names and layouts; see tools/parity.py."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.models.vits.convert import hf_config_from, hf_convert
from jaxtts.models.vits.model import Model
from jaxtts.nn import functional
from jaxtts.nn.alignment import expand
from jaxtts.nn.attention import TransformerLayer
from jaxtts.nn.masking import masked_fill, sequence_mask

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts.
        inputs: 'in.*' -> array.
    """
    config = hf_config_from(meta["config"])
    graph, _, _ = functional.structure(lambda: Model(config, rngs=functional.rngs_for_shapes()))
    model = functional.merge(graph, hf_convert(weights, config))
    text = jnp.asarray(inputs["in.input_ids"], jnp.int32)
    lengths = jnp.sum(jnp.asarray(inputs["in.attention_mask"], jnp.int32), axis=1)
    speaker = None
    if config.speaker_dim:
        speaker = jnp.broadcast_to(jnp.asarray(inputs["in.speaker_id"], jnp.int32).ravel(), lengths.shape)
    prior = model.text_encoder(text, lengths)
    out = {f"hidden_states.{n}": x for n, x in enumerate(_hidden_states(model, text, prior.mask))}
    out |= {
        "text_encoder.last_hidden_state": prior.hidden,
        "text_encoder.prior_means": prior.mean,
        "text_encoder.prior_log_variances": prior.log_scale,
    }
    out |= _speak(model, text, lengths, speaker, {"length_scale": 1 / meta["config"].get("speaking_rate", 1.0)})
    noise = [jnp.asarray(inputs[f"in.noise.{n}"]).swapaxes(1, 2) for n in (0, 1) if f"in.noise.{n}" in inputs]
    if noise:
        noisy = meta["config"]["noisy"]
        options = {
            "length_scale": 1 / noisy["speaking_rate"],
            "noise_scale": noisy["noise_scale"],
            "duration_noise_scale": noisy["noise_scale_duration"],
            "noise": noise[-1],
            "duration_noise": noise[0] if len(noise) == 2 else None,
        }
        found = _speak(model, text, lengths, speaker, options)
        out |= {f"noisy.{name}": value for name, value in found.items()}
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def _speak(
    model: Model, text: jax.Array, lengths: jax.Array, speaker: jax.Array | None, options: dict[str, Any]
) -> dict[str, jax.Array]:
    """`infer` as the reference's: cut to the longest item, whose companions' padding leaks into their last frames.

    What it puts into the flow is known in the padding too (noise, and nothing else), where ours is zero.
    """
    room = options["noise"].shape[1] if "noise" in options else 64 * text.shape[1]
    z, frames, alignment = model.latent(text, lengths, max_frames=room, speaker=speaker, **options)
    length = int(frames.max())
    prior, durations = model.text_encoder(text, lengths), alignment.sum(axis=1).astype(jnp.int32)
    mean, log_scale = (expand(x, durations, length) for x in (prior.mean, prior.log_scale))
    if "noise" in options:
        mean = mean + jnp.exp(log_scale) * options["noise"][:, :length] * options["noise_scale"]
    hop = model.config.decoder.hop_length
    return {
        "waveform": model.decode(z[:, :length], speaker=speaker),
        "sequence_lengths": frames * hop,
        "spectrogram": masked_fill(z[:, :length], sequence_mask(frames, length)).swapaxes(1, 2),
        "prior_latents": mean.swapaxes(1, 2),
    }


def _hidden_states(model: Model, text: jax.Array, mask: jax.Array) -> list[jax.Array]:
    """What each layer reads, and what the last one gives [B, S, H]; the reference masks ahead of convolutions alone."""
    table = model.text_encoder.embedding[...]
    x = masked_fill(table[text] * math.sqrt(table.shape[1]), mask)
    states = []
    for layer in model.text_encoder.body.layers:
        states.append(x)
        x = _unmasked(layer, x, mask)
    return [*states, masked_fill(x, mask)]


def _unmasked(layer: TransformerLayer, x: jax.Array, mask: jax.Array) -> jax.Array:
    """The layer, its rows in the padding left as they come."""
    x = layer.attention_norm(x + layer.attention(x, mask))
    y = jax.nn.relu(layer.ffn_in(masked_fill(x, mask)))
    return layer.ffn_norm(x + masked_fill(layer.ffn_out(masked_fill(y, mask)), mask))
