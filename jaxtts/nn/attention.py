"""Attention: within a sequence (Transformer), and from a decoder that steps along it (additive, location-sensitive).

Self-attention with relative positions (arXiv 1803.02155) makes the Transformer encoder of Glow-TTS and VITS. Additive
attention (arXiv 1409.0473) serves the Tacotrons, with what makes it find and keep its place: the location it has been
at (arXiv 1506.07503), and transitions that cannot but move forward (arXiv 1807.06736, 1906.00672).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import dropout, remat, split_key
from jaxtts.nn.masking import masked_fill
from jaxtts.nn.normalization import LayerNorm

TANH_GAIN = 5 / 3  # torch's gain of layers that feed a tanh


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Glorot's uniform initialisation of a kernel [W, I, O]."""
    return nnx.initializers.xavier_uniform()(key, shape, dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention; positions enter as one embedding per distance, shared by the heads.

    Distances beyond `window` add nothing. Parameters `query`, `key`, `value`, `out` (1x1 convolutions) and, with a
    window, `key_positions`, `value_positions` [2 * window + 1, D], entry r standing for the key r - window symbols on.
    """

    def __init__(
        self, channels: int, num_heads: int, *, window: int | None = None, dropout: float = 0.0, rngs: nnx.Rngs
    ):
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide channels={channels}")
        self.num_heads, self.window, self.dropout = num_heads, window, dropout
        self.query = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.key = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.value = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.out = Conv1d(channels, channels, rngs=rngs)
        if window is not None:
            shape = (2 * window + 1, channels // num_heads)
            scale = shape[1] ** -0.5
            self.key_positions = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
            self.value_positions = nnx.Param(scale * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], finite everywhere, mask [B, S] -> [B, S, C]; padded rows hold numbers of no meaning."""
        batch, length, channels = x.shape
        heads = (batch, length, self.num_heads, channels // self.num_heads)
        q = self.query(x).reshape(heads) * heads[-1] ** -0.5
        k, v = self.key(x).reshape(heads), self.value(x).reshape(heads)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k)
        if self.window is not None:
            near = jnp.einsum("bihd,rd->bhir", q, self.key_positions[...].astype(x.dtype))
            scores = scores + _by_position(near, self.window)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.asarray(-1e4, scores.dtype))
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(x.dtype)
        weights = dropout(weights, self.dropout, key)
        y = jnp.einsum("bhij,bjhd->bihd", weights, v)
        if self.window is not None:
            near = _by_distance(weights, self.window)
            y = y + jnp.einsum("bhir,rd->bihd", near, self.value_positions[...].astype(x.dtype))
        return self.out(y.reshape(x.shape))


class TransformerEncoder(nnx.Module):
    """Post-norm Transformer whose feed-forward layers are convolutions (arXiv 2005.11129 appendix A.1).

    Args:
        window: reach of the relative positions, None for none.
        eps: of the layer norms.
        remat: keep the layers' inputs alone for the way back.
    """

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        num_heads: int,
        num_layers: int,
        kernel_size: int,
        *,
        window: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-5,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        args = (channels, ffn_channels, num_heads, kernel_size, window, dropout, eps)
        self.layers = nnx.List([TransformerLayer(*args, rngs=rngs) for _ in range(num_layers)])

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], mask [B, S] -> [B, S, C], zero in the padding."""
        x = masked_fill(x, mask)
        for layer, k in zip(self.layers, split_key(key, len(self.layers))):
            x = remat(layer, self.remat)(x, mask, key=k)
        return x


class TransformerLayer(nnx.Module):
    """Attention, then two convolutions with ReLU, each added to its input and normalised."""

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        num_heads: int,
        kernel_size: int,
        window: int | None,
        dropout: float,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.attention = SelfAttention(channels, num_heads, window=window, dropout=dropout, rngs=rngs)
        self.attention_norm = LayerNorm(channels, eps=eps)
        self.ffn_in = Conv1d(channels, ffn_channels, kernel_size, rngs=rngs)
        self.ffn_out = Conv1d(ffn_channels, channels, kernel_size, rngs=rngs)
        self.ffn_norm = LayerNorm(channels, eps=eps)

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], zero in the padding, mask [B, S] -> the same."""
        keys = split_key(key, 4)
        y = self.attention(x, mask, key=keys[0])
        x = masked_fill(self.attention_norm(x + dropout(y, self.dropout, keys[1])), mask)
        y = dropout(jax.nn.relu(self.ffn_in(x)), self.dropout, keys[2])
        y = self.ffn_out(masked_fill(y, mask))
        return masked_fill(self.ffn_norm(x + dropout(y, self.dropout, keys[3])), mask)


def _by_position(near: jax.Array, window: int) -> jax.Array:
    """[B, H, S, 2w + 1] by distance -> [B, H, S, S] by key, 0 beyond the window.

    Rows padded to a width of S + 2w + 1 and read back with a width of S + 2w slide right by one more each row.
    """
    batch, heads, length, _ = near.shape
    x = jnp.pad(near, ((0, 0), (0, 0), (0, 0), (0, length)))
    x = x.reshape(batch, heads, -1)[..., : length * (length + 2 * window)]
    return x.reshape(batch, heads, length, -1)[..., window : window + length]


def _by_distance(weights: jax.Array, window: int) -> jax.Array:
    """[B, H, S, S] by key -> [B, H, S, 2w + 1] by distance: the inverse of `_by_position` within the window."""
    batch, heads, length, _ = weights.shape
    x = jnp.pad(weights, ((0, 0), (0, 0), (0, 0), (window, window))).reshape(batch, heads, -1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, length)))
    return x.reshape(batch, heads, length, -1)[..., : 2 * window + 1]


class AttentionState(NamedTuple):
    """What the next step of `AdditiveAttention` knows of those before, all [B, S] in float32 but the last.

    Attributes:
        weights: of the last step; zero ahead of the first.
        cumulative: the sum of the weights so far (ahead of any transition, as coqui-tts has it).
        place: where it is, as the forward and stepwise transitions count: symbol 0 ahead of the first step.
        move: the probability of moving on [B, 1].
    """

    weights: jax.Array
    cumulative: jax.Array
    place: jax.Array
    move: jax.Array


class Keys(NamedTuple):
    """A memory as queries see it: its content [B, S, D], and the location layer's taps [W, 1 or 2, D] or None."""

    content: jax.Array
    taps: jax.Array | None = None


class AdditiveAttention(nnx.Module):
    """energy = v . tanh(query + key + location), over the symbols of a memory; one call of `step` for each frame.

    Parameters `query`, `key`, `score` (1x1 convolutions), with a location `location_conv` and `location_dense`, with a
    transition agent `agent`.

    Args:
        query_dim, memory_dim, dim: of the query, the memory, and the space they are compared in.
        location: channels that the location layer sees: 0 none (Bahdanau), 1 the cumulative weights, 2 those of the
            last step and the cumulative ones.
        filters, kernel_size: of the location layer.
        norm: 'softmax', or 'sigmoid': sigmoid(energy) over its sum.
        transition: None; 'forward' (arXiv 1807.06736 eq. 7): weights are those places that staying or moving by one
            symbol can reach; 'stepwise' (arXiv 1906.00672 eq. 9): sigmoid(energy) is the probability to stay.
        agent: a forward transition moves with a learned probability in place of 0.5 (sec. 3.2).
        query_bias, score_bias, location_bias: which layers have a bias; the reference implementations differ.
    """

    masked_energy = -jnp.inf  # of the padding

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        dim: int,
        *,
        location: int = 2,
        filters: int = 32,
        kernel_size: int = 31,
        norm: str = "softmax",
        transition: str | None = None,
        agent: bool = False,
        query_bias: bool = False,
        score_bias: bool = False,
        location_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        if norm not in ("softmax", "sigmoid"):
            raise ValueError(f"norm={norm!r}: use 'softmax' or 'sigmoid'")
        if transition not in (None, "forward", "stepwise"):
            raise ValueError(f"transition={transition!r}: use None, 'forward' or 'stepwise'")
        self.location, self.norm, self.transition = location, norm, transition
        init = nnx.initializers.variance_scaling(TANH_GAIN**2, "fan_avg", "uniform")
        self.query = Conv1d(query_dim, dim, bias=query_bias, kernel_init=init, rngs=rngs)
        self.key = Conv1d(memory_dim, dim, bias=False, kernel_init=init, rngs=rngs)
        self.score = Conv1d(dim, 1, bias=score_bias, kernel_init=xavier_uniform, rngs=rngs)
        if location:
            self.location_conv = Conv1d(
                location, filters, kernel_size, bias=location_bias, kernel_init=xavier_uniform, rngs=rngs
            )
            self.location_dense = Conv1d(filters, dim, bias=False, kernel_init=init, rngs=rngs)
        if agent:
            self.agent = Conv1d(memory_dim + query_dim, 1, rngs=rngs)

    def init_state(self, batch: int, symbols: int) -> AttentionState:
        """The state ahead of the first step."""
        zeros = jnp.zeros((batch, symbols))
        place = zeros.at[:, 0].set(1.0)
        if self.transition == "forward":
            place = place.at[:, 1:].set(1e-7)
        return AttentionState(zeros, zeros, place, jnp.full((batch, 1), 0.5))

    def keys(self, memory: jax.Array) -> "Keys":
        """[B, S, C] -> what `step` compares queries with, the same for all steps."""
        keys = self.key(memory)
        if not self.location:
            return Keys(keys)
        # Convolution and dense layer as one matrix for all taps: in a loop, an eighth of the convolution's gradient.
        dense = self.location_dense.kernel[...][0].astype(keys.dtype)  # [F, D]
        if self.location_conv.bias is not None:
            keys = keys + self.location_conv.bias[...].astype(keys.dtype) @ dense
        taps = self.location_conv.kernel[...].astype(keys.dtype) @ dense  # [W, 1 or 2, D]
        return Keys(keys, taps)

    def step(
        self,
        state: AttentionState,
        query: jax.Array,
        memory: jax.Array,
        keys: "Keys",
        mask: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> tuple[AttentionState, jax.Array]:
        """One frame.

        Args:
            query: [B, Q]; memory: [B, S, C], zero in the padding; keys: of the memory; mask: [B, S].
            key: in training, for the noise that makes stepwise decisions hard; others draw nothing.

        Returns:
            The state, whose `weights` [B, S] are this step's, and the context [B, C].
        """
        # Its insides, the largest part of what a loop would keep for the way back, are computed again instead.
        energy = jax.checkpoint(self._energy)(self.query(query), keys, state)
        energy = jnp.where(mask, energy, self.masked_energy)
        if self.transition == "stepwise":
            if key is not None:
                energy = energy + 2.0 * jax.random.normal(key, energy.shape)
            stay = jax.nn.sigmoid(energy)
            normal = weights = jnp.where(mask, state.place * stay + _moved(state.place * (1 - stay)), 0.0)
        else:
            normal = weights = self._normalize(energy)
        if self.transition == "forward":
            reached = (1 - state.move) * state.place + state.move * _moved(state.place) + 1e-8
            weights = reached * normal
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        context = jnp.einsum("bs,bsc->bc", weights.astype(memory.dtype), memory)
        move = state.move
        if hasattr(self, "agent"):
            both = jnp.concatenate([context, query], axis=-1)
            move = jax.nn.sigmoid(self.agent(both).astype(jnp.float32))
        return AttentionState(weights, state.cumulative + normal, weights, move), context

    def __call__(self, queries: jax.Array, memory: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All frames of queries that are known ahead [B, T, Q] -> contexts [B, T, C], weights [B, T, S]."""
        keys = self.keys(memory)
        state = self.init_state(*mask.shape)
        if not self.location and self.transition is None:
            energy = self._score(self.query(queries)[:, :, None] + keys.content[:, None])
            weights = self._normalize(jnp.where(mask[:, None], energy, self.masked_energy))
            return jnp.einsum("bts,bsc->btc", weights.astype(memory.dtype), memory), weights

        def step(state: AttentionState, query: jax.Array) -> tuple[AttentionState, Any]:
            state, context = self.step(state, query, memory, keys, mask)
            return state, (context, state.weights)

        _, (contexts, weights) = jax.lax.scan(step, state, queries.swapaxes(0, 1))
        return contexts.swapaxes(0, 1), weights.swapaxes(0, 1)

    def _energy(self, query: jax.Array, keys: "Keys", state: AttentionState) -> jax.Array:
        """[B, S] of a query [B, D]."""
        total = query[:, None] + keys.content
        if keys.taps is not None:
            width = len(keys.taps)
            been = jnp.stack([state.weights, state.cumulative][2 - self.location :], axis=-1)  # [B, S, 1 or 2]
            been = jnp.pad(been.astype(total.dtype), ((0, 0), (width // 2, width // 2), (0, 0)))
            windows = [been[:, w : w + total.shape[1]] for w in range(width)]
            total = total + jnp.concatenate(windows, axis=-1) @ keys.taps.reshape(-1, total.shape[-1])
        return self._score(total)

    def _score(self, total: jax.Array) -> jax.Array:
        """[..., S, D] -> [..., S] in float32."""
        return self.score(jnp.tanh(total))[..., 0].astype(jnp.float32)

    def _normalize(self, energy: jax.Array) -> jax.Array:
        if self.norm == "softmax":
            return jax.nn.softmax(energy, axis=-1)
        y = jax.nn.sigmoid(energy)
        return y / jnp.sum(y, axis=-1, keepdims=True)


def _moved(x: jax.Array) -> jax.Array:
    """[B, S] one symbol further."""
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
