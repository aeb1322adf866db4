"""Adversarial training of a vocoder: HiFi-GAN (arXiv 2010.05646, section 2.4), and what Vocos shares with it.

Reference matched: jik876/hifi-gan `train.py`. The discriminators step first, then the generator through the updated
ones; AdamW (0.8, 0.99), weight decay 0.01, learning rate 2e-4 times 0.999 every epoch (`default_optim`). Differences:
the generator runs forward once per step (the reference the same), spectral norms iterate once per step (the reference
four times), real and generated waves pass the discriminators' own step as one batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.spec import MelSpec
from jaxtts.audio.stft import mel_spectrogram
from jaxtts.losses.gan import discriminator_losses, feature_losses, generator_losses
from jaxtts.losses.spectral import mel_l1, multi_resolution_stft
from jaxtts.models.hifigan.discriminators import Discriminators, power_iteration
from jaxtts.models.hifigan.model import Config, GanConfig, Generator
from jaxtts.nn import functional
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, gan_step, generator_step, init_state

Waves = tuple[jax.Array, jax.Array]  # real and generated, [B, N]


class VocoderConfig(Protocol):
    """What `vocoder_task` reads of a configuration."""

    @property
    def mel(self) -> MelSpec: ...

    @property
    def gan(self) -> GanConfig: ...

    @property
    def dtype(self) -> str: ...

    @property
    def remat(self) -> bool: ...


def default_optim(steps_per_epoch: int = 1000) -> OptimConfig:
    """The paper's optimiser, for both nets (section 3.1)."""
    return OptimConfig(
        "adamw", 2e-4, "exponential", decay_rate=0.999, decay_steps=steps_per_epoch, b1=0.8, b2=0.99, weight_decay=0.01
    )


def build_task(config: Config, optim: OptimConfig | dict[str, OptimConfig]) -> Task:
    """Trains the generator and the discriminators; batches as in `vocoder_task`."""
    return vocoder_task(lambda rngs: Generator(config, rngs=rngs), config, optim)


def vocoder_task(
    build: Callable[[nnx.Rngs], Any],
    config: VocoderConfig,
    optim: OptimConfig | dict[str, OptimConfig],
    *,
    noisy: bool = False,
    spectral: Callable[[jax.Array, jax.Array], tuple[jax.Array, Metrics]] | None = None,
) -> Task:
    """Trains any mel-to-wave module, called as module(mel [B, T, M]) -> wave [B, T * hop], by `config.gan`.

    A batch holds 'wave' [B, N], N a multiple of the hop, and, to fine-tune on predicted mels, 'mel' [B, N / hop, M];
    without it the step computes the mel from the wave.

    Args:
        build: makes the module.
        config: the module's configuration; stored with what is exported.
        optim: of both nets, or of each by name: 'generator', 'discriminator'.
        noisy: the module reads noise too, [B, T, hop].
        spectral: a further loss of the generator: (generated, real) [B, N] -> weighted loss, metrics.
    """
    gan, spec = config.gan, config.mel
    loss_spec = spec.full_band()
    optim = optim if isinstance(optim, dict) else both(optim, gan.pretrain_steps)

    adversary = Adversary(gan, config.dtype, config.remat)
    generator = functional.structure(lambda: build(functional.rngs_for_shapes()))[0]

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        key_g, key_d = jax.random.split(key)
        _, params, rest = functional.split(build(nnx.Rngs(key_g)))
        judges, vectors = adversary.init(key_d)
        return init_state(
            {"generator": params, "discriminator": judges}, optim, {"generator": rest, "discriminator": vectors}
        )

    def synthesize(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        mel = batch["mel"] if "mel" in batch else mel_spectrogram(batch["wave"], spec)
        noise = [functional.item_noise(key, (*mel.shape[:2], spec.hop_length))] if noisy else []
        return functional.merge(generator, params)(mel, *noise)  # [B, N]

    def generate(params: Any, rest: Any, batch: Batch, key: jax.Array) -> tuple[Waves, jax.Array, Metrics]:
        fake = synthesize(params, batch, key)
        metrics = {"loss/mel": mel_l1(fake, batch["wave"], loss_spec)}
        loss = gan.mel_weight * metrics["loss/mel"]
        if gan.stft_weight:
            convergence, magnitude = multi_resolution_stft(fake, batch["wave"], gan.stft_resolutions)
            metrics |= {"loss/spectral_convergence": convergence, "loss/stft_magnitude": magnitude}
            loss += gan.stft_weight * (convergence + magnitude)
        if spectral:
            further, found = spectral(fake, batch["wave"])
            loss, metrics = loss + further, metrics | found
        return (batch["wave"], fake), loss, metrics

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        fake = synthesize(averaged_params(state, "generator"), batch, key)
        convergence, magnitude = multi_resolution_stft(fake, batch["wave"], gan.stft_resolutions)
        return {
            "loss/mel": mel_l1(fake, batch["wave"], loss_spec),
            "loss/spectral_convergence": convergence,
            "loss/stft_magnitude": magnitude,
        }

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        real, fake = batch["wave"][0], synthesize(averaged_params(state, "generator"), batch, key)[0]
        return {
            "audio/generated": fake,
            "audio/recorded": real,
            "mel/generated": mel_spectrogram(fake, spec),
            "mel/recorded": mel_spectrogram(real, spec),
        }

    train_step = gan_step(generate, adversary.generator_loss, adversary.discriminator_loss, optim)
    pretraining = (gan.pretrain_steps, generator_step(generate, optim["generator"])) if gan.pretrain_steps else None

    def inference(state: TrainState) -> tuple[Any, Any]:
        exported = dataclasses.replace(config, dtype="float32", remat=False)  # type: ignore[type-var]
        return averaged_params(state, "generator"), exported

    return Task(init, train_step, eval_step, sample, ("wave",), inference, pretraining)


class Adversary:
    """The discriminators of a `GanConfig` as the losses of `train.steps.gan_step`; its outputs are (real, fake) waves.

    Args:
        dtype, remat: of the discriminators' networks.
    """

    def __init__(self, gan: GanConfig, dtype: str = "float32", remat: bool = False):
        self.gan = gan
        self.build = lambda rngs: Discriminators(gan, dtype=dtype, remat=remat, rngs=rngs)
        self.structure = functional.structure(lambda: self.build(functional.rngs_for_shapes()))[0]

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Parameters and singular vectors."""
        return functional.split(self.build(nnx.Rngs(key)))[1:]

    def generator_loss(self, params: Any, rest: Any, batch: Batch, waves: Waves) -> tuple[jax.Array, Metrics]:
        """What the generator loses to the discriminators: their scores and the distance of their feature maps."""
        real, fake = waves
        real_maps = jax.lax.stop_gradient(self._judge(params, rest["discriminator"], real))
        fake_maps = self._judge(params, rest["discriminator"], fake)
        objective = self.gan.objective
        adversarial = self._weighted({f: generator_losses([m[-1] for m in fake_maps[f]], objective) for f in fake_maps})
        feature = self._weighted({f: feature_losses(real_maps[f], fake_maps[f]) for f in fake_maps})
        metrics = {"loss/adversarial": adversarial, "loss/feature": feature}
        return adversarial + self.gan.feature_weight * feature, metrics

    def discriminator_loss(
        self, params: Any, rest: Any, batch: Batch, waves: Waves
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """What the discriminators lose on both waves; the singular vectors move one step."""
        rest = rest | {"discriminator": power_iteration(params, rest["discriminator"])}
        losses = {}
        for family, judged in self._judge(params, rest["discriminator"], jnp.concatenate(waves)).items():
            halves = [jnp.split(m[-1], 2) for m in judged]
            on_real, on_fake = discriminator_losses([h[0] for h in halves], [h[1] for h in halves], self.gan.objective)
            losses[family] = on_real + on_fake
        loss = self._weighted(losses)
        return loss, ({"loss/discriminator": loss}, rest)

    def _judge(self, params: Any, vectors: Any, wave: jax.Array) -> dict[str, list[list[jax.Array]]]:
        return functional.merge(self.structure, params, vectors)(wave)

    def _weighted(self, losses: dict[str, jax.Array]) -> jax.Array:
        gan = self.gan
        reduce = jnp.sum if gan.reduce == "sum" else jnp.mean
        return jnp.stack([w * reduce(losses[name]) for name, w in zip(gan.discriminators, gan.weights)]).sum()


def both(optim: OptimConfig, pretrain_steps: int) -> dict[str, OptimConfig]:
    """The discriminators start `pretrain_steps` later, so their cosine is shorter; only the generator is averaged."""
    discriminator = dataclasses.replace(optim, ema_decay=0.0)
    if optim.schedule == "cosine":
        remaining = max(optim.warmup_steps + 1, optim.total_steps - pretrain_steps)
        discriminator = dataclasses.replace(discriminator, total_steps=remaining)
    return {"generator": optim, "discriminator": discriminator}
