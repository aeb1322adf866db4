"""Training Tacotron: the mel and what the post-net makes of it, and the decision to stop.

Reference matched: keithito/tacotron `models/tacotron.py` (absolute errors, half of the linear spectrogram's below
3 kHz); with `post='mel'` Real-Time-Voice-Cloning `synthesizer/train.py` (squared and absolute errors of the decoder's
mel, squared ones of the post-net's). Deliberate differences: all means are over real frames (both count the padding);
linear spectrograms are made on the device.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.griffin_lim import mel_to_wave
from jaxtts.audio.stft import padded_linear_spectrogram
from jaxtts.losses.attention import measures, stop_loss
from jaxtts.models.tacotron.model import Config, Model, Output
from jaxtts.nn.functional import merge, merged, rngs_for_shapes, split, structure
from jaxtts.nn.masking import sequence_mask
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step

PRIORITY = 3000.0  # Hz below which the linear spectrogram counts twice


def reference_optim() -> OptimConfig:
    """keithito's: Adam up to 2e-3 in 4,000 steps, then with the root of their number, gradients clipped at norm 1."""
    warmup = 4000
    return OptimConfig(
        learning_rate=2e-3 * warmup**0.5, schedule="noam", noam_dim=1, warmup_steps=warmup, clip_norm=1.0
    )


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of text [B, S], text_lengths [B], mel [B, T, M], mel_lengths [B], with a linear post-net
    wave [B, T * hop], wave_lengths [B], and speaker [B]."""
    optim = optim or reference_optim()
    graph, _, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    multi, linear = config.speaker_dim > 0, config.post == "linear"

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

    def target(batch: Batch) -> jax.Array:
        """What the post-net shall make [B, T, F]."""
        if not linear:
            return batch["mel"]
        return padded_linear_spectrogram(batch["wave"], batch["wave_lengths"], config.linear)

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        output = forward(params["model"], rest, batch, key, train=True)
        total, metrics = losses(output, batch, target(batch), config)
        return total, (metrics, rest | {"model": output.statistics})

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        output = forward(averaged_params(state, "model"), state.rest, batch, key)
        return losses(output, batch, target(batch), config)[1]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        params = averaged_params(state, "model")
        model = merge(graph, params, state.rest["model"])
        first = {name: batch[name][:1] for name in task.fields}
        mel, lengths, alignment = model.infer(
            first["text"],
            first["text_lengths"],
            max_frames=first["mel"].shape[1],
            seeds=jax.random.bits(key, (1,)),
            speaker=first["speaker"] if multi else None,
        )
        forced = forward(params, state.rest, first, key)
        media = {
            "mel/predicted": mel[0],
            "mel/teacher_forced": (forced.mel if linear else forced.post)[0, : mel.shape[1]],
            "mel/target": first["mel"][0],
            "alignment/predicted": alignment[0],
            "alignment/teacher_forced": jnp.repeat(forced.alignment[0], config.reduction_factor, axis=0),
        }
        if linear:
            media["audio/predicted"] = mel_to_wave(model.postprocess(mel, lengths)[0], config.linear)
        return media

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = merged(averaged_params(state, "model"), state.rest["model"])
        return params, replace(config, dtype="float32", remat=False)

    fields = ("text", "text_lengths", "mel", "mel_lengths")
    fields += ("wave", "wave_lengths") if linear else ()
    fields += ("speaker",) if multi else ()
    task = Task(init, supervised_step(loss, optim), eval_step, sample, fields, inference)
    return task


def losses(output: Output, batch: Batch, target: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
    """The objective, and how well the attention reads along; target: of the post-net [B, T, F]."""
    lengths, frames = batch["mel_lengths"], target.shape[1]
    mask = sequence_mask(lengths, frames)[..., None]

    def mean(error: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, error, 0.0)) / jnp.maximum(jnp.sum(mask) * error.shape[-1], 1)

    of_mel, of_post = output.mel[:, :frames] - batch["mel"], output.post[:, :frames] - target
    if config.post == "linear":
        low = int(PRIORITY / (config.mel.sample_rate / 2) * target.shape[-1])
        error = jnp.abs(of_post)
        parts = {"mel": mean(jnp.abs(of_mel)), "linear": 0.5 * mean(error) + 0.5 * mean(error[..., :low])}
    else:
        parts = {"mel_before_postnet": mean(of_mel**2) + mean(jnp.abs(of_mel)), "mel": mean(of_post**2)}
    rows = -(-lengths // config.reduction_factor)
    parts["stop"] = stop_loss(output.stop, rows, config.stop_weight)
    measured = measures(output.alignment, batch["text_lengths"], rows)
    total = sum(parts.values(), config.guided_attention_weight * measured["off_diagonal"])
    return total, {
        "loss/total": total,
        **{f"loss/{name}": value for name, value in parts.items()},
        **{f"attention/{name}": value for name, value in measured.items()},
    }
