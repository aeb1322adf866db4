"""Glow-TTS: a generative flow for text-to-speech via monotonic alignment search (arXiv 2005.11129).

Matches jaywalnut310/glow-tts@13e9976 and, with `Config.coqui`, the GlowTTS of coqui-tts 0.28, to which the paper's
relative positions are foreign and durations are log(1 + frames). Deliberate differences: channels last; a symbol
always speaks for at least one frame; in a batch a padded symbol never does (coqui-tts counts one frame for each, so
there an item's output depends on its neighbours); the noise of an item does not depend on the batch or its padding;
log|det| in place of log(det), which cannot become NaN when a mixing matrix turns over.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.alignment import (
    expand,
    gaussian_log_likelihood,
    monotonic_alignment_search,
    path_from_durations,
)
from jaxtts.nn.attention import TransformerEncoder
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.flow import ActNorm, AffineCoupling, GroupedInvertibleConv, squeeze, unsqueeze
from jaxtts.nn.functional import check_dtype, dropout, item_noise, remat, split_key
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.normalization import LayerNorm

EPS = 1e-4  # of every layer norm here


@dataclass(frozen=True)
class Config:
    """The paper's model by default (table 3 and configs/base.json of the reference).

    Attributes:
        num_symbols: size of the text alphabet.
        num_mels: bins of the mel spectrogram, M.
        encoder: 'transformer', or 'gated_conv' (coqui-tts), which has no prenet.
        attention_window: reach of the relative positions, None for none.
        prenet: three convolutions before the Transformer.
        duration_offset: log durations are log(duration_offset + frames).
        mean_only: the prior's standard deviation is 1.
        num_squeeze: frames that the flow sees as one.
        num_splits: channels that each small mixing matrix takes.
        num_speakers: above 1, `speaker` holds ids [B]; else, with speaker_dim > 0, embeddings [B, speaker_dim].
        weight_norm: False once the gains are folded into the kernels.
        inverse_only: the mixing matrices are stored inverted (`functional.store_inverse`); such a model only speaks.
        dtype: of the networks; the flow's variables, likelihoods and the alignment are float32 in any case.
        remat: in training, keep of each encoder layer and flow block its input alone and compute the rest again.
    """

    num_symbols: int = 148
    num_mels: int = 80
    encoder: str = "transformer"
    encoder_dim: int = 192
    encoder_layers: int = 6
    encoder_heads: int = 2
    encoder_ffn_dim: int = 768
    encoder_kernel_size: int = 3
    encoder_dropout: float = 0.1
    attention_window: int | None = 4
    prenet: bool = True
    duration_dim: int = 256
    duration_kernel_size: int = 3
    duration_dropout: float = 0.1
    duration_offset: float = 1e-8
    mean_only: bool = True
    decoder_dim: int = 192
    decoder_blocks: int = 12
    decoder_layers: int = 4
    decoder_kernel_size: int = 5
    decoder_dilation: int = 1
    decoder_dropout: float = 0.05
    num_squeeze: int = 2
    num_splits: int = 4
    sigmoid_scale: bool = False
    num_speakers: int = 1
    speaker_dim: int = 0
    weight_norm: bool = True
    inverse_only: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        if self.encoder not in ("transformer", "gated_conv"):
            raise ValueError(f"encoder={self.encoder!r}: use 'transformer' or 'gated_conv'")
        if self.num_speakers > 1 and self.speaker_dim <= 0:
            raise ValueError(f"num_speakers={self.num_speakers} needs speaker_dim > 0, not {self.speaker_dim}")
        check_dtype(self.dtype)

    @property
    def receptive_field(self) -> int:
        """Frames of the latent on each side that decide a frame of the mel that `infer` makes."""
        layers = sum(self.decoder_dilation**i for i in range(self.decoder_layers))
        return self.num_squeeze * (self.decoder_blocks * (self.decoder_kernel_size // 2) * layers + 1) - 1

    @classmethod
    def coqui(cls, **changes: Any) -> "Config":
        """The default GlowTTSConfig of coqui-tts 0.28."""
        return cls(**({"num_symbols": 67, "attention_window": None, "duration_offset": 1.0} | changes))

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """A few thousand parameters, for tests."""
        small: dict[str, Any] = dict(
            num_symbols=12,
            num_mels=8,
            encoder_dim=16,
            encoder_layers=1,
            encoder_ffn_dim=16,
            duration_dim=8,
            decoder_dim=8,
            decoder_blocks=2,
            decoder_layers=2,
            decoder_kernel_size=3,
        )
        return cls(**(small | changes))


class Prior(NamedTuple):
    """What the text says: mean, log_scale [B, S, M] of each symbol's frames, log_durations [B, S], mask [B, S]."""

    mean: jax.Array
    log_scale: jax.Array
    log_durations: jax.Array
    mask: jax.Array


class Output(NamedTuple):
    """The training forward pass, frames cut to a multiple of num_squeeze.

    Attributes:
        z: latent [B, T, M]; mean, log_scale: its prior along the alignment [B, T, M]. All zero in the padding.
        log_det: log-determinant of the flow [B].
        durations: of the alignment, int32 [B, S].
        target_log_durations: log(duration_offset + durations) [B, S], zero in the padding.
        prior: the text side.
        mel_lengths: frames used, [B].
    """

    z: jax.Array
    mean: jax.Array
    log_scale: jax.Array
    log_det: jax.Array
    durations: jax.Array
    target_log_durations: jax.Array
    prior: Prior
    mel_lengths: jax.Array


class Model(nnx.Module):
    """Text encoder, duration predictor and flow decoder (arXiv 2005.11129 figure 2)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.duration_predictor = DurationPredictor(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        if config.num_speakers > 1:
            shape = (config.num_speakers, config.speaker_dim)
            self.speaker_embedding = nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-0.1, maxval=0.1))

    def __call__(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        mel: jax.Array,
        mel_lengths: jax.Array,
        *,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """Mel to latent, and the alignment under which the text explains it best.

        Args:
            text: [B, S]; text_lengths: [B]. mel: [B, T, M]; mel_lengths: [B]. The padding may hold anything.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: for dropout; None is deterministic.
        """
        keys = split_key(key, 2)
        cond = self.speaker(speaker)
        prior = self.prior(text, text_lengths, cond, key=keys[0])
        factor = self.config.num_squeeze
        mel, mel_lengths = mel[:, : mel.shape[1] // factor * factor], mel_lengths // factor * factor
        frames = mel.shape[1]
        z, log_det = self.decoder.forward(mel, sequence_mask(mel_lengths, frames), cond, key=keys[1])
        scores = gaussian_log_likelihood(z, prior.mean, None if self.config.mean_only else prior.log_scale)
        durations = monotonic_alignment_search(scores, text_lengths, mel_lengths)
        target = jnp.where(prior.mask, jnp.log(self.config.duration_offset + durations), 0.0)
        mean, log_scale = self.expand(prior, durations, frames)
        return Output(z, mean, log_scale, log_det, durations, target, prior, mel_lengths)

    def teacher_forced(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        mel: jax.Array,
        mel_lengths: jax.Array,
        *,
        speaker: jax.Array | None = None,
    ) -> jax.Array:
        """What the model would have said in a recording's own rhythm: the prior's mean along the alignment.

        Args: as `__call__`; a last frame that fills no group of num_squeeze is said again until it does.

        Returns:
            [B, T, M], zero behind the lengths.
        """
        frames, factor = mel.shape[1], self.config.num_squeeze
        place = jnp.minimum(jnp.arange(-(-frames // factor) * factor), mel_lengths[:, None] - 1)
        mel = jnp.take_along_axis(mel, jnp.maximum(place, 0)[..., None], axis=1)
        lengths = -(-mel_lengths // factor) * factor
        output = self(text, text_lengths, mel, lengths, speaker=speaker)
        made = self.decoder.inverse(output.mean, sequence_mask(lengths, mel.shape[1]), self.speaker(speaker))
        return masked_fill(made[:, :frames], sequence_mask(mel_lengths, frames))

    def infer(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        *,
        max_frames: int,
        noise_scale: float | jax.Array = 0.667,
        length_scale: float | jax.Array = 1.0,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Speaks.

        Args:
            text: [B, S]; text_lengths: [B].
            max_frames: frames to make room for, a multiple of num_squeeze; longer speech is cut off.
            noise_scale: the temperature, a scalar or [B].
            length_scale: above 1 is slower, a scalar, [B], or [B, S] symbol by symbol.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: draws the noise, item by item; None, with no `noise`, speaks the prior's mean.
            noise: standard normal [B, max_frames, M] in place of a drawn one.

        Returns:
            mel [B, max_frames, M], zero past the end; its lengths [B]; alignment [B, max_frames, S].

        Raises:
            ValueError: max_frames is not a multiple of num_squeeze.
        """
        factor = self.config.num_squeeze
        if max_frames % factor:
            raise ValueError(f"max_frames={max_frames} must be a multiple of num_squeeze={factor}")
        cond = self.speaker(speaker)
        prior = self.prior(text, text_lengths, cond)
        durations = self.durations(prior, length_scale)
        lengths = jnp.minimum(jnp.sum(durations, axis=1), max_frames) // factor * factor
        mask = sequence_mask(lengths, max_frames)
        z, log_scale = self.expand(prior, durations, max_frames)
        if noise is None and key is not None:
            noise = item_noise(key, z.shape)
        if noise is not None:
            z = z + jnp.exp(log_scale) * noise * jnp.reshape(noise_scale, (-1, 1, 1))
        mel = self.decoder.inverse(z, mask, cond)
        return mel, lengths, path_from_durations(durations, max_frames) * mask[..., None]

    def speaker(self, speaker: jax.Array | None) -> jax.Array | None:
        """Ids [B] or embeddings [B, G] -> embeddings of length 1 [B, 1, G]; None for a model of one speaker.

        Raises:
            ValueError: the model needs a speaker and got none.
        """
        if not self.config.speaker_dim:
            return None
        if speaker is None:
            raise ValueError(f"speaker is missing: this model has num_speakers={self.config.num_speakers}")
        x = self.speaker_embedding[...][speaker] if self.config.num_speakers > 1 else speaker
        norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
        return (x / norm)[:, None, :]

    def prior(
        self, text: jax.Array, text_lengths: jax.Array, cond: jax.Array | None, *, key: jax.Array | None = None
    ) -> Prior:
        """text [B, S], cond [B, 1, G] or None -> the prior; gradients of the durations do not reach the encoder."""
        keys = split_key(key, 2)
        mask = sequence_mask(text_lengths, text.shape[1])
        hidden = self.encoder(text, mask, key=keys[0])
        mean, log_scale = self.encoder.project(hidden, mask)
        log_durations = self.duration_predictor(jax.lax.stop_gradient(hidden), mask, cond, key=keys[1])
        return Prior(mean, log_scale, log_durations, mask)

    def durations(self, prior: Prior, length_scale: float | jax.Array = 1.0) -> jax.Array:
        """Predicted frames of each symbol, int32 [B, S]: at least 1, and 0 in the padding."""
        scale = length_scale if jnp.ndim(length_scale) == 2 else jnp.reshape(length_scale, (-1, 1))
        frames = (jnp.exp(prior.log_durations) - self.config.duration_offset) * scale
        frames = jnp.clip(jnp.ceil(frames), 1, 2**16).astype(jnp.int32)
        return jnp.where(prior.mask, frames, 0)

    def expand(self, prior: Prior, durations: jax.Array, max_frames: int) -> tuple[jax.Array, jax.Array]:
        """The prior's mean and log_scale along the alignment, [B, T, M]."""
        mean = expand(prior.mean, durations, max_frames)
        return mean, jnp.zeros_like(mean) if self.config.mean_only else expand(prior.log_scale, durations, max_frames)


class Encoder(nnx.Module):
    """Symbols -> hidden states, and their projection to the prior (appendix A.1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.mean_only, self.dtype, dim = c.mean_only, c.dtype, c.encoder_dim
        self.embedding = nnx.Param(dim**-0.5 * jax.random.normal(rngs.params(), (c.num_symbols, dim)))
        if c.encoder == "transformer":
            if c.prenet:
                self.prenet = Prenet(dim, rngs=rngs)
            self.body = TransformerEncoder(
                dim,
                c.encoder_ffn_dim,
                c.encoder_heads,
                c.encoder_layers,
                c.encoder_kernel_size,
                window=c.attention_window,
                dropout=c.encoder_dropout,
                eps=EPS,
                remat=c.remat,
                rngs=rngs,
            )
        else:
            self.body = GatedConvEncoder(
                dim, c.encoder_layers, c.encoder_kernel_size, dropout=c.encoder_dropout, rngs=rngs
            )
        self.mean = Conv1d(dim, c.num_mels, rngs=rngs)
        if not c.mean_only:
            self.log_scale = Conv1d(dim, c.num_mels, rngs=rngs)

    def __call__(self, text: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """text [B, S], mask [B, S] -> hidden states [B, S, C], zero in the padding."""
        keys = split_key(key, 2)
        x = self.embedding[...].astype(self.dtype)[jnp.where(mask, text, 0)]  # [B, S, C]
        x = masked_fill(x * math.sqrt(x.shape[-1]), mask)
        if hasattr(self, "prenet"):
            x = self.prenet(x, mask, key=keys[0])
        return self.body(x, mask, key=keys[1])

    def project(self, hidden: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """hidden [B, S, C] -> mean, log_scale [B, S, M], float32, zero in the padding."""
        mean = masked_fill(self.mean(hidden).astype(jnp.float32), mask)
        if self.mean_only:
            return mean, jnp.zeros_like(mean)
        return mean, masked_fill(self.log_scale(hidden).astype(jnp.float32), mask)


class Prenet(nnx.Module):
    """Three convolutions with layer norm, added to the input through a projection that starts at zero."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List([Conv1d(channels, channels, 5, rngs=rngs) for _ in range(3)])
        self.norms = nnx.List([LayerNorm(channels, eps=EPS) for _ in range(3)])
        self.out = Conv1d(channels, channels, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.out.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], zero in the padding, mask [B, S] -> the same."""
        y = x
        for conv, norm, k in zip(self.convs, self.norms, split_key(key, 3)):
            y = masked_fill(dropout(jax.nn.relu(norm(conv(y))), 0.5, k), mask)
        return masked_fill(x + self.out(y), mask)


class GatedConvEncoder(nnx.Module):
    """Residual gated convolutions (arXiv 1612.08083), the fast encoder of coqui-tts."""

    def __init__(self, channels: int, num_layers: int, kernel_size: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.convs = nnx.List([Conv1d(channels, 2 * channels, kernel_size, rngs=rngs) for _ in range(num_layers)])
        self.norms = nnx.List([LayerNorm(2 * channels, eps=EPS) for _ in range(num_layers)])

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], zero in the padding, mask [B, S] -> the same."""
        for conv, norm, k in zip(self.convs, self.norms, split_key(key, len(self.convs))):
            y, gate = jnp.split(norm(conv(dropout(x, self.dropout, k))), 2, axis=-1)
            x = masked_fill(x + y * jax.nn.sigmoid(gate), mask)
        return x


class DurationPredictor(nnx.Module):
    """Two convolutions and a projection to log durations."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width, kernel = config.duration_dim, config.duration_kernel_size
        self.dropout = config.duration_dropout
        self.convs = nnx.List(
            [
                Conv1d(config.encoder_dim + config.speaker_dim, width, kernel, rngs=rngs),
                Conv1d(width, width, kernel, rngs=rngs),
            ]
        )
        self.norms = nnx.List([LayerNorm(width, eps=EPS) for _ in range(2)])
        self.out = Conv1d(width, 1, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, cond: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, S, C], mask [B, S], cond [B, 1, G] -> float32 [B, S], zero in the padding."""
        if cond is not None:
            cond = jnp.broadcast_to(cond.astype(x.dtype), (*x.shape[:2], cond.shape[-1]))
            x = jnp.concatenate([x, cond], axis=-1)
        for conv, norm, k in zip(self.convs, self.norms, split_key(key, 2)):
            x = dropout(norm(jax.nn.relu(conv(masked_fill(x, mask)))), self.dropout, k)
        return masked_fill(self.out(x).astype(jnp.float32), mask)[..., 0]


class Decoder(nnx.Module):
    """The flow: squeeze, blocks of ActNorm, channel mixing and affine coupling, unsqueeze."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.num_squeeze, self.remat = config.num_squeeze, config.remat
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.decoder_blocks)])

    def forward(
        self, mel: jax.Array, mask: jax.Array, cond: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """mel [B, T, M], mask [B, T] -> z [B, T, M], zero in the padding, log_det [B]; T cut to whole groups."""
        x, mask = squeeze(mel.astype(jnp.float32), mask, self.num_squeeze)
        log_det = jnp.zeros((mel.shape[0],))
        for block, k in zip(self.blocks, split_key(key, len(self.blocks))):
            x, more = remat(block.forward, self.remat)(x, mask, cond, key=k)
            log_det = log_det + more
        return unsqueeze(x, mask, self.num_squeeze)[0], log_det

    def inverse(self, z: jax.Array, mask: jax.Array, cond: jax.Array | None = None) -> jax.Array:
        """z [B, T, M], mask [B, T] -> mel [B, T, M], zero in the padding."""
        x, mask = squeeze(z, mask, self.num_squeeze)
        for block in reversed(self.blocks):
            for layer in reversed(block.layers()):
                x = layer.inverse(x, mask, cond)
        return unsqueeze(x, mask, self.num_squeeze)[0]

    def initialize(self, mel: jax.Array, mask: jax.Array, cond: jax.Array | None = None) -> None:
        """Sets every ActNorm from this batch (arXiv 1807.03039 sec. 3.1), in place and so outside of jit."""
        x, mask = squeeze(mel.astype(jnp.float32), mask, self.num_squeeze)
        for block in self.blocks:
            block.act_norm.initialize(x, mask)
            for layer in block.layers():
                x, _ = layer.forward(x, mask, cond)


class Block(nnx.Module):
    """ActNorm, channel mixing, affine coupling."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        channels = config.num_mels * config.num_squeeze
        self.act_norm = ActNorm(channels)
        self.mix = GroupedInvertibleConv(channels, config.num_splits, inverse_only=config.inverse_only, rngs=rngs)
        self.coupling = AffineCoupling(
            channels,
            config.decoder_dim,
            config.decoder_kernel_size,
            config.decoder_layers,
            dilation=config.decoder_dilation,
            cond_channels=config.speaker_dim,
            dropout=config.decoder_dropout,
            sigmoid_scale=config.sigmoid_scale,
            weight_norm=config.weight_norm,
            dtype=config.dtype,
            rngs=rngs,
        )

    def forward(self, x, mask, cond=None, *, key=None) -> tuple[jax.Array, jax.Array]:
        """All three, as each of them in `nn.flow`."""
        log_det = jnp.zeros((x.shape[0],))
        for layer in self.layers():
            x, more = layer.forward(x, mask, cond, key=key)
            log_det = log_det + more
        return x, log_det

    def layers(self) -> tuple[ActNorm, GroupedInvertibleConv, AffineCoupling]:
        """In the order of the forward pass."""
        return self.act_norm, self.mix, self.coupling
