"""Training Parallel WaveGAN (arXiv 1910.11480 section 3): multi-resolution STFT loss, after `pretrain_steps` also the
least-squares loss of one dilated discriminator.

Reference matched: kan-bayashi/ParallelWaveGAN `egs/ljspeech/voc1/conf/parallel_wavegan.v1.yaml`, whose adversarial loss
weighs four times the other one. Differences: that ratio is kept with the other at a quarter; the discriminator has the
generator's rate.
"""

from dataclasses import replace
from typing import Any

from jaxtts.models.hifigan.task import vocoder_task
from jaxtts.models.parallel_wavegan.model import Config, Model
from jaxtts.nn.functional import fold_weight_norm
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Task, TrainState


def default_optim() -> OptimConfig:
    """The reference's: RAdam with 1e-4, eps 1e-6, halved every 200,000 steps, gradients clipped at norm 10."""
    return OptimConfig("radam", 1e-4, "exponential", decay_rate=0.5, decay_steps=200_000, eps=1e-6, clip_norm=10.0)


def build_task(config: Config, optim: OptimConfig | dict[str, OptimConfig] | None = None) -> Task:
    """Trains the generator and its discriminator; batches as in `vocoder_task`."""
    task = vocoder_task(lambda rngs: Model(config, rngs=rngs), config, optim or default_optim(), noisy=True)

    def inference(state: TrainState) -> tuple[Any, Config]:
        params, exported = task.inference(state)
        return fold_weight_norm(params), replace(exported, weight_norm=False, norm_context=False)

    return task._replace(inference=inference)
