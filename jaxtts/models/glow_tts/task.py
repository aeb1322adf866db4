"""Training Glow-TTS: maximum likelihood along the best alignment, and the durations of that alignment."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.models.glow_tts.model import Config, Model, Output
from jaxtts.nn.alignment import path_from_durations
from jaxtts.nn.functional import fold_weight_norm, merge, rngs_for_shapes, split, store_inverse, structure
from jaxtts.nn.masking import sequence_mask
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


def paper_optim() -> OptimConfig:
    """Adam as the reference trains: Noam schedule of width 192, values of the gradient clipped at 5."""
    return OptimConfig(
        learning_rate=1.0, schedule="noam", noam_dim=192, warmup_steps=4000, b2=0.98, eps=1e-9, clip_value=5.0
    )


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of text [B, S], text_lengths [B], mel [B, T, M], mel_lengths [B] and speaker [B]."""
    optim = optim or paper_optim()
    graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    multi = config.speaker_dim > 0

    def init(key: jax.Array, batch: Batch) -> TrainState:
        model = Model(config, rngs=nnx.Rngs(key))
        mask = sequence_mask(jnp.asarray(batch["mel_lengths"]), batch["mel"].shape[1])
        cond = model.speaker(jnp.asarray(batch["speaker"]) if multi else None)
        model.decoder.initialize(jnp.asarray(batch["mel"]), mask, cond)
        return init_state({"model": split(model)[1]}, {"model": optim})

    def forward(params: Any, batch: Batch, key: jax.Array | None) -> Output:
        return merge(graph, params)(
            batch["text"],
            batch["text_lengths"],
            batch["mel"],
            batch["mel_lengths"],
            speaker=batch["speaker"] if multi else None,
            key=key,
        )

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        total, metrics = losses(forward(params["model"], batch, key), batch["text_lengths"])
        return total, (metrics, rest)

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return losses(forward(averaged_params(state, "model"), batch, None), batch["text_lengths"])[1]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        params = averaged_params(state, "model")
        first = {name: batch[name][:1] for name in task.fields}
        frames = first["mel"].shape[1] // config.num_squeeze * config.num_squeeze
        mel, _, alignment = merge(graph, params).infer(
            first["text"],
            first["text_lengths"],
            max_frames=frames,
            speaker=first["speaker"] if multi else None,
            key=key,
        )
        found = path_from_durations(forward(params, first, None).durations, frames)
        return {
            "mel/predicted": mel[0],
            "mel/target": first["mel"][0],
            "alignment/predicted": alignment[0],
            "alignment/found": found[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = store_inverse(fold_weight_norm(averaged_params(state, "model")))
        return params, replace(config, weight_norm=False, inverse_only=True, dtype="float32", remat=False)

    fields = ("text", "text_lengths", "mel", "mel_lengths") + (("speaker",) if multi else ())
    task = Task(init, supervised_step(loss, optim), eval_step, sample, fields, inference)
    return task


def losses(output: Output, text_lengths: jax.Array) -> tuple[jax.Array, Metrics]:
    """The objective (arXiv 2005.11129 eq. 3 and 10) and what is worth watching; text_lengths [B]."""
    mle = mle_loss(output, jnp.sum(output.mel_lengths))
    duration = duration_loss(output, text_lengths)
    elements = jnp.maximum(jnp.sum(output.mel_lengths) * output.z.shape[-1], 1)
    symbols = jnp.maximum(jnp.sum(text_lengths), 1)
    off = jnp.exp(output.prior.log_durations) - jnp.exp(output.target_log_durations)
    return mle + duration, {
        "loss/total": mle + duration,
        "loss/mle": mle,
        "loss/duration": duration,
        "log_det": jnp.sum(output.log_det) / elements,
        "prior_distance": jnp.sum((output.z - output.mean) ** 2) / elements,
        "duration_error": jnp.sum(jnp.where(output.prior.mask, jnp.abs(off), 0.0)) / symbols,
    }


def mle_loss(output: Output, num_frames: jax.Array) -> jax.Array:
    """Negative log-likelihood of the mel for each of its num_frames * M values, in nats."""
    distance = jnp.exp(-2 * output.log_scale) * (output.z - output.mean) ** 2
    total = jnp.sum(output.log_scale) + 0.5 * jnp.sum(distance) - jnp.sum(output.log_det)
    return total / jnp.maximum(num_frames * output.z.shape[-1], 1) + 0.5 * math.log(2 * math.pi)


def duration_loss(output: Output, text_lengths: jax.Array) -> jax.Array:
    """Mean squared error of the log durations over the real symbols."""
    error = (output.prior.log_durations - output.target_log_durations) ** 2
    return jnp.sum(error) / jnp.maximum(jnp.sum(text_lengths), 1)
