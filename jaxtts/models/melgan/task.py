"""Training MelGAN: first the STFT losses alone, after `gan.pretrain_steps` also least squares of a multi-scale
discriminator and, for the full band, feature matching.

Reference matched: kan-bayashi/ParallelWaveGAN `egs/ljspeech/voc1/conf/melgan.v3.long.yaml` and
`multi_band_melgan.v2.yaml` (arXiv 2005.05106). Differences: the discriminator is the 'scale' family of
`models.hifigan`, with MelGAN's layers but a slope of 0.1 (0.2), zeros around its first layer (mirrored) and HiFi-GAN's
pooling, two zeros at both ends (one, not counted); feature matching sees the score map too; the sub-bands' STFT loss is
of the wave's analysis, which the filter bank's error of -64 dB sets apart from what the generator gave; Adam's second
moments are not those of AMSGrad, and the multi-band rate goes on halving after 600,000 steps.
"""

from functools import partial

import jax

from jaxtts.audio.pqmf import Pqmf, analysis
from jaxtts.losses.spectral import multi_resolution_stft
from jaxtts.models.hifigan.task import vocoder_task
from jaxtts.models.melgan.model import Config, Model
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Metrics, Task


def default_optim(num_bands: int = 1) -> dict[str, OptimConfig]:
    """The reference's: RAdam, 1e-4 and 5e-5, clipped at norm 10 and 1; with sub-bands Adam, 1e-3, halved every 100,000
    steps."""
    if num_bands > 1:
        adam = OptimConfig("adam", 1e-3, "exponential", decay_rate=0.5, decay_steps=100_000, eps=1e-7)
        return {"generator": adam, "discriminator": adam}
    return {
        "generator": OptimConfig("radam", 1e-4, eps=1e-6, clip_norm=10.0),
        "discriminator": OptimConfig("radam", 5e-5, eps=1e-6, clip_norm=1.0),
    }


def build_task(config: Config, optim: OptimConfig | dict[str, OptimConfig] | None = None) -> Task:
    """Trains the generator and its discriminators; batches as in `vocoder_task`."""
    return vocoder_task(
        lambda rngs: Model(config, rngs=rngs),
        config,
        optim or default_optim(config.num_bands),
        spectral=partial(subband_loss, config, config.bank) if config.bank else None,
    )


def subband_loss(config: Config, bank: Pqmf, fake: jax.Array, real: jax.Array) -> tuple[jax.Array, Metrics]:
    """The weighted STFT loss of the sub-bands of two waves [B, N] (arXiv 2005.05106), and its parts."""
    fake, real = (analysis(wave, bank).swapaxes(1, 2) for wave in (fake, real))  # [B, K, N / K]
    convergence, magnitude = multi_resolution_stft(fake, real, config.subband_resolutions)
    metrics = {"loss/subband_convergence": convergence, "loss/subband_magnitude": magnitude}
    return config.subband_weight * (convergence + magnitude), metrics
