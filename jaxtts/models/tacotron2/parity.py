"""Our answers to recorded cases of NVIDIA/tacotron2 and coqui-tts, in their names and layouts; see tools/parity.py.

The references do not mask what lies behind the ends of texts and mels in their convolutions and post-net, and NVIDIA's
counts the padding in its loss: that is followed here, not in the model.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.spec import mel_spec
from jaxtts.audio.stft import istft, mel_spectrogram, stft
from jaxtts.models.tacotron2.convert import config_from, convert, coqui_config_from
from jaxtts.models.tacotron2.model import Memory, Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure
from jaxtts.nn.masking import masked_fill, sequence_mask

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value. Arguments as in models/glow_tts/parity.py."""
    x = {name.removeprefix("in."): jnp.asarray(value) for name, value in inputs.items()}
    if "y" in x:
        out = _spectrogram(x["y"])
    elif "attention_norm" in meta["config"]:
        config = coqui_config_from(meta["config"], weights)
        graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
        out = _coqui(merge(graph, convert(weights, config)), x, meta["config"]["max_decoder_steps"])
    else:
        config = config_from(meta["config"])
        graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
        out = _answers(merge(graph, convert(weights, config)), x, meta["config"]["max_decoder_steps"])
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def _spectrogram(wave: jax.Array) -> dict[str, jax.Array]:
    """TacotronSTFT, whose sizes are those of our spec of the same name."""
    spec = mel_spec("tacotron2")
    spectrum = stft(wave, spec.n_fft, spec.hop_length)
    return {
        "mel": mel_spectrogram(wave, spec).swapaxes(1, 2),
        "magnitude": jnp.abs(spectrum).swapaxes(1, 2),
        "reconstruction": istft(spectrum, spec.n_fft, spec.hop_length),
    }


def _answers(model: Model, x: Mapping[str, jax.Array], max_steps: int) -> dict[str, jax.Array]:
    mel = x["mel"].swapaxes(1, 2)  # [B, T, M]
    memory = _memory(model, x["text"], x["text_lengths"])
    told = jnp.pad(mel, ((0, 0), (1, 0), (0, 0)))  # [B, 1 + T, M]; the reference's pre-net sees the last frame too
    masks = [x[f"prenet_mask.{i}"].swapaxes(0, 1) for i in range(2)]
    out = {"encoder": memory.values, "prenet_nodrop": model.decoder.prenet(told).swapaxes(0, 1)}
    real = sequence_mask(x["output_lengths"], mel.shape[1])
    for name, heard in (("nodrop", model.decoder.prenet(told)), ("drop", _prenet(model, told, masks))):
        made, stop, alignment = model.decoder(heard[:, :-1], memory)
        refined = made + model.postnet(made, jnp.ones(real.shape, bool))[0]
        made, refined = masked_fill(made, real), masked_fill(refined, real)
        stop = jnp.where(real, stop, 1e3)
        squared = jnp.mean((made - mel) ** 2) + jnp.mean((refined - mel) ** 2)
        crossed = jnp.mean(jax.nn.softplus(stop) - x["gate_target"] * stop)
        mels = {"mel": made, "mel_postnet": refined}
        out |= {f"{name}.{kind}": value.swapaxes(1, 2) for kind, value in mels.items()}
        out |= {f"{name}.gate": stop, f"{name}.alignments": alignment, f"{name}.loss": squared + crossed}
    first, length = x["text"][:1], x["text_lengths"][:1]
    threshold = {"inference_max": 1.0, "inference_stop": float(x["inference_stop.gate_threshold"])}
    drops = x["inference_drop_mask"]  # [T, layer, B, P]
    for name in ("inference_max", "inference_stop", "inference_drop"):
        steps = _infer(model, first, length, max_steps, threshold.get(name, 1.0), drops if "drop" in name else None)
        out |= {f"{name}.{kind}": value for kind, value in steps.items()}
    return out


def _memory(model: Model, text: jax.Array, lengths: jax.Array) -> Memory:
    mask = sequence_mask(lengths, text.shape[1])
    hidden, _ = model.encoder.convolve(model.encoder.embedding[...][text], jnp.ones(text.shape, bool))
    values = model.encoder.lstm(hidden, mask)
    return Memory(values, model.decoder.attention.keys(values), mask)


def _coqui(model: Model, x: Mapping[str, jax.Array], max_steps: int) -> dict[str, jax.Array]:
    mel, factor = x["mel_specs"], model.config.reduction_factor
    real = sequence_mask(x["mel_lengths"], mel.shape[1])
    memory = _memory(model, x["text"], x["text_lengths"])

    def forced(mel: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array, jax.Array]:
        before = mel[:, factor - 1 : -1 : factor]  # the last frame of each step but the last one
        made, stop, alignment = model.decoder(model.decoder.prenet(jnp.pad(before, ((0, 0), (1, 0), (0, 0)))), memory)
        return made.reshape(mel.shape), stop, alignment

    made, stop, alignment = forced(mel, memory)
    made = masked_fill(made, real)
    refined = masked_fill(made + model.postnet(made, jnp.ones(real.shape, bool))[0], real)
    one = x["text"][:1], x["text_lengths"][:1]
    spoken, lengths, weights = model.infer(*one, max_frames=max_steps * factor)
    spoken, weights = spoken[:, : int(lengths[0])], weights[:, : int(lengths[0]) : factor]
    out = {"encoder": memory.values, "model_outputs": refined, "decoder_outputs": made, "alignments": alignment}
    out |= {"stop_tokens": stop, "inference.model_outputs": spoken, "inference.alignments": weights}
    steps = weights.shape[1]  # what `infer` does not give is made again, a step at a time
    memory, _ = model.encode(*one)
    carry, last, mels, stops = model.decoder.init_carry(memory), jnp.zeros((1, mel.shape[2])), [], []
    for _ in range(steps):
        carry, (frames, stop) = model.decoder.step(carry, model.decoder.prenet(last), memory)
        last = frames[:, -mel.shape[2] :]
        mels, stops = [*mels, frames.reshape(1, factor, -1)], [*stops, jax.nn.sigmoid(stop)[:, None]]
    out["inference.decoder_outputs"] = jnp.concatenate(mels, axis=1)
    return out | {"inference.stop_tokens": jnp.stack(stops, axis=1)}


def _infer(
    model: Model, text: jax.Array, lengths: jax.Array, steps: int, threshold: float, drops: jax.Array | None
) -> dict[str, jax.Array]:
    """The reference's inference; without dropout the model's own loop is compared with it too."""
    memory, _ = model.encode(text, lengths)
    carry, last = model.decoder.init_carry(memory), jnp.zeros((1, model.config.num_mels))
    mels, stops, rows = [], [], []
    for t in range(steps):
        heard = model.decoder.prenet(last) if drops is None else _prenet(model, last, list(drops[t]))
        carry, (last, stop) = model.decoder.step(carry, heard, memory)
        mels, stops, rows = [*mels, last], [*stops, stop], [*rows, carry.attention.weights]
        if jax.nn.sigmoid(stop[0]) > threshold:
            break
    mel = jnp.stack(mels, axis=1)
    refined = mel + model.postnet(mel, jnp.ones(mel.shape[:2], bool))[0]
    if drops is None and threshold < 1:
        model.config = replace(model.config, stop_threshold=threshold)
        refined, found, _ = model.infer(text, lengths, max_frames=steps)
        refined = refined[:, : int(found[0])]
    return {
        "mel": mel.swapaxes(1, 2),
        "mel_postnet": refined.swapaxes(1, 2),
        "gate": jnp.stack(stops, axis=1),
        "alignments": jnp.stack(rows, axis=1),
    }


def _prenet(model: Model, x: jax.Array, masks: list[jax.Array]) -> jax.Array:
    """With these values kept, and doubled."""
    for layer, kept in zip(model.decoder.prenet.layers, masks):
        x = jax.nn.relu(layer(x)) * kept * 2
    return x
