"""Training WaveRNN: the likelihood of samples, each told those before it.

Matches fatchord/WaveRNN `train_wavernn.py` and Real-Time-Voice-Cloning `vocoder_dataset.py`: of a cut the first and last
`pad` frames are only heard as neighbours, the samples of the others are predicted, from GRUs at zero. Mels are those of
whole recordings, as such cuts are shorter than the window of a frame. The GRUs' kernels may be pruned (`Config.pruning`).
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.wavernn.model import Config, Model
from jaxtts.nn.functional import merge, merged, rngs_for_shapes, split, structure
from jaxtts.nn.generation import Fold
from jaxtts.nn.pruning import init_masks, pruned_step
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step

PRUNED = {f"rnns.{i}.{name}_kernel": 3 for i in (0, 1) for name in ("input", "hidden")}  # gates


def default_optim() -> OptimConfig:
    """Adam with 1e-4, gradients clipped at norm 4 (fatchord's hparams.py)."""
    return OptimConfig(learning_rate=1e-4, clip_norm=4.0)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, T * hop] and mel [B, T, M]."""
    optim = optim or default_optim()
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        _, params, rest = split(Model(config, rngs=nnx.Rngs(key)))
        rest = {"model": rest}
        if config.pruning.sparsity:
            rest["masks"] = {"model": init_masks(params, PRUNED, config.pruning)}
        return init_state({"model": params}, {"model": optim}, rest)

    def evaluate(params: Any, rest: Any, batch: Batch, train: bool) -> tuple[Metrics, Any]:
        model = merge(graph, params, rest)
        value, previous, mel = targets(model, batch)
        cond, statistics = model.upsample(mel, train=train)
        nll = jnp.mean(config.output.nll(model.forced(cond, previous), value))
        return {"loss/total": nll}, {"upsample": statistics}

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array | None):
        metrics, statistics = evaluate(params["model"], rest["model"], batch, train=True)
        return metrics["loss/total"], (metrics, rest | {"model": statistics})

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return evaluate(averaged_params(state, "model"), state.rest["model"], batch, train=False)[0]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        real, mel = batch["wave"][:1], batch["mel"][:1]
        model = merge(graph, averaged_params(state, "model"), state.rest["model"])
        lengths = batch["mel_lengths"][:1] if "mel_lengths" in batch else None
        fake = model.infer(mel, lengths, seeds=jax.random.bits(key, (1,)), fold=Fold())[:, : real.shape[1]]
        return {
            "audio/generated": fake[0],
            "audio/recorded": real[0],
            "mel/generated": mel_spectrogram(fake, config.mel)[0],
            "mel/recorded": mel[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = merged(averaged_params(state, "model"), state.rest["model"])
        return params, replace(config, dtype="float32", remat=False)

    step = pruned_step(supervised_step(loss, optim), PRUNED, config.pruning)
    return Task(init, step, eval_step, sample, ("wave", "mel"), inference)


def targets(model: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values of the inner frames [B, N], levels ahead of them [B, N], mel with its neighbours [B, T, M]."""
    c, wave = model.config, emphasized(batch["wave"], model.config.preemphasis)
    hop, frames = c.mel.hop_length, batch["mel"].shape[1]
    if frames <= 2 * c.pad:
        raise ValueError(
            f"data.segment_length={wave.shape[1]} has {frames} frames: give more than pad={c.pad} on each side"
        )
    value = c.output.encode(wave)
    first, last = c.pad * hop, (frames - c.pad) * hop
    return value[:, first:last], model.level(value[:, first - 1 : last - 1]), batch["mel"]


def emphasized(wave: jax.Array, coefficient: float) -> jax.Array:
    """y[n] = x[n] - k x[n-1] of [B, N], what lies ahead being silent."""
    ahead = jnp.pad(wave, ((0, 0), (1, 0)))[:, :-1]
    return wave - coefficient * ahead
