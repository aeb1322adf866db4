"""Our answers to recorded cases of kan-bayashi/ParallelWaveGAN, in its names and layouts; see tools/parity.py.

They are cases of the system 'parallel_wavegan', whose parity.py calls these.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.pqmf import Pqmf, analysis, filters, synthesis
from jaxtts.models.melgan.convert import config_from, convert
from jaxtts.models.melgan.model import Model
from jaxtts.nn.functional import merge, rngs_for_shapes, structure

Arrays = dict[str, np.ndarray]


def generated(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], frames: np.ndarray) -> Arrays:
    """'out.audio' [B, K, N / K] of a generator that reads frames [B, M, T]."""
    ours = config_from(config)
    graph = structure(lambda: Model(ours, rngs=rngs_for_shapes()))[0]
    params = convert(weights, ours)
    bands = jax.jit(lambda mel: merge(graph, params).subbands(mel))(jnp.asarray(frames).swapaxes(1, 2))
    return {"out.audio": np.asarray(bands.swapaxes(1, 2))}


def filtered(config: Mapping[str, Any], wave: np.ndarray) -> Arrays:
    """'out.pqmf_*' of a wave [B, N]: the filters, its sub-bands, and the wave again."""
    bank = Pqmf(config["subbands"], config["taps"], config["cutoff_ratio"], config["beta"])
    bands = analysis(jnp.asarray(wave), bank)
    apart, together = filters(bank)
    return {
        "out.pqmf_analysis": np.asarray(bands.swapaxes(1, 2)),
        "out.pqmf_synthesis": np.asarray(synthesis(bands, bank)[:, None]),
        "out.pqmf_analysis_filter": apart[:, None],
        "out.pqmf_synthesis_filter": together[None],
    }
