"""Our answers to recorded cases of kan-bayashi/ParallelWaveGAN, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.losses.spectral import multi_resolution_stft
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.melgan.parity import filtered, generated
from jaxtts.models.parallel_wavegan.convert import config_from, convert, discriminator_params
from jaxtts.models.parallel_wavegan.model import Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value, for a case of a generator (this one or MelGAN) or of the discriminator, losses and filters.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts.
        inputs: 'in.*' -> array.
    """
    config = meta["config"]
    if "discriminator" in config:
        x, y = inputs["in.x"][:, 0], inputs["in.y"][:, 0]
        return _judged(config, weights, x, y) | filtered(config["pqmf"], x)
    if "in.z" not in inputs:
        return generated(config, weights, inputs["in.c"])
    return _made(config, weights, inputs["in.c"], inputs["in.z"][:, 0])


def _made(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], frames: np.ndarray, noise: np.ndarray
) -> Arrays:
    ours = config_from(config)
    graph = structure(lambda: Model(ours, rngs=rngs_for_shapes()))[0]

    @jax.jit
    def answer(params: Any) -> dict[str, jax.Array]:
        model = merge(graph, params)
        cond = model.upsample.first(jnp.asarray(frames).swapaxes(1, 2))  # theirs have their context already
        for layer in model.upsample.layers:
            cond = layer(cond)
        return {"out.c_up": cond.swapaxes(1, 2), "out.audio": model.made(jnp.asarray(noise), cond)[:, None]}

    return {name: np.asarray(x) for name, x in answer(convert(weights, ours)).items()}


def _judged(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> Arrays:
    theirs, stft = config["discriminator"], config["stft"]
    gan = GanConfig(
        discriminators=("dilated",),
        weights=(1.0,),
        dilated_layers=theirs["layers"],
        dilated_channels=theirs["conv_channels"],
    )
    graph = structure(lambda: Discriminators(gan, rngs=rngs_for_shapes()))[0]
    ours = {name.removeprefix("discriminator."): w for name, w in weights.items()}
    resolutions = tuple(zip(stft["fft_sizes"], stft["hop_sizes"], stft["win_lengths"]))

    @jax.jit
    def answer(params: Any) -> dict[str, jax.Array]:
        score = merge(graph, params)(jnp.asarray(x))["dilated"][0][-1]
        convergence, magnitude = multi_resolution_stft(jnp.asarray(x), jnp.asarray(y), resolutions)
        return {"out.d_x": score.swapaxes(1, 2), "out.mr_stft_sc": convergence, "out.mr_stft_mag": magnitude}

    return {name: np.asarray(value) for name, value in answer(discriminator_params(ours, gan)).items()}
