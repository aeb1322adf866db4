"""VITS: conditional variational autoencoder with adversarial learning for end-to-end speech (arXiv 2106.06103).

Matches jaywalnut310/vits@2e561ba, with which Coqui's, Piper's and Hugging Face's VITS share the graph. As there, the
posterior encoder reads plain magnitudes (appendix B.1 of the paper says log magnitudes). Differences: channels last;
in a batch what lies behind an item's end never reaches its sound (the reference's decoder lets it leak into the last
frames); an item's noise does not depend on its batch; the stochastic duration predictor and all that is summed up in a
likelihood stay in float32 with any `dtype`.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.hifigan.model import Config as DecoderConfig
from jaxtts.models.hifigan.model import GanConfig, Generator
from jaxtts.nn.alignment import (
    expand,
    gaussian_log_likelihood,
    monotonic_alignment_search,
    path_from_durations,
)
from jaxtts.nn.attention import TransformerEncoder
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.flow import ActNorm, AffineCoupling
from jaxtts.nn.functional import check_dtype, dropout, item_noise, remat, split_key
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.normalization import LayerNorm
from jaxtts.nn.spline import rational_quadratic_spline
from jaxtts.nn.wavenet import WaveNet


@dataclass(frozen=True)
class Config:
    """The paper's model for LJSpeech by default (configs/ljs_base.json of the reference).

    Attributes:
        num_symbols: size of the text alphabet.
        mel: sample rate, hop and STFT of the posterior's linear spectrogram; its mels are those of the loss.
        spectrogram_bins: bins that the posterior encoder reads.
        latent_dim: channels of the latent, C.
        attention_window: reach of the relative positions, None for none.
        hidden_dim: width of the posterior encoder and of the flow.
        stochastic_durations: False for a plain predictor of log durations, of width `duration_dim`.
        duration_norm_eps: of the plain predictor's layer norms (coqui-tts: 1e-4).
        stochastic_dim: width of the stochastic predictor, 0: as wide as the encoder.
        duration_flows, duration_layers: couplings in each flow of the stochastic predictor, layers in each's network.
        spline_bins, spline_bound: of its splines.
        num_speakers: above 1, `speaker` holds ids [B]; else, with speaker_dim > 0, embeddings [B, speaker_dim].
        resblock, upsample_rates, upsample_kernel_sizes, upsample_channels, resblock_kernel_sizes, resblock_dilations:
            of the decoder, see `hifigan.Config`; the product of `upsample_rates` is the hop.
        segment_frames: frames of each utterance that are decoded in training.
        gan: the discriminators and the weights of the adversarial and mel losses.
        kl_weight, duration_weight: of the other losses.
        weight_norm: False once the gains are folded into the kernels.
        dtype: of the networks; latents, durations and likelihoods are float32 in any case.
        remat: in training, keep of each encoder layer, WaveNet, coupling and residual block its input alone.
    """

    num_symbols: int = 178
    mel: MelSpec = mel_spec("vits")
    spectrogram_bins: int = 513
    latent_dim: int = 192
    encoder_dim: int = 192
    encoder_layers: int = 6
    encoder_heads: int = 2
    encoder_ffn_dim: int = 768
    encoder_kernel_size: int = 3
    encoder_dropout: float = 0.1
    attention_window: int | None = 4
    hidden_dim: int = 192
    posterior_layers: int = 16
    posterior_kernel_size: int = 5
    posterior_dilation: int = 1
    flow_blocks: int = 4
    flow_layers: int = 4
    flow_kernel_size: int = 5
    flow_dilation: int = 1
    stochastic_durations: bool = True
    duration_dim: int = 256
    duration_kernel_size: int = 3
    duration_dropout: float = 0.5
    duration_norm_eps: float = 1e-5
    stochastic_dim: int = 0
    duration_flows: int = 4
    duration_layers: int = 3
    spline_bins: int = 10
    spline_bound: float = 5.0
    num_speakers: int = 1
    speaker_dim: int = 0
    resblock: int = 1
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_channels: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    segment_frames: int = 32
    gan: GanConfig = GanConfig.vits()
    kl_weight: float = 1.0
    duration_weight: float = 1.0
    weight_norm: bool = True
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.latent_dim % 2:
            raise ValueError(f"latent_dim={self.latent_dim} must be even: the flow's couplings halve it")
        if self.num_speakers > 1 and self.speaker_dim <= 0:
            raise ValueError(f"num_speakers={self.num_speakers} needs speaker_dim > 0, not {self.speaker_dim}")
        if self.stochastic_durations and self.duration_flows < 2:
            raise ValueError(f"duration_flows={self.duration_flows}: give at least 2")
        _ = self.decoder  # its own checks

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's configuration."""
        return DecoderConfig(
            mel=self.mel,
            resblock=self.resblock,
            upsample_rates=self.upsample_rates,
            upsample_kernel_sizes=self.upsample_kernel_sizes,
            upsample_channels=self.upsample_channels,
            resblock_kernel_sizes=self.resblock_kernel_sizes,
            resblock_dilations=self.resblock_dilations,
            weight_norm=self.weight_norm,
            dtype=self.dtype,
            remat=self.remat,
            gan=self.gan,
        )

    @property
    def receptive_field(self) -> int:
        """Frames of the prior's sample on each side that decide a frame of the latent that `latent` makes."""
        layers = sum(self.flow_dilation**i for i in range(self.flow_layers))
        return self.flow_blocks * (self.flow_kernel_size // 2) * layers

    @classmethod
    def vctk(cls) -> "Config":
        """The paper's model of 109 speakers (configs/vctk_base.json of the reference)."""
        return cls(num_speakers=109, speaker_dim=256)

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """A few thousand parameters, for tests."""
        decoder = DecoderConfig.tiny()
        small: dict[str, Any] = dict(
            num_symbols=12,
            mel=decoder.mel,
            spectrogram_bins=33,
            latent_dim=8,
            encoder_dim=8,
            encoder_layers=1,
            encoder_ffn_dim=16,
            hidden_dim=8,
            posterior_layers=2,
            posterior_kernel_size=3,
            flow_blocks=2,
            flow_layers=2,
            flow_kernel_size=3,
            duration_dim=8,
            duration_flows=2,
            duration_layers=1,
            spline_bins=4,
            upsample_rates=decoder.upsample_rates,
            upsample_kernel_sizes=decoder.upsample_kernel_sizes,
            upsample_channels=8,
            resblock_kernel_sizes=decoder.resblock_kernel_sizes,
            resblock_dilations=decoder.resblock_dilations,
            segment_frames=6,
            gan=GanConfig(
                periods=(2, 3), period_channels=(4, 4), num_scales=1, scale_channels=(4, 8, 8),
                scale_groups=(1, 2, 1), scale_kernel_sizes=(5, 9, 3), scale_strides=(1, 4, 1),
                scale_spectral_norm=False,
            ),
        )  # fmt: skip
        return cls(**(small | changes))


class Prior(NamedTuple):
    """What the text says: hidden [B, S, H], mean, log_scale [B, S, C] of each symbol's frames, mask [B, S]."""

    hidden: jax.Array
    mean: jax.Array
    log_scale: jax.Array
    mask: jax.Array


class Posterior(NamedTuple):
    """What the recording says: a sample z, mean, log_scale [B, T, C], zero in the padding."""

    z: jax.Array
    mean: jax.Array
    log_scale: jax.Array


class Output(NamedTuple):
    """The training forward pass.

    Attributes:
        wave: the decoded segments [B, segment_frames * hop].
        starts: their first frames, int32 [B].
        posterior: of the whole utterances.
        z: the posterior's sample after the flow [B, T, C].
        mean, log_scale: its prior along the alignment [B, T, C], zero in the padding.
        durations: frames of each symbol, int32 [B, S].
        duration_loss: of each item [B], summed over its symbols: negative log-likelihood, or squared error.
    """

    wave: jax.Array
    starts: jax.Array
    posterior: Posterior
    z: jax.Array
    mean: jax.Array
    log_scale: jax.Array
    durations: jax.Array
    duration_loss: jax.Array


class Model(nnx.Module):
    """Prior encoder, posterior encoder, flow, duration predictor and decoder (figure 1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = self.config = config
        self.text_encoder = TextEncoder(c, rngs=rngs)
        self.posterior_encoder = PosteriorEncoder(c, rngs=rngs)
        self.flow = Flow(c, rngs=rngs)
        predictor = StochasticDurationPredictor if c.stochastic_durations else DurationPredictor
        self.duration_predictor = predictor(c, rngs=rngs)
        self.decoder = Generator(
            c.decoder, in_channels=c.latent_dim, cond_channels=c.speaker_dim, plain_ends=True, rngs=rngs
        )
        if c.num_speakers > 1:
            self.speaker_embedding = nnx.Param(jax.random.normal(rngs.params(), (c.num_speakers, c.speaker_dim)))

    def __call__(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        spectrogram: jax.Array,
        lengths: jax.Array,
        *,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
        noise: jax.Array | None = None,
        duration_noise: jax.Array | None = None,
        starts: jax.Array | None = None,
    ) -> Output:
        """The alignment under which the text explains the recording best, and a piece of the recording again.

        Args:
            text: [B, S]; text_lengths: [B]. The padding may hold anything.
            spectrogram: linear magnitudes [B, T, F]; lengths: frames [B].
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: for dropout, the noises and the segments; None is deterministic: posterior means, segments from the
                first frame, dequantisation by the middle.
            noise: standard normal [B, T, C] of the posterior, in place of a drawn one.
            duration_noise: standard normal [B, S, 2] of the dequantisation, in place of a drawn one.
            starts: first frames of the segments [B], in place of drawn ones.
        """
        c, frames = self.config, spectrogram.shape[1]
        keys = split_key(key, 2)
        if key is not None:
            draws = jax.random.split(jax.random.fold_in(key, 0), 3)
            noise = item_noise(draws[0], (*spectrogram.shape[:2], c.latent_dim)) if noise is None else noise
            duration_noise = item_noise(draws[1], (*text.shape, 2)) if duration_noise is None else duration_noise
            if starts is None:
                last = jnp.maximum(lengths - c.segment_frames + 1, 1)
                starts = (jax.random.uniform(draws[2], lengths.shape) * last).astype(jnp.int32)
        starts = jnp.zeros_like(lengths) if starts is None else starts
        mask, cond = sequence_mask(lengths, frames), self.speaker(speaker)
        prior = self.text_encoder(text, text_lengths, key=keys[0])
        posterior = self.posterior_encoder(spectrogram, mask, cond, noise=noise)
        z = self.flow.forward(posterior.z, mask, cond)
        scores = gaussian_log_likelihood(z, prior.mean, prior.log_scale)
        durations = monotonic_alignment_search(scores, text_lengths, lengths)
        duration_loss = self.duration_predictor.loss(prior, durations, cond, noise=duration_noise, key=keys[1])
        mean, log_scale = (expand(x, durations, frames) for x in (prior.mean, prior.log_scale))
        segments = self.decoder(slices(posterior.z, starts, c.segment_frames), cond=cond)
        return Output(segments, starts, posterior, z, mean, log_scale, durations, duration_loss)

    def infer(self, text: jax.Array, text_lengths: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Speaks; arguments as those of `latent`.

        Returns:
            wave [B, max_frames * hop], zero past the end; its lengths in frames [B]; alignment [B, max_frames, S].
        """
        z, lengths, alignment = self.latent(text, text_lengths, **options)
        return self.decode(z, lengths, speaker=options.get("speaker")), lengths, alignment

    def latent(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        *,
        max_frames: int,
        noise_scale: float | jax.Array = 0.667,
        duration_noise_scale: float | jax.Array = 0.8,
        length_scale: float | jax.Array = 1.0,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
        noise: jax.Array | None = None,
        duration_noise: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Text to what the decoder reads.

        Args:
            text: [B, S]; text_lengths: [B].
            max_frames: frames to make room for; longer speech is cut off.
            noise_scale: the temperature of the sound, a scalar or [B].
            duration_noise_scale: that of the rhythm, a scalar or [B]; a plain predictor has none.
            length_scale: above 1 is slower, a scalar, [B], or [B, S] symbol by symbol.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: draws both noises, item by item; None, with neither given, speaks the means.
            noise: standard normal [B, max_frames, C] in place of a drawn one.
            duration_noise: standard normal [B, S, 2] in place of a drawn one.

        Returns:
            z [B, max_frames, C], zero past the end; its lengths [B]; alignment [B, max_frames, S].
        """
        cond = self.speaker(speaker)
        prior = self.text_encoder(text, text_lengths)
        if key is not None:
            keys = jax.random.split(key)
            noise = item_noise(keys[0], (len(text), max_frames, self.config.latent_dim)) if noise is None else noise
            duration_noise = item_noise(keys[1], (*text.shape, 2)) if duration_noise is None else duration_noise
        if duration_noise is not None:
            duration_noise = duration_noise * jnp.reshape(duration_noise_scale, (-1, 1, 1))
        log_durations = self.duration_predictor(prior, cond, noise=duration_noise)
        scale = length_scale if jnp.ndim(length_scale) == 2 else jnp.reshape(length_scale, (-1, 1))
        durations = jnp.clip(jnp.ceil(jnp.exp(log_durations) * scale), 1, 2**16).astype(jnp.int32)
        durations = jnp.where(prior.mask, durations, 0)
        lengths = jnp.minimum(jnp.sum(durations, axis=1), max_frames)
        mask = sequence_mask(lengths, max_frames)
        z = expand(prior.mean, durations, max_frames)
        if noise is not None:
            log_scale = expand(prior.log_scale, durations, max_frames)
            z = masked_fill(z + jnp.exp(log_scale) * noise * jnp.reshape(noise_scale, (-1, 1, 1)), mask)
        z = self.flow.inverse(z, mask, cond)
        return z, lengths, path_from_durations(durations, max_frames) * mask[..., None]

    def decode(self, z: jax.Array, lengths: jax.Array | None = None, *, speaker: jax.Array | None = None) -> jax.Array:
        """Latent [B, T, C] (frames [B]) -> wave [B, T * hop], zero behind the lengths."""
        return self.decoder(z, lengths, self.speaker(speaker))

    def convert(
        self,
        spectrogram: jax.Array,
        lengths: jax.Array,
        *,
        source: jax.Array,
        target: jax.Array,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """A recording in another speaker's voice (section 4.4): through the flow as one, back as the other.

        Args:
            spectrogram: linear magnitudes [B, T, F]; lengths: frames [B].
            source, target: speakers, ids [B] or embeddings [B, speaker_dim].
            noise: standard normal [B, T, C] of the posterior; None takes its mean.

        Returns:
            wave [B, T * hop], zero behind the lengths.
        """
        z = self.converted(spectrogram, lengths, source, target, noise)
        return self.decode(z, lengths, speaker=target)

    def converted(
        self,
        spectrogram: jax.Array,
        lengths: jax.Array,
        source: jax.Array,
        target: jax.Array,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """The latent [B, T, C] of `convert`."""
        mask, cond = sequence_mask(lengths, spectrogram.shape[1]), self.speaker(source)
        z = self.posterior_encoder(spectrogram, mask, cond, noise=noise).z
        return self.flow.inverse(self.flow.forward(z, mask, cond), mask, self.speaker(target))

    def speaker(self, speaker: jax.Array | None) -> jax.Array | None:
        """Ids [B], or embeddings [B, G] which are normalised -> [B, 1, G]; None for a model of one speaker.

        Raises:
            ValueError: the model needs a speaker and got none.
        """
        if not self.config.speaker_dim:
            return None
        if speaker is None:
            raise ValueError(f"speaker is missing: this model has num_speakers={self.config.num_speakers}")
        if self.config.num_speakers > 1:
            return self.speaker_embedding[...][speaker][:, None, :]
        norm = jnp.sqrt(jnp.maximum(jnp.sum(speaker * speaker, axis=-1, keepdims=True), 1e-24))
        return (speaker / norm)[:, None, :]


class TextEncoder(nnx.Module):
    """Symbols -> hidden states and the prior of each symbol's frames (appendix B.2)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.dtype, dim = c.dtype, c.encoder_dim
        self.embedding = nnx.Param(dim**-0.5 * jax.random.normal(rngs.params(), (c.num_symbols, dim)))
        self.body = TransformerEncoder(
            dim,
            c.encoder_ffn_dim,
            c.encoder_heads,
            c.encoder_layers,
            c.encoder_kernel_size,
            window=c.attention_window,
            dropout=c.encoder_dropout,
            remat=c.remat,
            rngs=rngs,
        )
        self.out = Conv1d(dim, 2 * c.latent_dim, rngs=rngs)

    def __call__(self, text: jax.Array, text_lengths: jax.Array, *, key: jax.Array | None = None) -> Prior:
        """text [B, S], text_lengths [B] -> the prior, zero in the padding; mean and log_scale are float32."""
        mask = sequence_mask(text_lengths, text.shape[1])
        x = self.embedding[...].astype(self.dtype)[jnp.where(mask, text, 0)]  # [B, S, H]
        hidden = self.body(x * math.sqrt(x.shape[-1]), mask, key=key)
        mean, log_scale = jnp.split(masked_fill(self.out(hidden).astype(jnp.float32), mask), 2, axis=-1)
        return Prior(hidden, mean, log_scale, mask)


class PosteriorEncoder(nnx.Module):
    """Linear spectrogram -> latent (appendix B.1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.dtype, self.remat = c.dtype, c.remat
        self.start = Conv1d(c.spectrogram_bins, c.hidden_dim, rngs=rngs)
        self.wavenet = WaveNet(
            c.hidden_dim,
            c.posterior_kernel_size,
            c.posterior_layers,
            dilation=c.posterior_dilation,
            cond_channels=c.speaker_dim,
            weight_norm=c.weight_norm,
            rngs=rngs,
        )
        self.out = Conv1d(c.hidden_dim, 2 * c.latent_dim, rngs=rngs)

    def __call__(
        self, spectrogram: jax.Array, mask: jax.Array, cond: jax.Array | None, *, noise: jax.Array | None = None
    ) -> Posterior:
        """Magnitudes [B, T, F], mask [B, T], cond [B, 1, G], noise [B, T, C] or None for the mean; all float32."""
        x = masked_fill(self.start(masked_fill(spectrogram, mask).astype(self.dtype)), mask)
        x = self.out(remat(self.wavenet, self.remat)(x, mask, cond)).astype(jnp.float32)
        mean, log_scale = jnp.split(masked_fill(x, mask), 2, axis=-1)
        z = mean if noise is None else masked_fill(mean + jnp.exp(log_scale) * noise, mask)
        return Posterior(z, mean, log_scale)


class Flow(nnx.Module):
    """Couplings that shift half of the channels, the channels reversed after each (appendix B.3); no volume changes."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.remat = c.remat
        self.blocks = nnx.List(
            [
                AffineCoupling(
                    c.latent_dim,
                    c.hidden_dim,
                    c.flow_kernel_size,
                    c.flow_layers,
                    dilation=c.flow_dilation,
                    cond_channels=c.speaker_dim,
                    mean_only=True,
                    plain_start=True,
                    weight_norm=c.weight_norm,
                    dtype=c.dtype,
                    rngs=rngs,
                )
                for _ in range(c.flow_blocks)
            ]
        )

    def forward(self, x: jax.Array, mask: jax.Array, cond: jax.Array | None = None) -> jax.Array:
        """Latent [B, T, C], zero in the padding, mask [B, T], cond [B, 1, G] -> what the prior describes."""
        for block in self.blocks:
            x = remat(block.forward, self.remat)(x, mask, cond)[0][..., ::-1]
        return x

    def inverse(self, z: jax.Array, mask: jax.Array, cond: jax.Array | None = None) -> jax.Array:
        """The way back."""
        for block in reversed(self.blocks):
            z = block.inverse(z[..., ::-1], mask, cond)
        return z


class DurationPredictor(nnx.Module):
    """Two convolutions and a projection to log durations, as Glow-TTS's but for the speaker, which is added."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        dim, width, kernel = config.encoder_dim, config.duration_dim, config.duration_kernel_size
        self.dropout = config.duration_dropout
        if config.speaker_dim:
            self.cond = Conv1d(config.speaker_dim, dim, rngs=rngs)
        self.convs = nnx.List([Conv1d(i, width, kernel, rngs=rngs) for i in (dim, width)])
        self.norms = nnx.List([LayerNorm(width, eps=config.duration_norm_eps) for _ in range(2)])
        self.out = Conv1d(width, 1, rngs=rngs)

    def __call__(
        self,
        prior: Prior,
        cond: jax.Array | None = None,
        *,
        noise: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Log durations, float32 [B, S], zero in the padding; there is no use for `noise`."""
        x, cond = jax.lax.stop_gradient((prior.hidden, cond))
        x = x if cond is None else x + self.cond(cond.astype(x.dtype))
        for conv, norm, k in zip(self.convs, self.norms, split_key(key, 2)):
            x = dropout(norm(jax.nn.relu(conv(masked_fill(x, prior.mask)))), self.dropout, k)
        return masked_fill(self.out(x).astype(jnp.float32), prior.mask)[..., 0]

    def loss(
        self,
        prior: Prior,
        durations: jax.Array,
        cond: jax.Array | None = None,
        *,
        noise: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Squared errors of the log durations, summed over each item's symbols, [B]."""
        error = self(prior, cond, key=key) - jnp.log(durations + 1e-6)
        return jnp.sum(jnp.where(prior.mask, error**2, 0.0), axis=1)


class StochasticDurationPredictor(nnx.Module):
    """A flow over durations, dequantised by another one that has seen them (section 2.2.2, appendix B.5)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, dim = config, config.stochastic_dim or config.encoder_dim
        self.start = Conv1d(c.encoder_dim, dim, rngs=rngs)
        if c.speaker_dim:
            self.cond = Conv1d(c.speaker_dim, dim, rngs=rngs)
        self.stack = SeparableStack(dim, c.duration_kernel_size, c.duration_layers, c.duration_dropout, rngs=rngs)
        self.out = Conv1d(dim, dim, rngs=rngs)
        self.flows = SplineFlow(c, rngs=rngs)
        self.post_start = Conv1d(1, dim, rngs=rngs)
        self.post_stack = SeparableStack(dim, c.duration_kernel_size, c.duration_layers, c.duration_dropout, rngs=rngs)
        self.post_out = Conv1d(dim, dim, rngs=rngs)
        self.post_flows = SplineFlow(c, rngs=rngs)

    def __call__(self, prior: Prior, cond: jax.Array | None = None, *, noise: jax.Array | None = None) -> jax.Array:
        """Log durations of a standard normal `noise` [B, S, 2], of 0 without one: float32 [B, S], 0 in the padding."""
        h = self._read(prior, cond, None)
        noise = jnp.zeros((*prior.mask.shape, 2)) if noise is None else noise
        return self.flows.inverse(noise, prior.mask, h)[..., 0]

    def loss(
        self,
        prior: Prior,
        durations: jax.Array,
        cond: jax.Array | None = None,
        *,
        noise: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """An upper bound of the durations' negative log-likelihood, summed over each item's symbols, [B] (eq. 7).

        Args:
            durations: frames [B, S].
            noise: standard normal [B, S, 2] of the dequantisation; None: 0.
            key: for dropout.
        """
        mask, keys = prior.mask, split_key(key, 2)
        noise = jnp.zeros((*mask.shape, 2)) if noise is None else masked_fill(noise, mask)
        h = self._read(prior, cond, keys[0])
        frames = durations[..., None].astype(jnp.float32)  # [B, S, 1]
        seen = self.post_out(self.post_stack(self.post_start(frames), mask, key=keys[1]))
        q, log_det_q = self.post_flows.forward(noise, mask, h + masked_fill(seen, mask))
        u, rest = jnp.split(q, 2, axis=-1)
        log_det_q += _sum(jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u), mask)
        log_q = -_sum(0.5 * (math.log(2 * math.pi) + noise**2), mask) - log_det_q
        log_frames = jnp.log(jnp.maximum(frames - jax.nn.sigmoid(u), 1e-5))
        log_frames = masked_fill(log_frames, mask)
        z, log_det = self.flows.forward(jnp.concatenate([log_frames, rest], axis=-1), mask, h)
        log_p = -_sum(0.5 * (math.log(2 * math.pi) + z**2), mask) + log_det - jnp.sum(log_frames, axis=(1, 2))
        return log_q - log_p

    def _read(self, prior: Prior, cond: jax.Array | None, key: jax.Array | None) -> jax.Array:
        x, cond = jax.lax.stop_gradient((prior.hidden.astype(jnp.float32), cond))
        x = self.start(x)
        x = x if cond is None else x + self.cond(cond)
        return masked_fill(self.out(self.stack(x, prior.mask, key=key)), prior.mask)


class SplineFlow(nnx.Module):
    """An affine layer, then spline couplings of two channels that change places after each."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.affine = ActNorm(2)
        self.couplings = nnx.List([SplineCoupling(config, rngs=rngs) for _ in range(config.duration_flows)])

    def forward(self, x: jax.Array, mask: jax.Array, cond: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, S, 2], mask [B, S], cond [B, S, H] -> z [B, S, 2], zero in the padding, log_det [B]."""
        x, log_det = self.affine.forward(x, mask)
        for coupling in self.couplings:
            x, more = coupling(x, mask, cond)
            x, log_det = x[..., ::-1], log_det + more
        return x, log_det

    def inverse(self, z: jax.Array, mask: jax.Array, cond: jax.Array, *, whole: bool = False) -> jax.Array:
        """The way back; without `whole`, its first channel (all that speaking needs) as the reference computes it.

        The reference leaves the first coupling out: that one changed the other channel alone.
        """
        for coupling in reversed(self.couplings[0 if whole else 1 :]):
            z, _ = coupling(z[..., ::-1], mask, cond, inverse=True)
        return self.affine.inverse(z if whole else z[..., ::-1], mask)


class SplineCoupling(nnx.Module):
    """The second channel moves through a spline that a network makes of the first; starts as the identity."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, dim = config, config.stochastic_dim or config.encoder_dim
        self.bins, self.bound, self.scale = c.spline_bins, c.spline_bound, dim**-0.5
        self.start = Conv1d(1, dim, rngs=rngs)
        self.stack = SeparableStack(dim, c.duration_kernel_size, c.duration_layers, 0.0, rngs=rngs)
        self.out = Conv1d(dim, 3 * c.spline_bins - 1, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.out.bias = nnx.Param(jnp.zeros((3 * c.spline_bins - 1,)))

    def __call__(
        self, x: jax.Array, mask: jax.Array, cond: jax.Array, *, inverse: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """x [B, S, 2], mask [B, S], cond [B, S, H] -> the same, zero in the padding, and log_det [B]."""
        x0, x1 = jnp.split(x, 2, axis=-1)
        h = masked_fill(self.out(self.stack(self.start(x0), mask, cond)), mask)
        widths, heights, slopes = jnp.split(h[..., None, :], (self.bins, 2 * self.bins), axis=-1)
        y1, log_det = rational_quadratic_spline(
            x1, widths * self.scale, heights * self.scale, slopes, bound=self.bound, inverse=inverse
        )
        return masked_fill(jnp.concatenate([x0, y1], axis=-1), mask), _sum(log_det, mask)


class SeparableStack(nnx.Module):
    """Dilated depthwise convolutions and 1x1 ones, each with layer norm and GELU, and a residual (appendix B.5)."""

    def __init__(self, channels: int, kernel_size: int, num_layers: int, dropout: float, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.depthwise = nnx.List(
            [
                Conv1d(channels, channels, kernel_size, groups=channels, dilation=kernel_size**i, rngs=rngs)
                for i in range(num_layers)
            ]
        )
        self.pointwise = nnx.List([Conv1d(channels, channels, rngs=rngs) for _ in range(num_layers)])
        self.depthwise_norms = nnx.List([LayerNorm(channels) for _ in range(num_layers)])
        self.pointwise_norms = nnx.List([LayerNorm(channels) for _ in range(num_layers)])

    def __call__(
        self, x: jax.Array, mask: jax.Array, cond: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, S, H], mask [B, S], cond [B, S, H] to be added -> [B, S, H], zero in the padding."""
        x = x if cond is None else x + cond
        layers = zip(self.depthwise, self.depthwise_norms, self.pointwise, self.pointwise_norms)
        for (spread, spread_norm, mix, mix_norm), k in zip(layers, split_key(key, len(self.depthwise))):
            y = jax.nn.gelu(spread_norm(spread(masked_fill(x, mask))), approximate=False)
            y = jax.nn.gelu(mix_norm(mix(y)), approximate=False)
            x = x + dropout(y, self.dropout, k)
        return masked_fill(x, mask)


def slices(x: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """x [B, N, ...], starts [B] -> [B, length, ...]: a piece of each item, zeros behind N."""
    x = jnp.pad(x, ((0, 0), (0, max(0, length - x.shape[1])), *[(0, 0)] * (x.ndim - 2)))
    return jax.vmap(lambda item, start: jax.lax.dynamic_slice_in_dim(item, start, length))(x, starts)


def _sum(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, S, C] -> [B], over what the mask [B, S] keeps."""
    return jnp.sum(masked_fill(x, mask), axis=(1, 2))
