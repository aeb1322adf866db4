"""Tacotron 2: text to mel, frame by frame, by attention (arXiv 1712.05884).

Matches NVIDIA/tacotron2@185cd24; `Config.paper()` has the paper's zoneout and its location layer, which sees the
cumulative weights alone; `Config.coqui()` is the Tacotron 2 of coqui-tts 0.28, whose attention is a share of sigmoids,
which tells each step the last frame alone and decides to stop by the frames in place of the context, with no gradient
beyond. Deliberate differences: channels last; what lies behind a text's or a mel's end is masked
everywhere (convolutions, batch statistics, attention, post-net), so that an item's output depends neither on its
padding nor on the batch; inference is one compiled loop over a batch in which each item stops by itself (the reference
stops the whole batch, so it takes one text at a time); several frames a step are supported.

Teacher-forced, what does not depend on the attention leaves the loop over the frames: the pre-net and its part of the
attention LSTM ahead of it, the decoder LSTM's input product, the projections and the post-net behind it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.attention import TANH_GAIN, AdditiveAttention, AttentionState, Keys, xavier_uniform
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import check_dtype, dropout, remat, split_key
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.normalization import BatchNorm, Statistics
from jaxtts.nn.prenet import Prenet
from jaxtts.nn.recurrent import Bidirectional, LSTMCell, product, recurrence


@dataclass(frozen=True)
class Config:
    """The published model of NVIDIA/tacotron2 by default.

    Attributes:
        num_symbols: size of the text alphabet.
        num_mels: bins of the mel spectrogram, M.
        encoder_dim: of the symbols' embeddings, of each convolution and of the encoder's output; even.
        reduction_factor: frames made in one step, R.
        location: what the attention's location layer sees: 2, the weights of the last step and their sum so far
            (NVIDIA); 1, the sum alone (the paper); 0, nothing.
        transition, agent, attention_norm, score_bias: see `nn.attention.AdditiveAttention`.
        prenet_dropout: by an explicit key or seeds; spoken_dropout: whether it stays on outside training.
        recurrent_dropout: of the decoder's LSTMs: dropout of their outputs (NVIDIA), or with `zoneout` the rate at
            which a state keeps its value (the paper, arXiv 1606.01305).
        max_reduction_factor: frames that the projection has room for, if its training began with more; 0: R.
        last_frame: each step is told the last of the frames made ahead of it, not all R.
        stop_input: what the gate reads beside the decoder's state: 'context', or all 'frames' of the projection.
        stop_threshold: of the probability to stop.
        stop_weight: of the frame that stops in the loss of the gate; there is one among hundreds.
        guided_attention_weight: above 0 adds the loss of arXiv 1710.08969 (eq. 9), for alignments that form sooner.
        num_speakers: above 1, `speaker` holds ids [B]; else, with speaker_dim > 0, embeddings [B, speaker_dim]. They
            are put beside each state of the encoder.
        dtype: of the networks; attention weights, mels and losses are float32 in any case.
        remat: in training, keep of each frame the decoder's state alone, of encoder and post-net their inputs, and
            compute the rest again.
    """

    num_symbols: int = 148
    num_mels: int = 80
    encoder_dim: int = 512
    encoder_layers: int = 3
    encoder_kernel_size: int = 5
    encoder_dropout: float = 0.5
    attention_rnn_dim: int = 1024
    attention_dim: int = 128
    location: int = 2
    location_filters: int = 32
    location_kernel_size: int = 31
    transition: str | None = None
    agent: bool = False
    attention_norm: str = "softmax"
    score_bias: bool = False
    decoder_rnn_dim: int = 1024
    prenet_dim: int = 256
    prenet_dropout: float = 0.5
    spoken_dropout: bool = True
    recurrent_dropout: float = 0.1
    zoneout: bool = False
    reduction_factor: int = 1
    max_reduction_factor: int = 0
    last_frame: bool = False
    stop_input: str = "context"
    postnet_dim: int = 512
    postnet_layers: int = 5
    postnet_kernel_size: int = 5
    postnet_dropout: float = 0.5
    stop_threshold: float = 0.5
    stop_weight: float = 1.0
    guided_attention_weight: float = 0.0
    num_speakers: int = 1
    speaker_dim: int = 0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        if self.encoder_dim % 2:
            raise ValueError(f"encoder_dim={self.encoder_dim} must be even: half of it is each direction's")
        if self.reduction_factor < 1:
            raise ValueError(f"reduction_factor={self.reduction_factor}: give at least 1")
        if self.max_reduction_factor and self.max_reduction_factor < self.reduction_factor:
            raise ValueError(
                f"max_reduction_factor={self.max_reduction_factor} is less than reduction_factor="
                f"{self.reduction_factor}: give 0 or more than that"
            )
        if self.stop_input not in ("context", "frames"):
            raise ValueError(f"stop_input={self.stop_input!r}: use 'context' or 'frames'")
        if self.location not in (0, 1, 2):
            raise ValueError(f"location={self.location}: use 0, 1 or 2")
        if self.num_speakers > 1 and self.speaker_dim <= 0:
            raise ValueError(f"num_speakers={self.num_speakers} needs speaker_dim > 0, not {self.speaker_dim}")
        check_dtype(self.dtype)

    @property
    def memory_dim(self) -> int:
        """Width of what the attention reads: the encoder's states and the speaker's embedding."""
        return self.encoder_dim + self.speaker_dim

    @property
    def told_dim(self) -> int:
        """Width of what each step is told of the frames made ahead of it."""
        return self.num_mels * (1 if self.last_frame else self.reduction_factor)

    @property
    def receptive_field(self) -> int:
        """Frames on each side that decide a frame of what `infer` makes, once the decoder has made them."""
        return self.postnet_layers * (self.postnet_kernel_size // 2)

    @classmethod
    def paper(cls, **changes: Any) -> "Config":
        """Section 2.2: zoneout, and a location layer on the cumulative weights."""
        return cls(**({"zoneout": True, "location": 1} | changes))

    @classmethod
    def coqui(cls, **changes: Any) -> "Config":
        """The default Tacotron2Config of coqui-tts 0.28."""
        theirs: dict[str, Any] = dict(
            num_symbols=67, reduction_factor=2, last_frame=True, attention_norm="sigmoid", score_bias=True,
            spoken_dropout=False, stop_input="frames",
        )  # fmt: skip
        return cls(**(theirs | changes))

    @classmethod
    def tiny(cls, **changes: Any) -> "Config":
        """A few thousand parameters, for tests."""
        small: dict[str, Any] = dict(
            num_symbols=12, num_mels=8, encoder_dim=16, encoder_layers=1, attention_rnn_dim=16, attention_dim=8,
            location_filters=4, location_kernel_size=5, decoder_rnn_dim=16, prenet_dim=16, postnet_dim=8,
            postnet_layers=2, postnet_kernel_size=3, encoder_dropout=0.1, prenet_dropout=0.1, postnet_dropout=0.1,
        )  # fmt: skip
        return cls(**(small | changes))


class Carry(NamedTuple):
    """The decoder between two steps: both LSTMs' states, the attention's and the context [B, C]."""

    attention_rnn: tuple[jax.Array, jax.Array]
    decoder_rnn: tuple[jax.Array, jax.Array]
    attention: AttentionState
    context: jax.Array


class Memory(NamedTuple):
    """What the attention reads: the encoded text [B, S, C], its keys and its mask [B, S]."""

    values: jax.Array
    keys: Keys
    mask: jax.Array


class Output(NamedTuple):
    """The teacher-forced pass; T is a multiple of R, and all is zero in the padding but the stop logits.

    Attributes:
        mel: ahead of the post-net [B, T, M]; refined: behind it.
        stop: logits, one a step [B, T / R].
        alignment: [B, T / R, S].
        statistics: batch norm's running statistics after this batch, in the form of TrainState.rest.
    """

    mel: jax.Array
    refined: jax.Array
    stop: jax.Array
    alignment: jax.Array
    statistics: dict[str, Any]


class Model(nnx.Module):
    """Encoder, attention decoder, post-net (arXiv 1712.05884 figure 1)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.postnet = Postnet(config, rngs=rngs)
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
        """Each frame from those before it in the recording.

        Args:
            text: [B, S]; text_lengths: [B]. mel: [B, T, M]; mel_lengths: [B]. The padding may hold anything.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.
            key: for the pre-net's dropout (in training, or with `Config.spoken_dropout`) and, in training, all other;
                None is deterministic.
            train: normalise by the statistics of this batch.

        Returns:
            Frames up to the next multiple of R.
        """
        prenet_key, *keys = split_key(key, 5)
        keys = keys if train else [None] * 4
        prenet_key = prenet_key if train or self.config.spoken_dropout else None
        steps = -(-mel.shape[1] // self.config.reduction_factor)
        frames = steps * self.config.reduction_factor
        mask = sequence_mask(mel_lengths, frames)
        mel = masked_fill(jnp.pad(mel, ((0, 0), (0, frames - mel.shape[1]), (0, 0))), mask)
        memory, encoder_statistics = self.encode(text, text_lengths, speaker, key=keys[0], train=train)
        before = mel.reshape(len(mel), steps, -1)[:, :-1, -self.config.told_dim :]  # [B, T / R - 1, R * M or M]
        before = jnp.pad(before, ((0, 0), (1, 0), (0, 0)))
        told = self.decoder.prenet(before.astype(self.config.dtype), key=prenet_key)
        made, stop, alignment = self.decoder(told, memory, keys[1], keys[2])
        made = masked_fill(made.reshape(mel.shape), mask)
        refine = remat(partial(self.postnet, train=train), self.config.remat)
        refinement, postnet_statistics = refine(made, mask, key=keys[3])
        alignment = masked_fill(alignment, mask[:, :: self.config.reduction_factor])
        statistics = {"encoder": encoder_statistics, "postnet": postnet_statistics}
        return Output(made, masked_fill(made + refinement, mask), stop, alignment, statistics)

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
        """The frames that `__call__` makes of a recording's, behind the post-net [B, T, M]; key: of the pre-net."""
        output = self(text, text_lengths, mel, mel_lengths, speaker=speaker, key=key)
        return output.refined[:, : mel.shape[1]]

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
            seeds: of the pre-net's dropout, if `Config.spoken_dropout` has any, uint32 [B]; None for none.
            speaker: ids [B] or embeddings [B, speaker_dim], see Config.

        Returns:
            mel [B, max_frames, M], zero past the end; its lengths [B], max_frames where the item did not stop before;
            alignment [B, max_frames, S].
        """
        factor, batch = self.config.reduction_factor, text.shape[0]
        memory, _ = self.encode(text, text_lengths, speaker)
        seeds = seeds if self.config.spoken_dropout else None
        steps = -(-max_frames // factor)

        def running(loop: tuple) -> jax.Array:
            step, _, _, lengths, _, _ = loop
            return (step < steps) & jnp.any(lengths == 0)

        def advance(loop: tuple) -> tuple:
            step, carry, last, lengths, mels, weights = loop
            x = self.decoder.prenet.step(last, seeds, step)
            carry, (made, stop) = self.decoder.step(carry, x, memory)
            stops = jax.nn.sigmoid(stop) > self.config.stop_threshold
            lengths = jnp.where((lengths == 0) & stops, (step + 1) * factor, lengths)
            mels = jax.lax.dynamic_update_slice(mels, made[None], (step, 0, 0))
            weights = jax.lax.dynamic_update_slice(weights, carry.attention.weights[None], (step, 0, 0))
            return step + 1, carry, made[:, -last.shape[1] :].astype(last.dtype), lengths, mels, weights

        start = (
            jnp.zeros((), jnp.int32),
            self.decoder.init_carry(memory),
            jnp.zeros((batch, self.config.told_dim), self.config.dtype),
            jnp.zeros(batch, jnp.int32),
            jnp.zeros((steps, batch, factor * self.config.num_mels)),
            jnp.zeros((steps, *text.shape)),
        )
        _, _, _, lengths, mels, weights = jax.lax.while_loop(running, advance, start)
        lengths = jnp.where(lengths == 0, max_frames, jnp.minimum(lengths, max_frames))
        mask = sequence_mask(lengths, max_frames)
        mel = masked_fill(mels.swapaxes(0, 1).reshape(batch, -1, self.config.num_mels)[:, :max_frames], mask)
        alignment = jnp.repeat(weights.swapaxes(0, 1), factor, axis=1)[:, :max_frames]  # [B, T, S]
        refinement, _ = self.postnet(mel, mask)
        return masked_fill(mel + refinement, mask), lengths, masked_fill(alignment, mask)

    def encode(
        self,
        text: jax.Array,
        text_lengths: jax.Array,
        speaker: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Memory, dict[str, Any]]:
        """text [B, S] -> what the attention reads, and batch norm's statistics.

        Raises:
            ValueError: the model needs a speaker and got none.
        """
        mask = sequence_mask(text_lengths, text.shape[1])
        read = remat(partial(self.encoder, train=train), self.config.remat)
        values, statistics = read(text, mask, key=key)
        if self.config.speaker_dim:
            if speaker is None:
                raise ValueError(f"speaker is missing: this model has num_speakers={self.config.num_speakers}")
            who = self.speaker_embedding[...][speaker] if self.config.num_speakers > 1 else speaker
            who = jnp.broadcast_to(who[:, None].astype(values.dtype), (*text.shape, self.config.speaker_dim))
            values = jnp.concatenate([values, masked_fill(who, mask)], axis=-1)
        return Memory(values, self.decoder.attention.keys(values), mask), statistics


class Encoder(nnx.Module):
    """Embedding, convolutions with batch norm, a bidirectional LSTM."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        dim = config.encoder_dim
        self.dtype, self.dropout = config.dtype, config.encoder_dropout
        self.embedding = nnx.Param(xavier_uniform(rngs.params(), (config.num_symbols, dim)))
        init = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # torch's gain of ReLU
        self.convs = nnx.List(
            [
                Conv1d(dim, dim, config.encoder_kernel_size, kernel_init=init, rngs=rngs)
                for _ in range(config.encoder_layers)
            ]
        )
        self.norms = nnx.List([BatchNorm(dim) for _ in self.convs])
        self.lstm = Bidirectional(LSTMCell, dim, dim // 2, rngs=rngs)

    def __call__(
        self, text: jax.Array, mask: jax.Array, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """text [B, S], mask [B, S] -> [B, S, C], zero in the padding, and batch norm's statistics."""
        x = self.embedding[...].astype(self.dtype)[jnp.where(mask, text, 0)]
        x, statistics = self.convolve(x, mask, key=key, train=train)
        return self.lstm(x, mask), statistics

    def convolve(
        self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """[B, S, C] -> [B, S, C]."""
        statistics: dict[str, Statistics] = {}
        for i, (conv, norm, k) in enumerate(zip(self.convs, self.norms, split_key(key, len(self.convs)))):
            y, statistics[str(i)] = norm(conv(masked_fill(x, mask)), mask, train=train)
            x = dropout(jax.nn.relu(y), self.dropout, k)
        return x, {"norms": statistics}


class Decoder(nnx.Module):
    """Pre-net, attention LSTM, attention, decoder LSTM, and projections to frames and to the decision to stop."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        width, memory = (c.max_reduction_factor or c.reduction_factor) * c.num_mels, c.memory_dim
        self.prenet = Prenet(c.told_dim, (c.prenet_dim, c.prenet_dim), rate=c.prenet_dropout, bias=False, rngs=rngs)
        self.attention_rnn = LSTMCell(c.prenet_dim + memory, c.attention_rnn_dim, rngs=rngs)
        self.attention = AdditiveAttention(
            c.attention_rnn_dim,
            memory,
            c.attention_dim,
            location=c.location,
            filters=c.location_filters,
            kernel_size=c.location_kernel_size,
            transition=c.transition,
            agent=c.agent,
            norm=c.attention_norm,
            score_bias=c.score_bias,
            rngs=rngs,
        )
        self.decoder_rnn = LSTMCell(c.attention_rnn_dim + memory, c.decoder_rnn_dim, rngs=rngs)
        self.projection = Conv1d(c.decoder_rnn_dim + memory, width, kernel_init=xavier_uniform, rngs=rngs)
        beside = memory if c.stop_input == "context" else width
        self.gate = Conv1d(c.decoder_rnn_dim + beside, 1, kernel_init=xavier_uniform, rngs=rngs)

    def init_carry(self, memory: Memory) -> Carry:
        """Ahead of the first frame."""
        batch, symbols, channels = memory.values.shape
        dtype = memory.values.dtype
        return Carry(
            self.attention_rnn.init_carry(batch, dtype),
            self.decoder_rnn.init_carry(batch, dtype),
            self.attention.init_state(batch, symbols),
            jnp.zeros((batch, channels), dtype),
        )

    def step(self, carry: Carry, x: jax.Array, memory: Memory) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
        """The pre-net's output [B, P] -> the next carry, whose attention has this step's weights; frames [B, R * M]
        and the stop's logits [B], float32."""
        told = self.attention_rnn.project(jnp.concatenate([x, carry.context], axis=-1))
        carry = self._attend(carry, self.attention_rnn.step(carry.attention_rnn, told)[0], memory, None)
        joined = jnp.concatenate([carry.attention_rnn[0], carry.context], axis=-1)
        decoder_rnn, _ = self.decoder_rnn.step(carry.decoder_rnn, self.decoder_rnn.project(joined))
        decoder_rnn, hidden = self._regularized(decoder_rnn, carry.decoder_rnn, None)
        return carry._replace(decoder_rnn=decoder_rnn), self._made(hidden, carry.context)

    def __call__(
        self, x: jax.Array, memory: Memory, attention_key: jax.Array | None = None, decoder_key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All steps of a recording.

        Args:
            x: what the pre-net makes of the frames that each step is told [B, T / R, P].
            attention_key, decoder_key: for the dropout or zoneout of the two LSTMs.

        Returns:
            Frames [B, T / R, R * M], the stop's logits [B, T / R], alignment [B, T / R, S].
        """
        steps = x.shape[1]
        start = self.init_carry(memory)

        def keys(key: jax.Array | None) -> jax.Array | None:
            return None if key is None else jax.random.split(key, steps)

        of_prenet, of_context = jnp.split(self.attention_rnn.input_kernel[...], [x.shape[-1]], axis=1)
        recurrent = jnp.concatenate([self.attention_rnn.hidden_kernel[...], of_context], axis=1)

        def attend(carry: Carry, gates: jax.Array, key: jax.Array | None) -> tuple[Carry, tuple]:
            carry = self._attend(carry, self.attention_rnn.advance(carry.attention_rnn, gates)[0], memory, key)
            return carry, (carry.attention_rnn[0], carry.context, carry.attention.weights)

        def read(carry: Carry) -> jax.Array:
            return jnp.concatenate([carry.attention_rnn[0], carry.context], axis=-1)

        def decode(carry: tuple, gates: jax.Array, key: jax.Array | None) -> tuple[tuple, jax.Array]:
            return self._regularized(self.decoder_rnn.advance(carry, gates)[0], carry, key)

        save = self.config.remat
        told = product(x, of_prenet) + self.attention_rnn.input_bias[...].astype(x.dtype)  # [B, T / R, 4 * H]
        told = told.swapaxes(0, 1)
        _, found = recurrence(attend, read, recurrent, start, told, keys(attention_key), save=save)
        hidden, contexts, weights = found
        told = self.decoder_rnn.project(jnp.concatenate([hidden, contexts], axis=-1))
        kernel, first = self.decoder_rnn.hidden_kernel[...], start.decoder_rnn
        _, hidden = recurrence(decode, lambda carry: carry[0], kernel, first, told, keys(decoder_key), save=save)
        made, stop = self._made(hidden, contexts)
        return made.swapaxes(0, 1), stop.T, weights.swapaxes(0, 1)

    def _attend(self, carry: Carry, state: tuple, memory: Memory, key: jax.Array | None) -> Carry:
        """The attention, given the next state of its LSTM."""
        keys = split_key(key, 2)
        state, hidden = self._regularized(state, carry.attention_rnn, keys[0])
        attention, context = self.attention.step(
            carry.attention, hidden, memory.values, memory.keys, memory.mask, key=keys[1]
        )
        return Carry(state, carry.decoder_rnn, attention, context)

    def _regularized(self, new: tuple, old: tuple, key: jax.Array | None) -> tuple[tuple, jax.Array]:
        """An LSTM's state after zoneout, or with dropout of its output, which is also what the next step sees."""
        if self.config.zoneout:
            new = self._zoneout(new, old, key)
        else:
            new = (dropout(new[0], self.config.recurrent_dropout, key), new[1])
        return new, new[0]

    def _zoneout(self, new: tuple, old: tuple, key: jax.Array | None) -> tuple:
        rate = self.config.recurrent_dropout
        if key is None:
            return tuple(rate * a + (1 - rate) * b for a, b in zip(old, new))
        scale = 1 - rate  # dropout's own scaling of what it keeps is taken back
        return tuple(a + scale * dropout(b - a, rate, k) for a, b, k in zip(old, new, split_key(key, 2)))

    def _made(self, hidden: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The decoder's state [..., H], the context [..., C] -> frames [..., R * M], the stop's logits [...]."""
        joined = jnp.concatenate([hidden, context], axis=-1)
        made = self.projection(joined)
        if self.config.stop_input == "frames":
            joined = jax.lax.stop_gradient(jnp.concatenate([hidden, made], axis=-1))
        made = made[..., : self.config.reduction_factor * self.config.num_mels]
        return made.astype(jnp.float32), self.gate(joined)[..., 0].astype(jnp.float32)


class Postnet(nnx.Module):
    """Convolutions with batch norm that add detail to the mel, tanh between them."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.dtype, self.dropout = c.dtype, c.postnet_dropout
        widths = [c.num_mels, *[c.postnet_dim] * (c.postnet_layers - 1), c.num_mels]
        inits = [nnx.initializers.variance_scaling(TANH_GAIN**2, "fan_avg", "uniform")] * (c.postnet_layers - 1)
        self.convs = nnx.List(
            [
                Conv1d(i, o, c.postnet_kernel_size, kernel_init=init, rngs=rngs)
                for i, o, init in zip(widths, widths[1:], [*inits, xavier_uniform])
            ]
        )
        self.norms = nnx.List([BatchNorm(width) for width in widths[1:]])

    def __call__(
        self, mel: jax.Array, mask: jax.Array, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """mel [B, T, M], mask [B, T] -> what is to be added [B, T, M] in float32, and batch norm's statistics."""
        x, last = mel.astype(self.dtype), len(self.convs) - 1
        statistics: dict[str, Statistics] = {}
        for i, (conv, norm, k) in enumerate(zip(self.convs, self.norms, split_key(key, len(self.convs)))):
            y, statistics[str(i)] = norm(conv(masked_fill(x, mask)), mask, train=train)
            x = dropout(jnp.tanh(y) if i < last else y, self.dropout, k)
        return x.astype(jnp.float32), {"norms": statistics}
