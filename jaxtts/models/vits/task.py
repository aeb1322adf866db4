"""Training VITS: reconstruction, KL, durations and the adversary in one step (arXiv 2106.06103, section 2.3).

Reference matched: jaywalnut310/vits `train.py` and `train_ms.py`. Differences: mel and linear spectrograms are made on
the device; recordings shorter than a segment are not dropped, what lies behind their end is silence on both sides.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.stft import linear_to_mel, mel_spectrogram, padded_linear_spectrogram
from jaxtts.losses.kl import sampled_kl
from jaxtts.models.hifigan.task import Adversary, Waves, both
from jaxtts.models.vits.model import Config, Model, Output, slices
from jaxtts.nn import functional
from jaxtts.nn.alignment import path_from_durations
from jaxtts.nn.functional import item_noise
from jaxtts.nn.masking import sequence_mask
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Media, Metrics, Task, TrainState
from jaxtts.train.steps import averaged_params, gan_step, generator_step, init_state


def paper_optim(steps_per_epoch: int = 1000) -> OptimConfig:
    """The paper's optimiser, for both nets (section 3.1)."""
    return OptimConfig(
        "adamw", 2e-4, "exponential", decay_rate=0.999**0.125, decay_steps=steps_per_epoch,
        b1=0.8, b2=0.99, eps=1e-9, weight_decay=0.01,
    )  # fmt: skip


def build_task(config: Config, optim: OptimConfig | dict[str, OptimConfig] | None = None) -> Task:
    """The task over batches of text [B, S], text_lengths [B], wave [B, T * hop], wave_lengths [B], speaker [B].

    Args:
        optim: of both nets, or of each by name: 'generator', 'discriminator'; default: the paper's.

    Raises:
        ValueError: the posterior encoder does not read the spectrogram of `config.mel`.
    """
    gan, spec, hop = config.gan, config.mel, config.mel.hop_length
    linear = spec.replace(name=f"{spec.name}_linear", num_mels=None, log=None)
    if config.spectrogram_bins != linear.num_bins:
        raise ValueError(f"spectrogram_bins={config.spectrogram_bins}: mel.n_fft={spec.n_fft} gives {linear.num_bins}")
    optim = optim or paper_optim()
    optim = optim if isinstance(optim, dict) else both(optim, gan.pretrain_steps)
    adversary = Adversary(gan, config.dtype, config.remat)
    graph = functional.structure(lambda: Model(config, rngs=functional.rngs_for_shapes()))[0]
    multi = config.speaker_dim > 0

    def init(key: jax.Array, batch: Batch | None = None) -> TrainState:
        key_g, key_d = jax.random.split(key)
        _, params, rest = functional.split(Model(config, rngs=nnx.Rngs(key_g)))
        judges, vectors = adversary.init(key_d)
        return init_state(
            {"generator": params, "discriminator": judges}, optim, {"generator": rest, "discriminator": vectors}
        )

    def forward(params: Any, batch: Batch, spectrogram: jax.Array, **randomness: Any) -> Output:
        return functional.merge(graph, params)(
            batch["text"],
            batch["text_lengths"],
            spectrogram,
            batch["wave_lengths"] // hop,
            speaker=batch["speaker"] if multi else None,
            **randomness,
        )

    def losses(output: Output, batch: Batch, spectrogram: jax.Array) -> tuple[jax.Array, Metrics]:
        mask = sequence_mask(batch["wave_lengths"] // hop, spectrogram.shape[1])
        target = linear_to_mel(slices(spectrogram, output.starts, config.segment_frames), spec)
        metrics = {
            "loss/mel": jnp.abs(mel_spectrogram(output.wave, spec) - target).mean(),
            "loss/kl": sampled_kl(output.z, output.mean, output.log_scale, output.posterior.log_scale, mask),
            "loss/duration": jnp.sum(output.duration_loss) / jnp.maximum(jnp.sum(batch["text_lengths"]), 1),
        }
        weights = (gan.mel_weight, config.kl_weight, config.duration_weight)
        return jnp.stack([w * loss for w, loss in zip(weights, metrics.values())]).sum(), metrics

    def generate(params: Any, rest: Any, batch: Batch, key: jax.Array) -> tuple[Waves, jax.Array, Metrics]:
        spectrogram = padded_linear_spectrogram(batch["wave"], batch["wave_lengths"], linear)
        output = forward(params, batch, spectrogram, key=key)
        real = slices(batch["wave"], output.starts * hop, config.segment_frames * hop)
        return ((real, output.wave), *losses(output, batch, spectrogram))

    def eval_step(state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
        spectrogram = padded_linear_spectrogram(batch["wave"], batch["wave_lengths"], linear)
        keys = jax.random.split(key)
        middle = jnp.maximum(batch["wave_lengths"] // hop - config.segment_frames, 0) // 2
        output = forward(
            averaged_params(state, "generator"),
            batch,
            spectrogram,
            noise=item_noise(keys[0], (*spectrogram.shape[:2], config.latent_dim)),
            duration_noise=item_noise(keys[1], (*batch["text"].shape, 2)),
            starts=middle,
        )
        return losses(output, batch, spectrogram)[1]

    def sample(state: TrainState, batch: Batch, key: jax.Array) -> Media:
        model = functional.merge(graph, averaged_params(state, "generator"))
        first = {name: batch[name][:1] for name in fields}
        speaker = first["speaker"] if multi else None
        spectrogram = padded_linear_spectrogram(first["wave"], first["wave_lengths"], linear)
        frames = spectrogram.shape[1]
        output = forward(averaged_params(state, "generator"), first, spectrogram)
        spoken, _, alignment = model.infer(
            first["text"], first["text_lengths"], max_frames=frames, speaker=speaker, key=key
        )
        again = model.decode(output.posterior.z, first["wave_lengths"] // hop, speaker=speaker)
        return {
            "audio/predicted": spoken[0],
            "audio/reconstructed": again[0],
            "audio/recorded": first["wave"][0],
            "mel/predicted": mel_spectrogram(spoken[0], spec),
            "mel/reconstructed": mel_spectrogram(again[0], spec),
            "mel/recorded": linear_to_mel(spectrogram[0], spec),
            "alignment/predicted": alignment[0],
            "alignment/found": path_from_durations(output.durations, frames)[0],
        }

    def inference(state: TrainState) -> tuple[dict[str, Any], Config]:
        params = functional.fold_weight_norm(averaged_params(state, "generator"))
        return params, replace(config, weight_norm=False, dtype="float32", remat=False)

    fields = ("text", "text_lengths", "wave", "wave_lengths") + (("speaker",) if multi else ())
    train_step = gan_step(generate, adversary.generator_loss, adversary.discriminator_loss, optim)
    pretraining = (gan.pretrain_steps, generator_step(generate, optim["generator"])) if gan.pretrain_steps else None
    return Task(init, train_step, eval_step, sample, fields, inference, pretraining)
