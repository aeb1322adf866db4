"""Training Tacotron 2: squared error of the frames on both sides of the post-net, and the decision to stop.

Reference matched: NVIDIA/tacotron2 `loss_function.py`, `train.py`. Deliberate difference: all means are over real
frames (the reference's count the padding too, so that its loss depends on the company of an utterance).
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.losses.attention import measures, stop_loss
from jaxtts.models.tacotron2.model import Config, Model, Output
from jaxtts.nn.functional import merge, merged, rngs_for_shapes, split, structure
from jaxtts.nn.masking import sequence_mask
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


def reference_optim() -> OptimConfig:
    """Adam as NVIDIA trains: 1e-3, weight decay 1e-6 as a penalty, gradients clipped at norm 1."""
    return OptimConfig(learning_rate=1e-3, eps=1e-8, weight_decay=1e-6, clip_norm=1.0)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of text [B, S], text_lengths [B], mel [B, T, M], mel_lengths [B] and speaker [B]."""
    optim = optim or reference_optim()
    graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    multi = config.speaker_dim > 0

    def init(key: jax.Array, batch: Batch) -> TrainState:
        _, params, rest = split(Model(config, rngs=nnx.Rngs(key)))
        return init_state({"model": params}, {"model": optim}, {"model": rest})

    def forward(params: Any, rest: Any, batch: Batch, key: jax.Array | None, train: bool = False) -> Output:
        return merge(graph, params, rest["model"])(
            batch["text"],
            batch["text_lengths"],
            batch["mel"],
            batch["mel_lengths"],
            speaker=batch["speaker"] if multi else None,
            key=key,
            train=train,
        )

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        output = forward(params["model"], rest, batch, key, train=True)
        total, metrics = losses(output, batch, config)
        return total, (metrics, rest | {"model": output.statistics})

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return losses(forward(averaged_params(state, "model"), state.rest, batch, key), batch, config)[1]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        params = averaged_params(state, "model")
        first = {name: batch[name][:1] for name in task.fields}
        mel, _, alignment = merge(graph, params, state.rest["model"]).infer(
            first["text"],
            first["text_lengths"],
            max_frames=first["mel"].shape[1],
            seeds=jax.random.bits(key, (1,)),
            speaker=first["speaker"] if multi else None,
        )
        forced = forward(params, state.rest, first, key)
        return {
            "mel/predicted": mel[0],
            "mel/teacher_forced": forced.refined[0, : mel.shape[1]],
            "mel/target": first["mel"][0],
            "alignment/predicted": alignment[0],
            "alignment/teacher_forced": jnp.repeat(forced.alignment[0], config.reduction_factor, axis=0),
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = merged(averaged_params(state, "model"), state.rest["model"])
        return params, replace(config, dtype="float32", remat=False)

    fields = ("text", "text_lengths", "mel", "mel_lengths") + (("speaker",) if multi else ())
    task = Task(init, supervised_step(loss, optim), eval_step, sample, fields, inference)
    return task


def losses(output: Output, batch: Batch, config: Config) -> tuple[jax.Array, Metrics]:
    """The objective, and how well the attention reads along."""
    lengths = batch["mel_lengths"]
    frames = output.mel.shape[1]
    target = jnp.pad(batch["mel"], ((0, 0), (0, frames - batch["mel"].shape[1]), (0, 0)))
    real = sequence_mask(lengths, frames)[..., None]
    count = jnp.maximum(jnp.sum(lengths) * target.shape[-1], 1)
    before, after = (jnp.sum(jnp.where(real, x - target, 0.0) ** 2) / count for x in (output.mel, output.refined))
    rows = -(-lengths // config.reduction_factor)
    stop = stop_loss(output.stop, rows, config.stop_weight)
    total = before + after + stop
    measured = measures(output.alignment, batch["text_lengths"], rows)
    if config.guided_attention_weight:
        total += config.guided_attention_weight * measured["off_diagonal"]
    return total, {
        "loss/total": total,
        "loss/mel": after,
        "loss/mel_before_postnet": before,
        "loss/stop": stop,
        **{f"attention/{name}": value for name, value in measured.items()},
    }
