"""Our answers to recorded cases of r9y9/wavenet_vocoder, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.models.wavenet.convert import config_from, convert
from jaxtts.models.wavenet.model import Config, Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure

FIRST = 127  # the class that theirs begins with


def parity(
    meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """'out.*' -> our value.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts.
        inputs: 'in.*' -> array.
    """
    config = config_from(meta["config"])
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    given = {name.removeprefix("in."): jnp.asarray(x) for name, x in inputs.items()}
    made = set(meta["arrays"])

    @jax.jit
    def answer(params):
        model = merge(graph, params)
        classes = "ids" in given
        values = given["ids"].astype(jnp.int32) if classes else given["x"][:, 0]
        target = values if classes else given["y"][..., 0]
        out, cond = {}, None
        if "c" in given:
            cond = upsampled(model, given["c"].swapaxes(1, 2))
            out["c_upsampled"] = cond.swapaxes(1, 2)
        speaker = given["g"].astype(jnp.int32) if "g" in given else None
        told = None if speaker is None else model.speakers[...][speaker]
        y_hat = model.network(model.network.read(values), cond, told)
        out["y_hat"] = y_hat.swapaxes(1, 2)
        each = config.output.nll(y_hat[:, :-1], target[:, 1:])
        out["loss"], out["loss_sum"] = jnp.mean(each), jnp.sum(each)
        out["loss_per_step"] = each if classes else each[..., None]
        if "out.loss_per_step_256" in made:
            coarse = replace(config.output, num_classes=256, log_scale_min=-7.0)
            out["loss_per_step_256"] = coarse.nll(y_hat[:, :-1], target[:, 1:])[..., None]
        if "normal" in given:
            drawn = y_hat[..., 0] + jnp.exp(y_hat[..., 1]) * given["normal"]
            out["sample"] = jnp.clip(drawn, -1.0, 1.0)
        if "uniform.mixture" in given:
            draws = jnp.concatenate([given["uniform.mixture"], given["uniform.logistic"][..., None]], axis=-1)
            width = y_hat.shape[-1]
            drawn = config.output.sample(y_hat.reshape(-1, width), draws.reshape(-1, draws.shape[-1]))
            out["sample"] = drawn.reshape(values.shape)
            steps = (given["generate_uniform.mixture"], given["generate_uniform.logistic"][..., None])
            places = jnp.concatenate(steps, axis=-1)  # [N, B, draws]
            out["generated"] = model.generate(cond, lambda place: places[place])[:, None]
        if "out.generate_soft" in made:
            length = meta["arrays"]["out.generate_soft"]["shape"][-1]
            first = None if cond is None else cond[:1, :length]
            out["generate_soft"] = soft(model, first, None if told is None else told[:1], length).swapaxes(1, 2)
        return out

    return {f"out.{name}": np.asarray(value) for name, value in answer(convert(weights, config)).items()}


def upsampled(model: Model, frames: jax.Array) -> jax.Array:
    """What the reference's upsampling makes of frames [B, T + 2 * context, M] that have their context already."""
    x = model.upsample.first(frames)
    for filtered in model.upsample.layers:
        x = filtered(x)
        x = x if model.config.upsample_slope is None else jax.nn.leaky_relu(x, model.config.upsample_slope)
    return x


def soft(model: Model, cond: jax.Array | None, told: jax.Array | None, length: int) -> jax.Array:
    """Each step is told the whole distribution of the one before in place of a draw: [1, length, K]."""
    config: Config = model.config
    classes = config.output.num_classes
    weights = model.network.steps()
    prepared = model.network.prepare(None if cond is None else cond.swapaxes(0, 1), told)
    prepared = jnp.broadcast_to(prepared, (length, 1, prepared.shape[-1]))

    def step(state, here):
        carry, before = state
        carry, logits = model.network.step(weights, carry, before, here)
        before = jax.nn.softmax(logits)
        return (carry, before), before

    start = jax.nn.one_hot(jnp.array([min(FIRST, classes // 2 - 1)]), classes)
    _, made = jax.lax.scan(step, (model.network.init_carry(1), start), prepared)
    return made.swapaxes(0, 1)
