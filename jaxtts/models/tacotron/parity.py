"""Our answers to recorded cases of coqui-tts's Tacotron and Real-Time-Voice-Cloning's synthesizer, in their layouts.

See tools/parity.py. Both let the padding through the convolutions, the GRUs and the decoder, and mask between them
only; Real-Time-Voice-Cloning multiplies the padding's energies by zero where others take it out of the softmax. They
are followed in this here, not in the model.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.models.tacotron.convert import convert, coqui_config_from, is_rtvc, rtvc_config_from
from jaxtts.models.tacotron.model import Memory, Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.prenet import Prenet

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value, for cases of either system.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts.
        inputs: 'in.*' -> array.
    """
    values, answer = meta["config"], _rtvc if is_rtvc(weights) else _coqui
    if is_rtvc(weights):
        config = rtvc_config_from(weights)
    else:
        n_fft = 2 * (values["out_channels"] - 1)
        mel = MelSpec("case", 22050, n_fft, n_fft // 4, n_fft, values["decoder_output_dim"])
        config = coqui_config_from(values, weights, mel)
    graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    x = {name.removeprefix("in."): jnp.asarray(value) for name, value in inputs.items()}
    out = jax.jit(lambda params, x: answer(merge(graph, params), values, x))(convert(weights, config), x)
    if "lengths" in out:  # Coqui's inference, which ends when it ends
        frames = int(out.pop("lengths")[0])
        steps = frames // config.reduction_factor
        for name, value in out.items():
            if name.startswith("inference."):
                out[name] = value[:, : frames if name.endswith("outputs") else steps]
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def _coqui(model: Model, values: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    text, everything = x["text"], jnp.ones(x["text"].shape, bool)
    encoded, _ = model.encoder(text, everything)
    mask = sequence_mask(x["text_lengths"], text.shape[1])
    seen = masked_fill(encoded, mask)
    memory = Memory(seen, model.decoder.attention.keys(seen), mask)
    everything = jnp.ones(x["mel_specs"].shape[:2], bool)
    made, stop, alignment = model.decoder(x["mel_specs"], everything, memory)
    mask = sequence_mask(x["mel_lengths"], made.shape[1])
    made = masked_fill(made, mask)
    behind, _ = model.postnet.cbhg(made, everything)

    factor, one = model.config.reduction_factor, (text[:1], x["text_lengths"][:1])
    frames = (values["max_decoder_steps"] + 1) * factor
    mel, lengths, spoken = model.infer(*one, max_frames=frames)
    _, again, _ = model.decoder(mel, sequence_mask(lengths, frames), model.encode(*one)[0])
    return {
        "encoder_prenet": model.encoder.prenet(model.encoder.embedding[...][text]),
        "encoder": encoded,
        "postnet_cbhg": behind,
        "model_outputs": model.postnet.out(masked_fill(behind, mask)),
        "decoder_outputs": made,
        "alignments": alignment,
        "stop_tokens": stop,
        "inference.model_outputs": model.postprocess(mel, lengths),
        "inference.decoder_outputs": mel,
        "inference.alignments": spoken[:, ::factor],
        "inference.stop_tokens": jax.nn.sigmoid(again)[..., None],
        "lengths": lengths,
    }


def _rtvc(model: Model, values: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    text, mel, factor = x["x"], x["mel"].swapaxes(1, 2), model.config.reduction_factor
    attention = model.decoder.attention
    attention.masked_energy = 0.0

    def encode() -> Memory:
        memory, _ = model.encode(text, jnp.full(len(text), text.shape[1]), x["speaker_embedding"])
        return Memory(memory.values, memory.keys, text != 0)

    def answers(made: jax.Array, alignment: jax.Array) -> dict[str, jax.Array]:
        after = model.postprocess(made, jnp.full(len(made), made.shape[1]))
        return {"mel": made.swapaxes(1, 2), "linear": after.swapaxes(1, 2), "attention": alignment}

    def forced() -> dict[str, jax.Array]:
        made, stop, alignment = model.decoder(mel, jnp.ones(mel.shape[:2], bool), encode())
        return answers(made, alignment) | {"stop": jnp.repeat(jax.nn.sigmoid(stop), factor, axis=1)}

    memory = encode()
    lengths = jnp.full(len(text), text.shape[1])
    made, _, spoken = model.decoder.infer(memory, lengths, mel.shape[1], None)
    out = {f"generate.{name}": value for name, value in answers(made, spoken[:, ::factor]).items()}
    out |= {f"nodrop.{name}": value for name, value in forced().items()} | {"nodrop.encoder": memory.values}
    for net, masks in (
        (model.encoder, x["encoder_prenet_mask"]),
        (model.decoder, x["decoder_prenet_mask"].transpose(1, 2, 0, 3)),
    ):
        net.prenet = _with_masks(net.prenet, masks)
    return out | {f"drop.{name}": value for name, value in forced().items()}


def _with_masks(prenet: Prenet, masks: jax.Array) -> Any:
    """The pre-net with dropout by given masks [layers, B, ..., O]."""

    def call(x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        for layer, mask in zip(prenet.layers, masks):
            x = jax.nn.relu(layer(x)) * mask / (1 - prenet.rate)
        return x

    return call
