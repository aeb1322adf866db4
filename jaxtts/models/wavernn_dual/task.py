"""Training the WaveRNN with a dual softmax: the likelihood of samples of 16 bits, each told those before it.

Section 2 of arXiv 1802.08435: 960 samples with full backpropagation. As in `models/wavernn` the first and last `pad`
frames of a cut are only heard as neighbours. The recurrent kernel may be pruned (`Config.pruning`, section 3).
"""

from typing import Any

import jax.numpy as jnp

from jaxtts.audio.griffin_lim import emphasized
from jaxtts.models.wavernn.task import inner, sampling_task
from jaxtts.models.wavernn_dual.model import GATES, HALF, Config, Model, encode
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Metrics, Task

PRUNED = {"hidden_kernel": GATES}


def default_optim() -> OptimConfig:
    """Adam with 1e-4, gradients clipped at norm 4; the paper gives no figures."""
    return OptimConfig(learning_rate=1e-4, clip_norm=4.0)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, T * hop] and, for a model that hears any, mel [B, T, M]."""

    def evaluate(model: Model, batch: Batch, train: bool) -> tuple[Metrics, Any]:
        value, cond, statistics = encode(emphasized(batch["wave"], config.preemphasis)), None, {}
        first, last = 1, value.shape[1]
        if config.conditional:
            first, last = inner(config, batch["mel"].shape[1])
            cond, upsample = model.upsample(batch["mel"], train=train)
            statistics = {"upsample": upsample}
        value, previous = value[:, first:last], value[:, first - 1 : last - 1]
        logits = model.forced(cond, previous, value)
        coarse = jnp.mean(HALF.nll(logits[..., : HALF.width], value >> 8))
        fine = jnp.mean(HALF.nll(logits[..., HALF.width :], value & 255))
        return {"loss/total": coarse + fine, "loss/coarse": coarse, "loss/fine": fine}, statistics

    fields = ("wave", "mel") if config.conditional else ("wave",)
    return sampling_task(Model, config, optim or default_optim(), evaluate, PRUNED, fields)
