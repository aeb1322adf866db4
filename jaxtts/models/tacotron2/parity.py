"""Our answers to recorded cases of NVIDIA/tacotron2, in its names and layouts; see tools/parity.py.

The reference does not mask what lies behind the ends of texts and mels in its convolutions and post-net, and counts
the padding in its loss: that is followed here, not in the model.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.spec import mel_spec
from jaxtts.audio.stft import istft, mel_spectrogram, stft
from jaxtts.models.tacotron2.convert import config_from, convert
from jaxtts.models.tacotron2.model import Memory, Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure
from jaxtts.nn.masking import masked_fill, sequence_mask

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value. Arguments as in models/glow_tts/parity.py."""
    x = {name.removeprefix("in."): jnp.asarray(value) for name, value in inputs.items()}
    if "y" in x:
        out = _spectrogram(x["y"])
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
    everywhere = jnp.ones(x["text"].shape, bool)
    mask = sequence_mask(x["text_lengths"], x["text"].shape[1])
    hidden, _ = model.encoder.convolve(model.encoder.embedding[...][x["text"]], everywhere)
    values = model.encoder.lstm(hidden, mask)
    memory = Memory(values, model.decoder.attention.keys(values), mask)
    told = jnp.pad(mel, ((0, 0), (1, 0), (0, 0)))  # [B, 1 + T, M]; the reference's pre-net sees the last frame too
    masks = [x[f"prenet_mask.{i}"].swapaxes(0, 1) for i in range(2)]
    out = {"encoder": values, "prenet_nodrop": model.decoder.prenet(told).swapaxes(0, 1)}
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
