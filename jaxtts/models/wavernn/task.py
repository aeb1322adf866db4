"""Training WaveRNN: the likelihood of samples, each told those before it.

Matches fatchord/WaveRNN `train_wavernn.py` and Real-Time-Voice-Cloning `vocoder_dataset.py`: of a cut the first and
last `pad` frames are only heard as neighbours, the samples of the others are predicted, from GRUs at zero. Mels are
those of whole recordings, as such cuts are hardly longer than the window of a frame. The GRUs' kernels may be pruned
(`Config.pruning`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.griffin_lim import emphasized
from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.wavernn.model import Config, Model
from jaxtts.nn.functional import merge, merged, rngs_for_shapes, split, structure
from jaxtts.nn.generation import Fold
from jaxtts.nn.pruning import init_masks, pruned_step
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step

GATES = 3
PRUNED = {f"rnns.{i}.{name}_kernel": GATES for i in (0, 1) for name in ("input", "hidden")}


def default_optim() -> OptimConfig:
    """Adam with 1e-4, gradients clipped at norm 4 (fatchord's hparams.py)."""
    return OptimConfig(learning_rate=1e-4, clip_norm=4.0)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, T * hop] and mel [B, T, M]."""

    def evaluate(model: Model, batch: Batch, train: bool) -> tuple[Metrics, Any]:
        value = config.output.encode(emphasized(batch["wave"], config.preemphasis))
        first, last = inner(config, batch["mel"].shape[1])
        cond, statistics = model.upsample(batch["mel"], train=train)
        params = model.forced(cond, model.level(value[:, first - 1 : last - 1]))
        return {"loss/total": jnp.mean(config.output.nll(params, value[:, first:last]))}, {"upsample": statistics}

    return sampling_task(Model, config, optim or default_optim(), evaluate, PRUNED, ("wave", "mel"))


def sampling_task(
    build: Callable[..., nnx.Module],
    config: Any,
    optim: OptimConfig,
    evaluate: Callable[[Any, Batch, bool], tuple[Metrics, Any]],
    pruned: dict[str, int],
    fields: tuple[str, ...],
) -> Task:
    """The task of either WaveRNN.

    Args:
        build: its Model.
        evaluate: model, batch, whether it trains -> metrics with 'loss/total', batch statistics after this batch.
        pruned: kernels that are pruned, see `nn.pruning.init_masks`.
        fields: of a batch.
    """
    graph = structure(lambda: build(config, rngs=rngs_for_shapes()))[0]

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        _, params, rest = split(build(config, rngs=nnx.Rngs(key)))
        rest = {"model": rest}
        if config.pruning.sparsity:
            rest["masks"] = {"model": init_masks(params, pruned, config.pruning)}
        return init_state({"model": params}, {"model": optim}, rest)

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        metrics, statistics = evaluate(merge(graph, params["model"], rest["model"]), batch, True)
        return metrics["loss/total"], (metrics, rest | {"model": statistics})

    def averaged(state: TrainState) -> Any:
        return merge(graph, averaged_params(state, "model"), state.rest["model"])

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return evaluate(averaged(state), batch, False)[0]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        first = {name: batch[name][:1] for name in ("wave", "mel", "mel_lengths") if name in batch}
        real = first["wave"]
        mel = first["mel"] if "mel" in first else mel_spectrogram(real, config.mel)
        seeds = jax.random.bits(key, (1,))
        fake = averaged(state).infer(mel, first.get("mel_lengths"), seeds=seeds, fold=Fold())[:, : real.shape[1]]
        return {
            "audio/generated": fake[0],
            "audio/recorded": real[0],
            "mel/generated": mel_spectrogram(fake, config.mel)[0],
            "mel/recorded": mel[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Any]:
        params = merged(averaged_params(state, "model"), state.rest["model"])
        return params, replace(config, dtype="float32", remat=False)

    step = pruned_step(supervised_step(loss, optim), pruned, config.pruning)
    return Task(init, step, eval_step, sample, fields, inference)


def inner(config: Any, frames: int) -> tuple[int, int]:
    """Where the samples of the inner ones of a cut's frames begin and end."""
    hop, pad = config.mel.hop_length, config.pad
    if frames <= 2 * pad:
        raise ValueError(f"data.segment_length={frames * hop} must be above 2 * pad={2 * pad} frames of {hop} samples")
    return pad * hop, (frames - pad) * hop
