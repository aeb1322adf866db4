"""Training WaveNet: the likelihood of each sample after those before it (arXiv 1609.03499 eq. 1), in nats.

Matches `train.py` of r9y9/wavenet_vocoder. Deliberate difference: also the first sample of a cut counts, told silence.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.wavenet.model import Config, Model
from jaxtts.nn.functional import fold_weight_norm, merge, rngs_for_shapes, split, structure
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


def default_optim() -> OptimConfig:
    """r9y9's: Adam with 1e-3, weights averaged over 10,000 steps."""
    return OptimConfig(learning_rate=1e-3, ema_decay=0.9999)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, N], speaker [B] and, to train on predicted mels, mel [B, N / hop, M]."""
    optim = optim or default_optim()
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    multi = config.num_speakers > 1

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        return init_state({"model": split(Model(config, rngs=nnx.Rngs(key)))[1]}, {"model": optim})

    def mel_of(batch: Batch) -> jax.Array | None:
        if not config.conditional:
            return None
        return batch["mel"] if "mel" in batch else mel_spectrogram(batch["wave"], config.mel)

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        values = config.output.encode(config.modelled(batch["wave"]))
        speaker = batch["speaker"] if multi else None
        told = merge(graph, params["model"])(mel_of(batch), shifted(values, config), speaker=speaker)
        metrics = {"loss/total": jnp.mean(config.output.nll(told, values))}
        return metrics["loss/total"], (metrics, rest)

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return loss({"model": averaged_params(state, "model")}, {}, batch, key)[1][0]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        first = {name: x[:1] for name, x in batch.items()}
        real = first["wave"]
        model, mel = merge(graph, averaged_params(state, "model")), mel_of(first)
        cond = jnp.zeros((*real.shape, 0)) if mel is None else model.condition(mel)[:, : real.shape[1]]
        seeds = jax.random.bits(key, (1,))
        values = model.generate(
            cond, lambda place: config.output.draws(seeds, place), speaker=first["speaker"] if multi else None
        )
        fake = jnp.clip(config.restored(config.output.decode(values)), -1.0, 1.0)
        media = {"audio/generated": fake[0], "audio/recorded": real[0]}
        if mel is not None:
            media |= {"mel/generated": mel_spectrogram(fake, config.mel)[0], "mel/recorded": mel[0]}
        return media

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = fold_weight_norm(averaged_params(state, "model"))
        return params, replace(config, weight_norm=False, dtype="float32", remat=False)

    return Task(init, supervised_step(loss, optim), eval_step, sample, ("wave", *(["speaker"] * multi)), inference)


def shifted(values: jax.Array, config: Config) -> jax.Array:
    """Values [B, N] -> the one ahead of each, silence ahead of the first."""
    silence = jnp.broadcast_to(config.output.encode(jnp.zeros(())), (values.shape[0], 1))
    return jnp.concatenate([silence.astype(values.dtype), values[:, :-1]], axis=1)
