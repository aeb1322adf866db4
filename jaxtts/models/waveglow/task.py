"""Training WaveGlow: maximum likelihood (arXiv 1811.00002 eq. 12).

Matches `WaveGlowLoss` and `train.py` of NVIDIA/waveglow. Difference: a wave may be dithered (`Config.dither`), without
which the likelihood of digital silence has no bound.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.waveglow.model import Config, Model, Output
from jaxtts.nn.functional import fold_weight_norm, item_noise, merge, rngs_for_shapes, split, store_inverse, structure
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


def default_optim() -> OptimConfig:
    """Adam with 1e-4 (section 3)."""
    return OptimConfig(learning_rate=1e-4)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, N] and, to train on predicted mels, mel [B, N / hop, M]."""
    optim = optim or default_optim()
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        return init_state({"model": split(Model(config, rngs=nnx.Rngs(key)))[1]}, {"model": optim})

    def mel_of(batch: Batch) -> jax.Array:
        return batch["mel"] if "mel" in batch else mel_spectrogram(batch["wave"], config.mel)

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        wave = batch["wave"]
        if key is not None and config.dither:
            wave = wave + config.dither * item_noise(key, wave.shape)
        metrics = losses(merge(graph, params["model"])(mel_of(batch), wave), config.sigma)
        return metrics["loss/total"], (metrics, rest)

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return loss({"model": averaged_params(state, "model")}, {}, batch, key)[1][0]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        real = batch["wave"][:1]
        mel = mel_of({name: x[:1] for name, x in batch.items()})[:, : real.shape[1] // config.mel.hop_length]
        noise = item_noise(key, (*mel.shape[:2], config.mel.hop_length))
        fake = merge(graph, averaged_params(state, "model")).infer(mel, noise=noise)
        return {
            "audio/generated": fake[0],
            "audio/recorded": real[0],
            "mel/generated": mel_spectrogram(fake, config.mel)[0],
            "mel/recorded": mel[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = store_inverse(fold_weight_norm(averaged_params(state, "model")))
        return params, replace(config, weight_norm=False, inverse_only=True, dtype="float32", remat=False)

    return Task(init, supervised_step(loss, optim), eval_step, sample, ("wave",), inference)


def losses(output: Output, sigma: float) -> Metrics:
    """The objective and its parts, each for one sample of the wave, in nats.

    'loss/total' is the negative log-likelihood without its constant log(sigma * sqrt(2 * pi)), as in the reference.
    """
    size = output.z.size
    distance = jnp.sum(output.z**2) / (2 * sigma**2 * size)
    log_scale, log_det = jnp.sum(output.log_scale) / size, jnp.sum(output.log_det) / size
    return {
        "loss/total": distance - log_scale - log_det,
        "log_scale": log_scale,
        "log_det": log_det,
        "z_deviation": jnp.std(output.z),
    }
