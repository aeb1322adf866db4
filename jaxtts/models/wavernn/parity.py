"""Our answers to recorded cases of fatchord/WaveRNN, in its names and layouts; see tools/parity.py."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio import mulaw
from jaxtts.models.wavernn.convert import config_from, convert
from jaxtts.models.wavernn.model import Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure
from jaxtts.nn.generation import Fold

FADED = 20  # hops at the end, which the reference fades out after it dropped the last one


def parity(
    meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """'out.*' -> our value.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts.
        inputs: 'in.*' -> array.
    """
    if not weights:
        return _mu_law(inputs["in.x"], meta["config"]["mu"])
    config = replace(config_from(meta["config"]), input_scale=1.0, preemphasis=0.0)  # those are its callers' doing
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    fold = Fold(meta["config"]["generate_target"], meta["config"]["generate_overlap"])

    def uniforms(name: str) -> Callable[[jax.Array], jax.Array]:
        """Those of a place [B, num_draws]."""
        found = [x for x in (f"in.{name}.mixture", f"in.{name}.logistic", f"in.{name}") if x in inputs]
        parts = [inputs[x].reshape(*inputs[x].shape[:2], -1) for x in found]
        drawn = jnp.asarray(np.concatenate(parts, axis=-1))  # [steps, B, num_draws]
        return lambda place: drawn[jnp.minimum(place, len(drawn) - 1)]  # what is behind the last one is not kept

    @jax.jit
    def answer(params: Any, inputs: Any) -> dict[str, jax.Array]:
        model = merge(graph, params)
        mel, previous, value = inputs["in.mels"].swapaxes(1, 2), inputs["in.x"], inputs["in.y"]
        cond, _ = model.upsample(mel)
        smooth, aux = jnp.split(cond, [mel.shape[-1]], axis=-1)
        params = model.forced(cond, previous)
        nll = config.output.nll(params, value)
        out = {"mels_upsampled": smooth, "aux": aux, "logits": params, "loss": jnp.mean(nll)}
        if "in.sample_uniform.mixture" in inputs:
            drawn = jnp.concatenate(
                [inputs["in.sample_uniform.mixture"], inputs["in.sample_uniform.logistic"][..., None]], axis=-1
            )
            made = config.output.sample(params.reshape(-1, params.shape[-1]), drawn.reshape(-1, drawn.shape[-1]))
            out |= {"loss_per_step": nll[..., None], "sample": made.reshape(value.shape)}

        told = model.condition(inputs["in.gen_mels"].swapaxes(1, 2))
        alone = model.sound(model.generate(told, uniforms("generate_uniform")))
        out["generate"] = _ended(alone, config.mel.hop_length)[0]
        waves = model.sound(model.generate(fold.split(told), uniforms("generate_batched_uniform")))
        out["generate_batched"] = _ended(
            fold.join(waves, 1, fade_ends=True)[:, : told.shape[1]], config.mel.hop_length
        )[0]
        if "in.fold_input" not in inputs:
            return out
        folded = fold.split(inputs["in.fold_input"])
        return out | {"folded": folded, "unfolded": fold.join(folded[..., 0], 1, fade_ends=True)[0]}

    arrays = {name: jnp.asarray(x) for name, x in inputs.items()}
    return {f"out.{name}": np.asarray(value) for name, value in answer(convert(weights, config), arrays).items()}


def _ended(wave: jax.Array, hop: int) -> jax.Array:
    """[B, T * hop] -> [B, (T - 1) * hop] with the reference's end."""
    wave = wave[:, :-hop]
    return wave.at[:, -FADED * hop :].multiply(np.linspace(1, 0, FADED * hop, dtype=np.float32))


def _mu_law(x: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    encoded = mulaw.encode(x, classes)
    return {
        "out.encoded": encoded,
        "out.decoded": mulaw.decode(encoded, classes),
        "out.label_float": mulaw.dequantize(encoded, classes),
        "out.float_label": (x + 1) * (classes - 1) / 2,
    }
