"""Our answers to recorded cases of NVIDIA/waveglow, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.models.waveglow.convert import config_from, convert
from jaxtts.models.waveglow.model import Model
from jaxtts.models.waveglow.task import losses
from jaxtts.nn.functional import merge, rngs_for_shapes, structure

SIGMA = 0.8  # of the recorded loss
SHOWN = 64  # samples of the upsampled mel that are recorded


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
    mel, wave = jnp.asarray(inputs["in.mel"]).swapaxes(1, 2), jnp.asarray(inputs["in.audio"])

    @jax.jit
    def answer(params):
        model = merge(graph, params)
        output = model(mel, wave)
        batch, groups, _ = output.z.shape
        cond, mask = model.condition(mel, None, groups)
        out = {
            "upsampled": cond.reshape(batch, -1, mel.shape[2])[:, :SHOWN].swapaxes(1, 2),
            "z": output.z.swapaxes(1, 2),
            "loss": losses(output, SIGMA)["loss/total"],
        }
        x = wave.reshape(batch, groups, -1)
        for k, flow in enumerate(model.flows):
            x, log_det = flow.mix.forward(x[..., -flow.channels :], mask)
            _, log_scale = flow.coupling.affine(x[..., : flow.channels // 2], mask, cond)
            x, _ = flow.coupling.forward(x, mask, cond)
            out |= {f"log_s.{k}": log_scale.swapaxes(1, 2), f"log_det_W.{k}": batch * log_det[0]}
        noise = jnp.asarray(inputs["in.infer_z"]).swapaxes(1, 2).reshape(*mel.shape[:2], -1)
        out["infer_audio"] = model.infer(mel, noise=noise, sigma=1.0)
        out["infer_audio_sigma06"] = model.infer(mel, noise=noise, sigma=0.6)
        return out

    return {f"out.{name}": np.asarray(value) for name, value in answer(convert(weights, config)).items()}
