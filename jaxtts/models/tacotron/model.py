"""Tacotron: text to mel by attention, several frames a step, and from the mel to a linear spectrogram.

arXiv 1703.10135 as keithito/tacotron has it by default; `Config.coqui` is the Tacotron of coqui-tts 0.28, `Config.rtvc`
the synthesizer of CorentinJ/Real-Time-Voice-Cloning: fatchord's Tacotron, told a speaker's embedding. What differs:

                         keithito            coqui-tts                  Real-Time-Voice-Cloning
    order in the CBHG    ReLU, batch norm    batch norm, ReLU           ReLU, batch norm
    max pooling          yes                 no                         yes
    even kernels look    ahead               ahead                      back, as does the pooling
    attention            content             last and summed weights,   summed weights
                                             a share of sigmoids
    residual cells       GRU                 GRU                        LSTM with zoneout
    decision to stop     none                state and frames           state and context
    a step is told       last frame          last or several frames     last frame
    post-net makes       linear              linear                     the mel that is spoken
    dropout when spoken  none                pre-net of the decoder,    both pre-nets
                                             if so configured

Deliberate differences: channels last; keithito's, which cannot stop by itself, gets coqui-tts's stop layer; the GRU is
torch's, whose reset gate acts behind the recurrent product (TensorFlow's acts ahead of it); what lies behind the end of
a text or mel is masked everywhere (convolutions, pooling, batch statistics, GRUs, attention), so that an item's output
depends neither on its padding nor on its batch, and each item stops by itself; there is no dropout ahead of the stop
layer, whose gradient ends at its input.

Teacher-forced, what does not depend on the attention leaves the loop over the steps: the pre-net and its part of the
attention GRU ahead of it, the residual cells and the projections behind it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.nn.attention import AdditiveAttention, AttentionState, Keys
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import check_dtype, remat, split_key
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.normalization import BatchNorm
from jaxtts.nn.prenet import Prenet
from jaxtts.nn.recurrent import Bidirectional, Cell, GRUCell, LSTMCell, product, run

Statistics = dict[str, Any]  # batch norm's running statistics, in the form of TrainState.rest
CELLS: dict[str, type[Cell]] = {"gru": GRUCell, "lstm": LSTMCell}


@dataclass(frozen=True)
class Config:
    """The paper's model by default (table 1; the mel spec is keithito's).

    Attributes:
        num_symbols: size of the text alphabet.
        mel: the frames of the decoder; its STFT's magnitudes, in the same scale, are the linear spectrogram.
        reduction_factor: frames made in one step, R.
        max_reduction_factor: frames that the projection has room for, if its training began with more; 0: R.
        encoder_prenet, decoder_prenet: widths of the pre-nets' layers.
        prenet_dropout: of both, in training.
        spoken_dropout: pre-nets that keep their dropout in `infer`: of 'encoder' and 'decoder'.
        encoder_bank, encoder_dim, encoder_rnn_dim: of the encoder's CBHG: number of convolutions in its bank, width,
            width of each direction of its GRU.
        post_bank, post_dim, post_projection_dim, post_rnn_dim: of the post-net's, with the width of its first
            projection; the second has the mel's.
        num_highways: layers in each.
        norm_first, norm_eps, max_pool, cbhg_bias: order of batch norm and ReLU, and so on.
        even_taps: whether even kernels and the pooling look one further 'ahead' or 'back'.
        attention_rnn_dim, attention_dim: of the attention GRU and of the space that it compares in.
        location, attention_norm, transition, agent: see `nn.attention.AdditiveAttention`.
        attention_biases: of 'query', 'score', 'location'.
        told_frames: that each step is told of those made, the last step's first; 0: the last frame alone.
        decoder_dim, decoder_cell, zoneout: width of the two residual cells, 'gru' or 'lstm', and the share of their
            state that keeps its value in training.
        stop_input: what the stop layer reads beside the decoder's state: 'frames' or 'context'.
        projection_bias: whether the projections to frames and from the post-net have one.
        post: 'linear', the post-net makes the linear spectrogram; 'mel', it makes the mel that `infer` returns.
        stop_threshold: of the probability to stop.
        stop_at_end: weight on the last symbol above which speech ends too; 0 for never.
        stop_steps_per_symbol, stop_frames: speech goes on for more than so many steps, and from so many frames on it
            may end.
        trim_below: frames at the end whose values are all below this are cut off where an item stopped (`post='mel'`);
            None for none.
        stop_weight: of the step that stops in the loss of the gate; there is one among hundreds.
        guided_attention_weight: above 0 adds the loss of arXiv 1710.08969 (eq. 9), for alignments that form sooner.
        num_speakers: above 1, `speaker` holds ids [B]; else, with speaker_dim > 0, embeddings [B, speaker_dim]. They
            are put beside each state of the encoder.
        dtype: of the networks; attention weights, spectrograms and losses are float32 in any case.
        remat: in training, keep of each step the attention's state alone, of each CBHG and residual layer its input,
            and compute the rest again.
    """

    num_symbols: int = 66
    mel: MelSpec = mel_spec("tacotron")
    reduction_factor: int = 2
    max_reduction_factor: int = 0
    embedding_dim: int = 256
    encoder_prenet: tuple[int, ...] = (256, 128)
    decoder_prenet: tuple[int, ...] = (256, 128)
    prenet_dropout: float = 0.5
    spoken_dropout: tuple[str, ...] = ()
    encoder_bank: int = 16
    encoder_dim: int = 128
    encoder_rnn_dim: int = 128
    post_bank: int = 8
    post_dim: int = 128
    post_projection_dim: int = 256
    post_rnn_dim: int = 128
    num_highways: int = 4
    norm_first: bool = False
    norm_eps: float = 1e-3
    max_pool: bool = True
    even_taps: str = "ahead"
    cbhg_bias: bool = True
    attention_rnn_dim: int = 256
    attention_dim: int = 256
    location: int = 0
    attention_norm: str = "softmax"
    transition: str | None = None
    agent: bool = False
    attention_biases: tuple[str, ...] = ()
    told_frames: int = 0
    decoder_dim: int = 256
    decoder_cell: str = "gru"
    zoneout: float = 0.0
    stop_input: str = "frames"
    projection_bias: bool = True
    post: str = "linear"
    stop_threshold: float = 0.5
    stop_at_end: float = 0.0
    stop_steps_per_symbol: float = 0.0
    stop_frames: int = 0
    trim_below: float | None = None
    stop_weight: float = 1.0
    guided_attention_weight: float = 0.0
    num_speakers: int = 1
    speaker_dim: int = 0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        choices = {
            "post": ("linear", "mel"),
            "stop_input": ("frames", "context"),
            "even_taps": ("ahead", "back"),
            "decoder_cell": tuple(CELLS),
            "location": (0, 1, 2),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: use {' or '.join(map(repr, known))}")
        several = {"attention_biases": ("query", "score", "location"), "spoken_dropout": ("encoder", "decoder")}
        for name, known in several.items():
            if unknown := set(getattr(self, name)) - set(known):
                raise ValueError(f"{name} has {min(unknown)!r}: use some of {', '.join(map(repr, known))}")
        if self.reduction_factor < 1:
            raise ValueError(f"reduction_factor={self.reduction_factor}: give at least 1")
        if self.max_reduction_factor and self.max_reduction_factor < self.reduction_factor:
            raise ValueError(
                f"max_reduction_factor={self.max_reduction_factor} is less than reduction_factor="
                f"{self.reduction_factor}: give 0 or more than that"
            )
        if self.num_speakers > 1 and self.speaker_dim <= 0:
            raise ValueError(f"num_speakers={self.num_speakers} needs speaker_dim > 0, not {self.speaker_dim}")
        check_dtype(self.dtype)

    @property
    def num_mels(self) -> int:
        """Bins of a mel frame, M."""
        return self.mel.num_bins

    @property
    def linear(self) -> MelSpec:
        """What the frames of the linear spectrogram mean."""
        return self.mel.replace(name=f"{self.mel.name}_linear", num_mels=None)

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame of what `infer` makes, once the decoder has made them.

        With `post='mel'` a GRU reads them all; further away than this they hardly count.
        """
        return 0 if self.post == "linear" else 256

    @property
    def memory_dim(self) -> int:
        """Width of what the attention reads: the encoder's states and the speaker's embedding."""
        return 2 * self.encoder_rnn_dim + self.speaker_dim

    @classmethod
    def coqui(cls, **changes: Any) -> "Config":
        """The default TacotronConfig of coqui-tts 0.28."""
        mel = MelSpec("coqui_tacotron", 22050, 1024, 256, 1024, 80, padding="center", log="db", ref_db=20.0,
                      value_range=(-4.0, 4.0))  # fmt: skip
        theirs: dict[str, Any] = dict(
            num_symbols=67, mel=mel, norm_first=True, max_pool=False, cbhg_bias=False, attention_dim=128, location=2,
            attention_norm="sigmoid", attention_biases=("score",), stop_threshold=0.6, stop_at_end=0.6,
            stop_steps_per_symbol=0.25,
        )  # fmt: skip
        return cls(**(theirs | changes))

    @classmethod
    def rtvc(cls, **changes: Any) -> "Config":
        """The synthesizer of CorentinJ/Real-Time-Voice-Cloning (synthesizer/hparams.py)."""
        theirs: dict[str, Any] = dict(
            num_symbols=66, mel=mel_spec("rtvc"), max_reduction_factor=20, embedding_dim=512,
            encoder_prenet=(256, 256), decoder_prenet=(256, 256), spoken_dropout=("encoder", "decoder"),
            encoder_bank=5, encoder_dim=256, encoder_rnn_dim=128, post_bank=5, post_dim=512, post_projection_dim=512,
            post_rnn_dim=256, norm_eps=1e-5, even_taps="back", cbhg_bias=False, attention_rnn_dim=128,
            attention_dim=128, location=1, attention_biases=("query", "location"), decoder_dim=1024,
            decoder_cell="lstm", zoneout=0.1, stop_input="context", projection_bias=False, post="mel", stop_frames=11,
            trim_below=-3.4, speaker_dim=256,
        )  # fmt: skip
        return cls(**(theirs | changes))

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """A few thousand parameters, for tests."""
        mel = MelSpec("tiny", 8000, 64, 16, 64, 8, log="db", ref_db=20.0, value_range=(0.0, 1.0))
        small: dict[str, Any] = dict(
            num_symbols=12, mel=mel, reduction_factor=4, embedding_dim=16, encoder_prenet=(16, 12),
            decoder_prenet=(24, 24), prenet_dropout=0.1, spoken_dropout=("encoder", "decoder"), encoder_bank=2,
            encoder_dim=12, encoder_rnn_dim=8, post_bank=2, post_dim=8, post_projection_dim=12, post_rnn_dim=8,
            num_highways=1, attention_rnn_dim=24, attention_dim=8, decoder_dim=96,
        )  # fmt: skip
        return cls(**(small | changes))


class Memory(NamedTuple):
    """What the attention reads: the encoded text [B, S, C], its keys and its mask [B, S]."""

    values: jax.Array
    keys: Keys
    mask: jax.Array


class Focus(NamedTuple):
    """The attention between two steps: its GRU's state [B, A], its own and the context [B, C]."""

    rnn: Any
    attention: AttentionState
    context: jax.Array


class Carry(NamedTuple):
    """The decoder between two steps: attention, residual cells, and the frames it is told [B, Q * M]."""

    focus: Focus
    rnns: list[Any]
    told: jax.Array


class Output(NamedTuple):
    """The teacher-forced pass; T is a multiple of R, and all is zero in the padding but the stop logits.

    Attributes:
        mel: of the decoder [B, T, M].
        post: of the post-net [B, T, F], linear or mel.
        stop: logits, one a step [B, T / R].
        alignment: [B, T / R, S].
        statistics: batch norm's running statistics after this batch.
    """

    mel: jax.Array
    post: jax.Array
    stop: jax.Array
    alignment: jax.Array
    statistics: Statistics


class Model(nnx.Module):
    """Encoder, attention decoder, post-net (arXiv 1703.10135 figure 1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.postnet = PostNet(config, rngs=rngs)
        if config.num_speakers > 1:
            shape = (config.num_speakers, config.speaker_dim)
            self.speaker_embedding = nnx.Param(0.3 * jax.random.normal(rngs.params(), shape))

    def __call__(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        mel: jax.Array,
        mel_lengths: jax.Array,
        *,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Output:
        """Each step's frames from those before them in the recording.

        Args:
            text: [B, S]; text_lengths: [B]. mel: [B, T, M]; mel_lengths: [B]. The padding may hold anything.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: for the dropout of the pre-nets that `Config.spoken_dropout` names and, in training, of both and for
                zoneout; None is deterministic.
            train: normalise by the statistics of this batch.

        Returns:
            Frames up to the next multiple of R.
        """
        used = [train or net in self.config.spoken_dropout for net in ("encoder", "decoder")]
        keys = [k if use else None for k, use in zip(split_key(key, 3), [*used, train])]
        factor = self.config.reduction_factor
        steps = -(-mel.shape[1] // factor)
        mask = sequence_mask(mel_lengths, steps * factor)
        mel = masked_fill(jnp.pad(mel, ((0, 0), (0, steps * factor - mel.shape[1]), (0, 0))), mask)
        memory, of_encoder = self.encode(text, text_lengths, speaker, key=keys[0], train=train)
        made, stop, alignment = self.decoder(
            mel, mask, memory, prenet_key=keys[1], zoneout_key=keys[2] if train else None
        )
        made = masked_fill(made, mask)
        post, of_postnet = self.postnet(made, mask, train=train)
        alignment = masked_fill(alignment, mask[:, ::factor])
        return Output(made, masked_fill(post, mask), stop, alignment, {"encoder": of_encoder, "postnet": of_postnet})

    def teacher_forced(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        mel: jax.Array,
        mel_lengths: jax.Array,
        *,
        speaker: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The mel that `__call__` makes of a recording's, as `infer` gives it [B, T, M]; key: of the pre-nets."""
        output = self(text, text_lengths, mel, mel_lengths, speaker=speaker, key=key)
        return (output.mel if self.config.post == "linear" else output.post)[:, : mel.shape[1]]

    def infer(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        *,
        max_frames: int,
        seeds: jax.Array | None = None,
        speaker: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Speaks, until each item stops by itself or at max_frames.

        Args:
            text: [B, S]; text_lengths: [B].
            seeds: of the dropout of the pre-nets that `Config.spoken_dropout` names, uint32 [B]; None for none.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.

        Returns:
            mel [B, max_frames, M] as a vocoder reads it, zero past the end; its lengths [B], max_frames where the item
            did not stop before; alignment [B, max_frames, S].
        """
        memory, _ = self.encode(text, text_lengths, speaker, seeds=seeds)
        mel, lengths, alignment = self.decoder.infer(memory, text_lengths, max_frames, seeds)
        if self.config.post == "mel":
            mel = self.postprocess(mel, lengths)
            if self.config.trim_below is not None:
                loud = jnp.max(mel, axis=2) >= self.config.trim_below  # [B, T]
                last = jnp.max(jnp.where(loud & sequence_mask(lengths, max_frames), jnp.arange(max_frames), 0), axis=1)
                lengths = jnp.where(lengths < max_frames, last + 1, lengths)
                mask = sequence_mask(lengths, max_frames)
                mel, alignment = masked_fill(mel, mask), masked_fill(alignment, mask)
        return mel, lengths, alignment

    def postprocess(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """The decoder's mel [B, T, M], lengths [B] -> what the post-net makes of it [B, T, F], zero in the padding.

        With `Config.post` 'linear' the frames of the linear spectrogram `Config.linear`.
        """
        mask = sequence_mask(lengths, mel.shape[1])
        return masked_fill(self.postnet(mel, mask)[0], mask)

    def encode(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        speaker: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        seeds: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Memory, Statistics]:
        """text [B, S] -> what the attention reads, and batch norm's statistics.

        Raises:
            ValueError: the model needs a speaker and got none.
        """
        mask = sequence_mask(text_lengths, text.shape[1])
        values, statistics = self.encoder(text, mask, key=key, seeds=seeds, train=train)
        if self.config.speaker_dim:
            if speaker is None:
                raise ValueError(f"speaker is missing: this model has num_speakers={self.config.num_speakers}")
            who = self.speaker_embedding[...][speaker] if self.config.num_speakers > 1 else speaker
            who = jnp.broadcast_to(who[:, None].astype(values.dtype), (*text.shape, self.config.speaker_dim))
            values = jnp.concatenate([values, masked_fill(who, mask)], axis=-1)
        return Memory(values, self.decoder.attention.keys(values), mask), statistics


class Encoder(nnx.Module):
    """Embedding, pre-net, CBHG."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        self.embedding = nnx.Param(0.3 * jax.random.normal(rngs.params(), (c.num_symbols, c.embedding_dim)))
        self.prenet = Prenet(c.embedding_dim, c.encoder_prenet, rate=c.prenet_dropout, rngs=rngs)
        self.cbhg = CBHG(
            c, c.encoder_prenet[-1], c.encoder_bank, c.encoder_dim, c.encoder_dim, c.encoder_rnn_dim, rngs=rngs
        )

    def __call__(
        self,
        text: jax.Array,
        mask: jax.Array,
        *,
        key: jax.Array | None = None,
        seeds: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Statistics]:
        """text [B, S], mask [B, S] -> [B, S, 2 * H], zero in the padding, and batch norm's statistics."""
        x = self.embedding[...].astype(self.config.dtype)[jnp.where(mask, text, 0)]
        if seeds is not None and "encoder" in self.config.spoken_dropout:
            step = jax.vmap(self.prenet.step, (1, None, 0), 1)
            x = step(x, ~seeds, jnp.arange(x.shape[1]))  # other draws than the decoder's
        else:
            x = self.prenet(x, key=key)
        x, statistics = self.cbhg(x, mask, train=train)
        return x, {"cbhg": statistics}


class Decoder(nnx.Module):
    """Pre-net, attention, two residual cells, and projections to R frames and to the decision to stop."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        told, room = max(c.told_frames, 1), c.max_reduction_factor or c.reduction_factor
        self.prenet = Prenet(told * c.num_mels, c.decoder_prenet, rate=c.prenet_dropout, rngs=rngs)
        self.attention_rnn = GRUCell(c.decoder_prenet[-1] + c.memory_dim, c.attention_rnn_dim, rngs=rngs)
        self.attention = AdditiveAttention(
            c.attention_rnn_dim,
            c.memory_dim,
            c.attention_dim,
            location=c.location,
            norm=c.attention_norm,
            transition=c.transition,
            agent=c.agent,
            query_bias="query" in c.attention_biases,
            score_bias="score" in c.attention_biases,
            location_bias="location" in c.attention_biases,
            rngs=rngs,
        )
        self.join = Conv1d(c.attention_rnn_dim + c.memory_dim, c.decoder_dim, rngs=rngs)
        self.rnns = nnx.List([CELLS[c.decoder_cell](c.decoder_dim, c.decoder_dim, rngs=rngs) for _ in range(2)])
        self.projection = Conv1d(c.decoder_dim, room * c.num_mels, bias=c.projection_bias, rngs=rngs)
        beside = room * c.num_mels if c.stop_input == "frames" else c.memory_dim
        self.stop = Conv1d(c.decoder_dim + beside, 1, rngs=rngs)

    def __call__(
        self,
        mel: jax.Array,
        mask: jax.Array,
        memory: Memory,
        *,
        prenet_key: jax.Array | None = None,
        zoneout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All steps of a recording: mel [B, T, M], T a multiple of R, mask [B, T] -> frames [B, T, M], the stop's
        logits [B, T / R], alignment [B, T / R, S]."""
        x = self._projected(self.prenet(self._told(mel), key=prenet_key))

        def attend(focus: Focus, projected: jax.Array) -> tuple[Focus, tuple]:
            focus, query = self._attend(focus, projected, memory)
            return focus, (query, focus.context, focus.attention.weights)

        start = self.init_carry(memory).focus
        _, found = jax.lax.scan(remat(attend, self.config.remat), start, x.swapaxes(0, 1))
        queries, contexts, weights = (y.swapaxes(0, 1) for y in found)  # [B, T / R, ...]
        x, steps = self.join(jnp.concatenate([queries, contexts], axis=-1)), mask[:, :: self.config.reduction_factor]
        for cell, key in zip(self.rnns, split_key(zoneout_key, len(self.rnns))):
            x = x + remat(partial(run, cell, zoneout=self.config.zoneout, key=key), self.config.remat)(x, steps)
        made, stop = self._made(x, contexts)
        return made.reshape(mel.shape), stop, weights

    def infer(
        self, memory: Memory, text_lengths: jax.Array, max_frames: int, seeds: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """From what it has made itself: mel [B, max_frames, M], lengths [B], alignment [B, max_frames, S]."""
        c, (batch, symbols) = self.config, memory.mask.shape
        factor, steps = c.reduction_factor, -(-max_frames // c.reduction_factor)
        seeds = seeds if "decoder" in c.spoken_dropout else None
        last = jnp.arange(symbols) == text_lengths[:, None] - 1

        def running(loop: tuple) -> jax.Array:
            step, _, lengths, _, _ = loop
            return (step < steps) & jnp.any(lengths == 0)

        def advance(loop: tuple) -> tuple:
            step, carry, lengths, mels, alignment = loop
            carry, (made, stop) = self.step(carry, self.prenet.step(carry.told, seeds, step), memory)
            weights = carry.focus.attention.weights
            stops = jax.nn.sigmoid(stop) > c.stop_threshold
            if c.stop_at_end:
                stops = stops | (jnp.sum(weights * last, axis=1) > c.stop_at_end)
            stops = stops & (step + 1 > c.stop_steps_per_symbol * text_lengths) & (step * factor >= c.stop_frames)
            lengths = jnp.where((lengths == 0) & stops, (step + 1) * factor, lengths)
            mels = jax.lax.dynamic_update_slice(mels, made[None], (step, 0, 0))
            alignment = jax.lax.dynamic_update_slice(alignment, weights[None], (step, 0, 0))
            return step + 1, carry, lengths, mels, alignment

        start = (
            jnp.zeros((), jnp.int32),
            self.init_carry(memory),
            jnp.zeros(batch, jnp.int32),
            jnp.zeros((steps, batch, factor * c.num_mels)),
            jnp.zeros((steps, batch, symbols)),
        )
        _, _, lengths, mels, alignment = jax.lax.while_loop(running, advance, start)
        lengths = jnp.where(lengths == 0, max_frames, jnp.minimum(lengths, max_frames))
        mask = sequence_mask(lengths, max_frames)
        mel = mels.swapaxes(0, 1).reshape(batch, -1, c.num_mels)[:, :max_frames]
        alignment = jnp.repeat(alignment.swapaxes(0, 1), factor, axis=1)[:, :max_frames]
        return masked_fill(mel, mask), lengths, masked_fill(alignment, mask)

    def init_carry(self, memory: Memory) -> Carry:
        """Ahead of the first step."""
        (batch, symbols, channels), dtype = memory.values.shape, memory.values.dtype
        attention = self.attention.init_state(batch, symbols)
        focus = Focus(self.attention_rnn.init_carry(batch, dtype), attention, jnp.zeros((batch, channels), dtype))
        told = jnp.zeros((batch, max(self.config.told_frames, 1) * self.config.num_mels), dtype)
        return Carry(focus, [cell.init_carry(batch, dtype) for cell in self.rnns], told)

    def step(self, carry: Carry, x: jax.Array, memory: Memory) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
        """The pre-net's output [B, P] -> the next carry, whose attention has this step's weights; frames [B, R * M]
        and the stop's logits [B], float32."""
        focus, query = self._attend(carry.focus, self._projected(x), memory)
        x, rnns = self.join(jnp.concatenate([query, focus.context], axis=-1)), []
        for cell, state in zip(self.rnns, carry.rnns):
            state, hidden = cell.step(state, cell.project(x))
            x, rnns = x + hidden, [*rnns, state]
        made, stop = self._made(x, focus.context)
        news = made if self.config.told_frames else made[:, -self.config.num_mels :]
        told = jnp.concatenate([news.astype(carry.told.dtype), carry.told], axis=1)[:, : carry.told.shape[1]]
        return Carry(focus, rnns, told), (made, stop)

    def _told(self, mel: jax.Array) -> jax.Array:
        """[B, T, M] -> what each step is told of those before it [B, T / R, Q * M], the last step's frames first."""
        batch, frames, bins = mel.shape
        factor, count = self.config.reduction_factor, self.config.told_frames
        made = mel.reshape(batch, frames // factor, factor * bins).astype(self.config.dtype)
        if not count:
            made = made[..., -bins:]
        behind = range(1, -(-max(count, 1) // factor) + 1)
        earlier = [jnp.pad(made, ((0, 0), (n, 0), (0, 0)))[:, : made.shape[1]] for n in behind]
        return jnp.concatenate(earlier, axis=-1)[..., : max(count, 1) * bins]

    def _projected(self, x: jax.Array) -> jax.Array:
        """The pre-net's part of the attention GRU's input product, [..., P] -> [..., 3 * A]."""
        kernel = self.attention_rnn.input_kernel[...][:, : x.shape[-1]]
        return product(x, kernel) + self.attention_rnn.input_bias[...].astype(x.dtype)

    def _attend(self, focus: Focus, projected: jax.Array, memory: Memory) -> tuple[Focus, jax.Array]:
        kernel = self.attention_rnn.input_kernel[...][:, -focus.context.shape[-1] :]
        rnn, query = self.attention_rnn.step(focus.rnn, projected + product(focus.context, kernel))
        attention, context = self.attention.step(focus.attention, query, memory.values, memory.keys, memory.mask)
        return Focus(rnn, attention, context), query

    def _made(self, x: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The state behind the cells [..., D], the context [..., C] -> frames [..., R * M], the stop's logits [...]."""
        made = self.projection(x)
        beside = made if self.config.stop_input == "frames" else context
        stop = self.stop(jax.lax.stop_gradient(jnp.concatenate([x, beside], axis=-1)))[..., 0]
        made = made[..., : self.config.reduction_factor * self.config.num_mels]
        return made.astype(jnp.float32), stop.astype(jnp.float32)


class PostNet(nnx.Module):
    """CBHG and a projection, from the mel to the linear spectrogram or to another mel."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.dtype = c.dtype
        self.cbhg = CBHG(c, c.num_mels, c.post_bank, c.post_dim, c.post_projection_dim, c.post_rnn_dim, rngs=rngs)
        bins = c.linear.num_bins if c.post == "linear" else c.num_mels
        self.out = Conv1d(2 * c.post_rnn_dim, bins, bias=c.projection_bias, rngs=rngs)

    def __call__(self, mel: jax.Array, mask: jax.Array, *, train: bool = False) -> tuple[jax.Array, Statistics]:
        """mel [B, T, M], mask [B, T] -> [B, T, F] in float32, and batch norm's statistics."""
        x, statistics = self.cbhg(mel.astype(self.dtype), mask, train=train)
        return self.out(x).astype(jnp.float32), {"cbhg": statistics}


class CBHG(nnx.Module):
    """Bank of convolutions, highway layers, bidirectional GRU (section 3.1): C channels in, 2 * H out.

    Args:
        bank: convolutions with kernels of 1 to so many taps; dim: width of each and of the highway layers.
        projection_dim: of the first projection; the second has C channels and is added to the input.
    """

    def __init__(
        self, config: Config, channels: int, bank: int, dim: int, projection_dim: int, rnn_dim: int, *, rngs: nnx.Rngs
    ):
        c = config
        self.max_pool, self.ahead, self.remat = c.max_pool, c.even_taps == "ahead", c.remat
        self.bank = nnx.List([NormedConv(c, channels, dim, width, rngs=rngs) for width in range(1, bank + 1)])
        self.projections = nnx.List(
            [
                NormedConv(c, bank * dim, projection_dim, 3, rngs=rngs),
                NormedConv(c, projection_dim, channels, 3, relu=False, rngs=rngs),
            ]
        )
        self.widen = Conv1d(channels, dim, bias=c.cbhg_bias, rngs=rngs) if channels != dim else None
        self.highways = nnx.List([Highway(dim, rngs=rngs) for _ in range(c.num_highways)])
        self.rnn = Bidirectional(GRUCell, dim, rnn_dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool = False) -> tuple[jax.Array, Statistics]:
        """x [B, T, C], mask [B, T] -> [B, T, 2 * H], zero in the padding, and batch norm's statistics."""

        def read(x: jax.Array) -> tuple[jax.Array, Statistics]:
            x = masked_fill(x, mask)
            several, of_bank = zip(*[conv(x, mask, train=train) for conv in self.bank])
            y = jnp.concatenate(several, axis=-1)
            y = self._pooled(y, mask) if self.max_pool else y
            y, of_first = self.projections[0](y, mask, train=train)
            y, of_second = self.projections[1](y, mask, train=train)
            y = y + x if self.widen is None else self.widen(y + x)
            for highway in self.highways:
                y = highway(y)
            statistics = {str(i): s for i, s in enumerate(of_bank)}
            return self.rnn(y, mask), {"bank": statistics, "projections": {"0": of_first, "1": of_second}}

        return remat(read, self.remat)(x)

    def _pooled(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """The larger one of each position and its neighbour, if it has one."""
        part, room = (slice(1, None), (0, 1)) if self.ahead else (slice(None, -1), (1, 0))
        beside, real = jnp.pad(x[:, part], ((0, 0), room, (0, 0))), jnp.pad(mask[:, part], ((0, 0), room))
        return jnp.where(real[..., None], jnp.maximum(x, beside), x)


class NormedConv(nnx.Module):
    """Convolution, ReLU and batch norm, in the order of `Config.norm_first`."""

    def __init__(self, config: Config, in_dim: int, dim: int, width: int, *, relu: bool = True, rngs: nnx.Rngs):
        self.relu, self.norm_first = relu, config.norm_first
        padding = "same" if config.even_taps == "ahead" else width // 2
        self.conv = Conv1d(in_dim, dim, width, padding=padding, bias=config.cbhg_bias, rngs=rngs)
        self.norm = BatchNorm(dim, eps=config.norm_eps)

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool = False) -> tuple[jax.Array, Statistics]:
        """x [B, T, I], mask [B, T] -> [B, T, O], and batch norm's statistics."""
        y = self.conv(masked_fill(x, mask))[:, : x.shape[1]]
        if self.relu and not self.norm_first:
            y = jax.nn.relu(y)
        y, statistics = self.norm(y, mask, train=train)
        if self.relu and self.norm_first:
            y = jax.nn.relu(y)
        return y, {"norm": statistics}


class Highway(nnx.Module):
    """gate * ReLU(linear(x)) + (1 - gate) * x (arXiv 1505.00387)."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.linear, self.gate = Conv1d(dim, dim, rngs=rngs), Conv1d(dim, dim, rngs=rngs)
        assert self.linear.bias is not None and self.gate.bias is not None
        self.linear.bias[...] = jnp.zeros((dim,))
        self.gate.bias[...] = jnp.full((dim,), -1.0)  # it begins by passing on

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> the same."""
        gate = jax.nn.sigmoid(self.gate(x))
        return gate * jax.nn.relu(self.linear(x)) + (1 - gate) * x
