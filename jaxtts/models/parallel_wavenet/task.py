"""Probability density distillation: a student of flows learns what a WaveNet, frozen in `rest`, finds likely.

Matches `train_student.py` of ksw0306/ClariNet for Gaussians: the closed-form divergence, four times the squared
distance of the log scales, the frame loss. For logistics arXiv 1711.10433 sec. 3.2: the cross-entropy of several draws
for each sample less the entropy, the power loss of time averages (sec. 4.2) and, with a weight, the contrastive term
(sec. 4.4: what another utterance's mel would make likely is unlikely). Spectra are compared as they are heard, gain
and pre-emphasis undone. The paper's perceptual loss needs a phone classifier, which is not here.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import mel_spectrogram
from jaxtts.losses.kl import gaussian_kl
from jaxtts.losses.spectral import magnitude_mse, multi_resolution_stft
from jaxtts.models.parallel_wavenet.model import Config, Model, Sampled
from jaxtts.models.wavenet import Model as Teacher
from jaxtts.models.wavenet.task import shifted
from jaxtts.nn.functional import fold_weight_norm, item_noise, merge, rngs_for_shapes, split, structure
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


def default_optim() -> OptimConfig:
    """Adam with 2e-4 and averaged weights (section 5)."""
    return OptimConfig(learning_rate=2e-4, ema_decay=0.9999)


def build_task(config: Config, optim: OptimConfig | None = None) -> Task:
    """The task over batches of wave [B, N] and, to train on predicted mels, mel [B, N / hop, M].

    `init` puts a fresh teacher into rest['teacher']: give a trained one in its place.
    """
    optim = optim or default_optim()
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    teaching = structure(lambda: Teacher(config.teacher, rngs=rngs_for_shapes()))[0]

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        _, params, _ = split(Model(config, rngs=nnx.Rngs(key)))
        _, teacher, _ = split(Teacher(config.teacher, rngs=nnx.Rngs(jax.random.fold_in(key, 1))))
        return init_state({"model": {"flows": params["flows"]}}, {"model": optim}, {"teacher": teacher})

    def student(params: Any, rest: Any) -> Model:
        return merge(graph, params | {"upsample": rest["teacher"]["upsample"]})

    def mel_of(batch: Batch) -> jax.Array:
        return batch["mel"] if "mel" in batch else mel_spectrogram(batch["wave"], config.mel)

    def distilled(params: Any, rest: Any, batch: Batch, key: jax.Array):
        model, teacher = student(params, rest), merge(teaching, rest["teacher"])
        wave = config.teacher.modelled(batch["wave"])
        cond = jax.lax.stop_gradient(teacher.condition(mel_of(batch)))[:, : wave.shape[1]]
        made = model.made(model.latent(item_noise(key, wave.shape)), cond)
        told = heard(teacher, made.wave, cond)[:, 1:]
        sounds = config.teacher.restored(made.wave), config.teacher.restored(wave)
        terms: Metrics = {"power": magnitude_mse(*sounds, time_averaged=config.noise == "logistic")}
        if config.noise == "gaussian":
            kl, scales = gaussian_kl(made.mean, made.log_scale, told[..., 0], told[..., 1])
            terms |= {"divergence": jnp.mean(kl), "scales": jnp.mean(scales)}
        else:
            terms["divergence"] = divergence(made, told, config, key)
        if config.contrast_weight:
            other = heard(teacher, made.wave, jnp.roll(cond, 1, axis=0))[:, 1:]
            terms["contrast"] = -divergence(made, other, config, key)
        if config.stft_weight:
            convergence, magnitude = multi_resolution_stft(*sounds)
            terms["stft"] = convergence + magnitude
        weights = {
            "divergence": 1.0,
            "scales": 4.0,
            "contrast": config.contrast_weight,
            "power": config.power_weight,
            "stft": config.stft_weight,
        }
        total = jnp.sum(jnp.stack([weights[name] * value for name, value in terms.items()]))
        return total, {"loss/total": total} | {f"loss/{name}": value for name, value in terms.items()}

    def loss(params: Any, rest: Any, batch: Batch, key: jax.Array):
        total, metrics = distilled(params["model"], rest, batch, key)
        return total, (metrics, rest)

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        return distilled(averaged_params(state, "model"), state.rest, batch, key)[1]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        real = batch["wave"][:1]
        mel = mel_of({name: x[:1] for name, x in batch.items()})[:, : real.shape[1] // config.mel.hop_length]
        noise = item_noise(key, (*mel.shape[:2], config.mel.hop_length))
        fake = student(averaged_params(state, "model"), state.rest).infer(mel, noise=noise)
        return {
            "audio/generated": fake[0],
            "audio/recorded": real[0],
            "mel/generated": mel_spectrogram(fake, config.mel)[0],
            "mel/recorded": mel[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = averaged_params(state, "model") | {"upsample": state.rest["teacher"]["upsample"]}
        teacher = replace(config.teacher, weight_norm=False, dtype="float32", remat=False)
        return fold_weight_norm(params), replace(
            config, teacher=teacher, weight_norm=False, dtype="float32", remat=False
        )

    return Task(init, supervised_step(loss, optim), eval_step, sample, ("wave",), inference)


def heard(teacher: Teacher, wave: jax.Array, cond: jax.Array) -> jax.Array:
    """What the teacher expects of each sample of a wave [B, N] after those before it [B, N, width]."""
    network = teacher.network
    previous = shifted(jnp.clip(wave, -1.0, 1.0), teacher.config)
    return network(network.read(previous), cond)


def divergence(made: Sampled, told: jax.Array, config: Config, key: jax.Array) -> jax.Array:
    """KL of the student's distributions from the teacher's, a mean over samples in nats (arXiv 1711.10433 eq. 8, 9).

    Of the teacher's the cross-entropy is estimated by `Config.draws` draws for each sample, of logistics the entropy is
    log_scale + 2, of Gaussians log_scale + log(2 * pi * e) / 2. Both are of densities: a student has no levels, and a
    teacher's outermost levels would hold all that lies beyond them for equally likely.
    """
    shape = (config.draws, *made.mean.shape)
    if config.noise == "logistic":
        noise, entropy = jax.random.logistic(key, shape), 2.0
    else:
        noise, entropy = jax.random.normal(key, shape), 0.5 * jnp.log(2 * jnp.pi * jnp.e)
    drawn = made.mean + jnp.exp(made.log_scale) * noise
    return -jnp.mean(config.teacher.output.log_density(told[None], drawn)) - jnp.mean(made.log_scale) - entropy
